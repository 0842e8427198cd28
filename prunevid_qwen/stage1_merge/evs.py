"""Efficient Video Sampling (arXiv 2510.14624): the tokens that differ most from the same place a moment before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.method_options.evs import EVSOptions
from prunevid_qwen.kernels.cosines import PIECE_BYTES, SAME
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.tokens import Block, TokenMap


@register("evs", EVSOptions, stage=1)
@dataclass(frozen=True)
class EVS(EVSOptions):
    """Keep a video's first temporal position, and of the others the tokens that changed most since the one before.

    Written from the paper's formulas. How many are left depends on the grid alone, never on the content. Images pass.
    Memory: one piece of the frames and one number for each token.

    Options: see `EVSOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: no video, or the budget is every token of each."""
        grids = grids_of(blocks, merge_images=False)
        if not grids:
            return IMAGES_PASS
        if all(t == 1 for t, _, _ in grids):
            return "nothing to do: the first temporal position of a video stays whole"
        if all(self.count_in(grid) == grid[0] * grid[1] * grid[2] for grid in grids):
            return "nothing to do: the budget is every token"
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep what changed in each video.

        Raises:
            ValueError: a video is not whole.
        """

        def changed(grid: tuple[int, int, int], tokens: Tensor) -> TokenMap:
            size, count = tokens.shape[0], self.count_in(grid)
            if count == size:
                return TokenMap.identity(size, tokens.device)
            order = changes(tokens.view(grid[0], grid[1] * grid[2], -1)).flatten().argsort(descending=True, stable=True)
            return TokenMap.keep(order[:count], size)

        return each_video(seen, False, changed)


def changes(x: Tensor) -> Tensor:
    """Measure how much each token differs from the same place in the frame before: 1 - cos, [F, n] fp32.

    Args:
        x: [F, n, C] of any float dtype. A zero vector differs by 1 from every other.

    Returns:
        inf in the first frame, 0 for a token of the direction of the one before.
    """
    frames, n, width = x.shape
    out = torch.full((frames, n), torch.inf, dtype=torch.float32, device=x.device)
    some = max(1, PIECE_BYTES // (8 * max(1, n * width)))
    for first in range(0, frames - 1, some):
        part = torch.nn.functional.normalize(x[first : first + some + 1].detach().float(), dim=2)
        change = 1 - (part[1:] * part[:-1]).sum(dim=2)
        out[first + 1 : first + 1 + change.shape[0]] = change.masked_fill_(change < SAME, 0.0)
    return out
