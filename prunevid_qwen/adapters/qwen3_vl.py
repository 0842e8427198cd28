"""Qwen3-VL, dense and MoE: a timestamp before each frame of a video, DeepStack (arXiv 2511.21631)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.positions import reference_positions
from prunevid_qwen.adapters.prompt_layout import layout_of
from prunevid_qwen.adapters.qwen_vl import QwenVL
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.tokens import TokenLayout


@register_family("qwen3_vl_moe", frontend="qwen3", name="Qwen3-VL-MoE", checkpoints="Qwen/Qwen3-VL-*-A*")
@register_family("qwen3_vl", frontend="qwen3", name="Qwen3-VL", checkpoints="Qwen/Qwen3-VL-*")
class Qwen3VL(QwenVL):
    """Qwen3-VL: the frames of a video stand apart, each between brackets and behind its time, which is text.

    A frame has one time position, so positions tell no video from several images: grids are noted.

    Args:
        model: a loaded ``Qwen3VLForConditionalGeneration`` or ``Qwen3VLMoeForConditionalGeneration``.
    """

    timestamped = True
    noted = ("image", "video")
    pixel_std = (0.5, 0.5, 0.5)
    named: tuple[str, ...] = (
        "inputs_embeds",
        "position_ids",
        "attention_mask",
        "visual_pos_masks",
        "deepstack_visual_embeds",
    )

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.deepstack = len(getattr(self.config.vision_config, "deepstack_visual_indexes", ()))

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Read the grids off what features were asked for with; features that were made elsewhere do not tell."""
        grids = given.get(f"{kind}_grid_thw")
        return None if grids is None else [PictureGrid(kind, grid) for grid in self._merged(grids)]

    def layout(
        self, ids: Tensor, positions: Tensor | None, question_end: int, shown: Sequence[PictureGrid] = ()
    ) -> TokenLayout | None:
        """Say what each token of one unpadded sample is; None when it has no visual token.

        Raises:
            ConfigError: no token follows the last visual one.
        """
        layout = layout_of(self.types(ids), shown, question_end)
        return layout and replace(layout, words=self._words(ids[layout.question].tolist()))

    def framed(self, layout: TokenLayout, ids: Tensor) -> TokenLayout:
        """Say in a layout which text belongs to which frame of a video: its timestamp and its brackets.

        Between two frames of a video stands nothing but the time of the second. Before a first frame stands other text
        too: its time begins where the nearest token stands that begins the time of another frame, not further away than
        twice the longest of these. Where there is none, a frame that loses its tokens leaves its text.

        The question begins behind the last frame.
        """
        frames = torch.full((layout.length,), -1, dtype=torch.long, device=ids.device)
        opens, closes = self.config.vision_start_token_id, self.config.vision_end_token_id
        ids_of, runs = ids.tolist(), layout.run_of
        spans: list[tuple[int, int, bool]] = []  # of the visual tokens of each frame, and whether it is a video's first
        for block in layout.blocks:
            own = runs[block.start : block.stop]
            for number in own.unique().tolist() if block.kind == "video" else ():
                at = layout.visual[block.start : block.stop][own == number]
                spans.append((int(at[0]), int(at[-1]) + 1, number == int(own[0])))
        inner = [(before[1] + 1, start - 1) for before, (start, _, first) in pairwise(spans) if not first]
        begins, longest = {ids_of[a] for a, b in inner if a < b}, max((b - a for a, b in inner), default=0)
        for number, (start, stop, first) in enumerate(spans):
            bracketed = ids_of[start - 1] == opens and ids_of[stop : stop + 1] == [closes]
            before = spans[number - 1][1] + 1 if number else 0
            if first:
                near = range(start - 2, max(before, start - 2 - 2 * longest) - 1, -1)
                before = next((at for at in near if ids_of[at] in begins), -1)
            if bracketed and before >= 0:
                frames[before : stop + 1] = number
        return self._asked_behind(layout, frames)

    def _asked_behind(self, layout: TokenLayout, frames: Tensor) -> TokenLayout:
        """Let the question of a layout begin behind the bracket of its last frame, if anything follows that."""
        words, bracket = layout.words, int(frames[layout.question[0]]) >= 0
        if bracket and layout.question.numel() == 1:
            frames[layout.question] = -1  # it asks, and so it stays
        elif bracket:
            words = None if words is None else (words[0] - 1, words[1] - 1)
            layout = replace(layout, question=layout.question[1:], words=words)
        return replace(layout, frames=frames)

    def reference_positions(
        self,
        input_ids: Tensor,
        mm_token_type_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Any = None,
        attention_mask: Tensor | None = None,
        **_others: Any,
    ) -> tuple[Tensor, Tensor]:
        """Stand in for the library's `get_rope_index`, whose positions are those of the training.

        Args:
            input_ids: [B, S]; the types are read from the ids themselves.
            mm_token_type_ids: accepted as the library passes it, not needed.
            image_grid_thw: [images, 3] patches.
            video_grid_thw: [videos, 3] patches.
            second_per_grid_ts: not needed: a frame's time is text.
            attention_mask: [B, S], 0 on padding.

        Raises:
            ConfigError: placeholders and grids do not belong together.
        """
        frames = [(1, h, w) for t, h, w in self._merged(video_grid_thw) for _ in range(t)]
        try:
            return reference_positions(
                self.types(input_ids), attention_mask, self._merged(image_grid_thw), frames, None, None
            )
        except ValueError as error:
            raise ConfigError(f"placeholders and grids do not match ({error}): pass both unchanged") from error

    def check_release(self) -> None:
        """Say what is known of the installed release and this family: nothing."""

    def door_mask(self, mask: Any) -> Any:
        """Make of a layer's finished mask what the decoder takes as it is: the mask itself."""
        return mask

    def take_deepstack(self, kwargs: dict[str, Any]) -> tuple[Tensor, list[Tensor]] | None:
        """Take what the decoder is to add after its first layers out of its call, which then adds nothing."""
        mask, levels = kwargs.get("visual_pos_masks"), kwargs.get("deepstack_visual_embeds")
        kwargs.update(visual_pos_masks=None, deepstack_visual_embeds=None)
        return None if mask is None or levels is None else (mask, list(levels))

    def give_deepstack(self, kwargs: dict[str, Any], mask: Tensor, levels: list[Tensor]) -> None:
        """Put into a call of the decoder what it is to add after its first layers."""
        kwargs.update(visual_pos_masks=mask, deepstack_visual_embeds=levels)
