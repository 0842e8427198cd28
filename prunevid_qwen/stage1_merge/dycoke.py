"""DyCoke's temporal token merging: in groups of four frames, a frame loses the tokens that an earlier one shows too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunevid_qwen.config.method_options import DyCokeOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.device import tensor_on

GROUP = 4
"""Frames of a group: the second is compared with the first, the fourth with the third, the third with the first."""

_BYTES = 2**26  # of a copy of some frames in fp32: a long video is read in parts


@register("dycoke", DyCokeOptions, stage=1)
@dataclass(frozen=True)
class DyCoke(DyCokeOptions):
    """Drop the tokens of a frame that are most like those at the same place in an earlier frame of its group.

    Tao and others, "DyCoke" (arXiv 2411.15024), first stage. The paper's second stage, another choice of cached tokens
    in each decoding step, is not included. Memory: a number for each of N tokens, and a copy of some frames.

    Differs from the authors' code: the third frame of the last group is compared too, the last frame of an odd number
    stays, a group may be shorter than four frames, and tokens stay in their order. As in the code, and not in the
    paper's words, tokens are dropped and not averaged.

    Options: see `DyCokeOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, a single temporal position, or ``frame_keep_ratio=1``."""
        grids = grids_of(blocks, merge_images=False)
        if not grids:
            return IMAGES_PASS
        if all(t == 1 for t, _, _ in grids):
            return "nothing to do: DyCoke compares temporal positions of a video, and there is only one"
        if self.frame_keep_ratio == 1:
            return "nothing to do: frame_keep_ratio=1 asks for every token"
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Drop repeated tokens of each whole video.

        Raises:
            ValueError: a video is not whole.
        """

        def keep(grid: tuple[int, int, int], tokens: Tensor) -> TokenMap:
            count = int(self.frame_keep_ratio * grid[1] * grid[2])
            return TokenMap.keep(least_repeated(tokens.view(grid[0], grid[1] * grid[2], -1), count), len(tokens))

        return each_video(seen, False, keep)


def least_repeated(tokens: Tensor, count: int) -> Tensor:
    """Choose the tokens that are left of a video.

    Args:
        tokens: [F, p, C] of any float dtype. A zero vector is similar to nothing.
        count: tokens left of each frame that is compared with an earlier one, in [0, p].

    Returns:
        [K] int64 raster indices, ascending; of equally similar tokens of a frame the first stay.
    """
    frames, size, _ = tokens.shape
    compared = [frame for frame in range(frames) if frame % GROUP]
    whole = torch.arange(0, frames, GROUP, device=tokens.device)[:, None] * size
    kept = [(whole + torch.arange(size, device=tokens.device)).flatten()]
    step = max(1, _BYTES // (4 * size * tokens.shape[2]))
    for first in range(0, len(compared), step):
        own = tensor_on(compared[first : first + step], tokens.device)
        earlier = own - torch.where(own % GROUP == 2, 2, 1)
        one, other = (normalize(tokens.detach()[at].float(), dim=2, eps=1e-12) for at in (own, earlier))
        order = (one * other).sum(dim=2).argsort(dim=1, stable=True)
        kept.append((own[:, None] * size + order[:, :count]).flatten())
    return torch.cat(kept).sort().values
