"""SparseVLM+ (version 2.0 of SparseVLM's code): raters' attention without the pull of positions, by priority heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunevid_qwen.config.method_options.sparsevlm_plus import PLUS_TABLE, SparseVLMPlusOptions
from prunevid_qwen.config.schedules import PAPER_TOKENS, TABLE_LAYERS
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.stage2_select.raters import raters
from prunevid_qwen.stage2_select.schedule import Schedules, between, check_budget, entered, spending
from prunevid_qwen.stage2_select.topk import best_of_each
from prunevid_qwen.tokens import TokenMap


@register("sparsevlm_plus", SparseVLMPlusOptions)
@dataclass(frozen=True)
class SparseVLMPlus(SparseVLMPlusOptions):
    """SparseVLM+'s selection, written from a description of its authors' code.

    Raters are chosen once, at the decoder's door. Their attention is divided by the attention that positions alone
    give (`AttentionQuery.gravity`), and the heads that attend most to visual tokens decide. Tokens keep their
    positions. Each video or image has its own budget, where the code has one image. State: one number for each token.

    Options: see `SparseVLMPlusOptions`.
    """

    several: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """The layer's own attention from the raters, mean over heads and raters; at the door the text's embeddings.

        Nothing if all are kept.
        """
        if self.keep_ratio == 1:
            return Needs()
        heads = self.priority_heads
        return Needs(
            AttentionQuery(heads="mean", rows="mean", tokens="noted", top_heads=heads, gravity=True), question="all"
        )

    def check_places(self, places: Sequence[int], depth: int) -> None:
        """Refuse a number of cuts that the schedule is not for, and a budget that these cuts cannot meet.

        Raises:
            ConfigError: so it is.
        """
        cuts = len(self.kept or TABLE_LAYERS)
        if self.keep_ratio is not None or self.keep_tokens is not None:
            if len(places) not in (1, cuts):
                raise ConfigError(f"sparsevlm_plus spends a budget at {cuts} steps or at one, and has {len(places)}")
            check_budget(_schedules(len(places)), self, places, depth, "sparsevlm_plus")
        elif len(places) != cuts:
            raise ConfigError(
                f"sparsevlm_plus has a schedule of {cuts} cuts and {len(places)} steps: give `kept` for each"
            )

    def prepare(self, seen: Evidence) -> Tensor:
        """Choose the raters, [Q] bool: see `raters`."""
        return raters(seen)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep of each video and image what the raters attend to most.

        Raises:
            ValueError: the evidence holds no attention, [N].
            ConfigError: ``keep_tokens`` is below what the layers before the first cut see.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None or seen.attention.dim() != 1:
            raise ValueError("sparsevlm_plus selects by attention: gather what its `needs` asks for")
        blocks = seen.layout.blocks
        sizes = [block.stop - block.start for block in blocks]
        counts = [self._count(tokens, size, seen) for tokens, size in zip(entered(seen), sizes, strict=True)]
        return TokenMap.keep(best_of_each(seen.attention, blocks, counts), seen.attention.numel())

    def _count(self, tokens: int, size: int, seen: Evidence) -> int:
        """What this cut leaves of a video or image, of which ``tokens`` came to the first cut and ``size`` to this."""
        if self.keep_ratio is not None or self.keep_tokens is not None:
            cuts = len(seen.steps_at) or 1
            return max(1, between(spending(_schedules(cuts), self, tokens, seen), tokens, cuts, PLUS_TABLE)[seen.step])
        if self.kept is None:
            kept = tokens * PLUS_TABLE[self.retained_tokens][seen.step] // PAPER_TOKENS
        else:
            own = self.kept[seen.step]
            kept = own if isinstance(own, int) else int(tokens * own)
        return max(1, min(kept, size - 1))  # as in the authors' code, one is always cut


def _schedules(cuts: int) -> Schedules:
    def left(tokens: int, x: float) -> list[int]:
        out, n = [], tokens
        for kept in between(x, tokens, cuts, PLUS_TABLE):
            n = min(n, max(1, kept))
            out.append(n)
        return out

    return left
