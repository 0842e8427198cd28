"""Uniform selection before the decoder: a coarser grid over time and space, by dropping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import UniformMergeOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, equal_boxes, middle, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap


@register("uniform", UniformMergeOptions, stage=1)
@dataclass(frozen=True)
class UniformMerge(UniformMergeOptions):
    """Keep ``max(1, int(n * cluster_ratio))`` tokens of each video on a grid over time, rows and columns.

    They are the middles of the cells that `Pool` averages.

    Options: see `UniformMergeOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Space the kept tokens of each video equally.

        Raises:
            ValueError: a video is not whole, or ``cluster_ratio`` is out of range.
        """

        def space(grid: tuple[int, int, int], tokens: torch.Tensor) -> TokenMap:
            n = tokens.shape[0]
            kept = [middle(grid, box) for box in equal_boxes(grid, count_of(n, self.cluster_ratio, self.keep_tokens))]
            return TokenMap.keep(torch.tensor(kept, device=tokens.device), n)

        return each_video(seen, self.merge_images, space)
