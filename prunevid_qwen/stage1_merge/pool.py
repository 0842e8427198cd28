"""Average pooling before the decoder: equal cells of the grid, whatever they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import PoolOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, equal_boxes, middle, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap


@register("pool", PoolOptions, stage=1)
@dataclass(frozen=True)
class Pool(PoolOptions):
    """Average each video over ``max(1, int(n * cluster_ratio))`` contiguous cells of its grid, as equal as can be.

    Where the grid divides evenly this is three-dimensional average pooling. A cell takes the position of its middle.

    Options: see `PoolOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Average the cells of each video.

        Raises:
            ValueError: a video is not whole, or ``cluster_ratio`` is out of range.
        """

        def average(grid: tuple[int, int, int], tokens: torch.Tensor) -> TokenMap:
            boxes = equal_boxes(grid, count_of(tokens.shape[0], self.cluster_ratio, self.keep_tokens))
            cell = torch.empty(grid, dtype=torch.long)
            for number, (times, rows, columns) in enumerate(boxes):
                cell[times.start : times.stop, rows.start : rows.stop, columns.start : columns.stop] = number
            middles = torch.tensor([middle(grid, box) for box in boxes])
            return TokenMap(cell.flatten().to(tokens.device), middles.to(tokens.device))

        return each_video(seen, self.merge_images, average)
