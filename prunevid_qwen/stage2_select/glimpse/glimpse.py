"""GlimpsePrune's selection (arXiv 2508.01548): a trained predictor reads a glimpse token's attention and decides."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunevid_qwen.config.methods import GlimpseOptions
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.reducer import Evidence, Needs, Probe, VisionQuery, register
from prunevid_qwen.stage2_select.glimpse.predictor import GlimpseVIP, load_predictor
from prunevid_qwen.stage2_select.threshold import Budget
from prunevid_qwen.tokens import TokenLayout, TokenMap


@register("glimpse", GlimpseOptions)
@dataclass(frozen=True)
class Glimpse:
    """Keep what a trained predictor takes for needed: as many tokens as there are above the threshold.

    A glimpse token follows the prompt through the first layers; its attention logits and four blocks of the vision
    encoder go through the VIP, which sees one image, or one temporal position of a video, at a time.

    Args:
        predictor: the VIP with its glimpse vectors.
        budget: threshold, cap, floor or fixed share.

    Differs from the authors' code: the glimpse token runs beside the prompt, not inside it, so that it can leave no
    trace; videos, batches and merged tokens work. A merged token has the attention its mean embedding gets, the mean of
    its members' taps, and the row, column and temporal position of its group's place.
    """

    predictor: GlimpseVIP = field(repr=False)
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def from_options(cls, options: GlimpseOptions) -> Glimpse:
        """Load the predictor that the options name, and take the budget from them.

        Raises:
            ConfigError, SetupError, UnsupportedError: as in `GlimpseVIP.from_pretrained`.
        """
        return cls(load_predictor(options.glimpse_path), Budget.of(options))

    @property
    def needs(self) -> Needs:
        """The glimpse token as a probe, blocks of the vision encoder, the layer it was trained for."""
        facts = self.predictor.facts
        if self.budget.keep_ratio == 1:
            return Needs(layers=(facts.reduce_layer + 1,), square_images=facts.pad_to_square)
        return Needs(
            probe=Probe(
                self.predictor.glimpse_vectors[:, None],
                facts.selected_layers,
                facts.heads,
                softmax=not facts.use_attention_logits,
            ),
            vision=VisionQuery(facts.selected_visual_layers, facts.vision_width),
            layers=(facts.reduce_layer + 1,),
            square_images=facts.pad_to_square,
        )

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the tokens that the predictor takes for needed.

        Raises:
            ValueError: the evidence holds no probe or no states of the vision tower.
        """
        if self.budget.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        logits = self.logits(seen)
        return TokenMap.keep(self.budget.choose(logits, logits.sigmoid(), seen.layout), logits.numel())

    def logits(self, seen: Evidence) -> Tensor:
        """Score every visual token, [N] fp32: above 0 where it is more likely needed than not.

        Raises:
            ValueError: the evidence holds no probe or no states of the vision tower.
        """
        if seen.probe is None or seen.vision is None:
            raise ValueError("glimpse reads its probe and the vision tower: gather what its `needs` asks for")
        states = seen.vision["states"]
        attention = seen.probe[:, :, 0].flatten(0, 1).T  # [N, L * H], layer by layer
        image, rows, columns, sizes = frames_of(seen.layout)
        predictor = self.predictor.at(attention.device)
        if image is None:
            return predictor.vip(attention, states, rows, columns, sizes)  # type: ignore[no-any-return]
        order = image.argsort(stable=True)
        scored = predictor.vip(attention[order], states[:, order], rows[order], columns[order], sizes)
        logits = torch.empty_like(scored)
        logits[order] = scored
        return logits


def frames_of(layout: TokenLayout) -> tuple[Tensor | None, Tensor, Tensor, list[int]]:
    """Say of which image (temporal position of a video) each visual token is, and where in it it stands.

    Returns:
        [N] int64 images in the order of blocks and time, or None where tokens stand in that order already; [N] rows and
        [N] columns; tokens of each image, some perhaps 0. The host asks the device only where tokens were merged.

    Raises:
        UnsupportedError: a video or image has tokens without a place, of which the predictor knows nothing.
    """
    if any(block.unplaced for block in layout.blocks):
        raise UnsupportedError(
            "glimpse reads tokens by their row and column, and this model's images or videos have some without (a "
            "newline, CLS): choose another selector"
        )
    cells = layout.cell_of
    whole = layout.cells is None
    rows, columns, images, sizes, before = [], [], [], [], 0
    for block in layout.blocks:
        t, h, w = block.grid
        own = cells[block.start : block.stop]
        rows.append(own % (h * w) // w)
        columns.append(own % w)
        images.append(own // (h * w) + before)
        sizes += [h * w] * t
        before += t
    if whole:
        return None, torch.cat(rows), torch.cat(columns), sizes
    image = torch.cat(images)
    return image, torch.cat(rows), torch.cat(columns), torch.bincount(image, minlength=before).tolist()
