"""Run-length tokenization: a location that goes on looking the same is one token, from the moment it began to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.methods import RLTOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.device import moved

_CHUNK = 16  # positions whose similarities are computed at a time: a long video's normalised copy would double memory


@register("rlt", RLTOptions, stage=1)
@dataclass(frozen=True)
class RLT(RLTOptions):
    """Merge the runs of each location: temporal positions in a row that each look like the one before.

    Choudhury et al., "Don't Look Twice" (arXiv 2411.05222, section 3), who compare pixels before the encoder, leave
    repetitions out and tell the model a run's length. Here the encoder's tokens are compared, a run becomes their mean
    at the place of its first member, and instead of a length embedding, which a pretrained decoder does not have, a
    run ends after a given number of positions: what lasts longer is said again.

    Against PruneVid's static merging there are no segments of the whole picture: each location ends its runs when it
    changes, so what comes late keeps the moment at which it came.

    Options: see `RLTOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    @property
    def longest(self) -> int:
        """Temporal positions in a run at most."""
        return max(1, round(1 / self.temporal_segment_ratio))

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: never None, since a video in which everything changes has no runs."""
        grids = grids_of(blocks, merge_images=False)
        if not grids:
            return IMAGES_PASS
        if all(t == 1 for t, _, _ in grids):
            return "nothing merged: a video of one temporal position has no runs"
        if self.longest == 1:
            return f"nothing to do: temporal_segment_ratio={self.temporal_segment_ratio:g} ends every run at once"
        return f"nothing merged: no location looked alike from one temporal position to the next (tau={self.tau:g})"

    def plan(self, seen: Evidence) -> TokenMap:
        """Merge the runs of each whole video.

        Raises:
            ValueError: a video is not whole, or an option is out of range.
        """
        for name in ("tau", "temporal_segment_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in (0, 1], got {getattr(self, name)}")

        def merge_runs(grid: tuple[int, int, int], tokens: Tensor, source: Tensor | None = None) -> TokenMap:
            size = grid[0], grid[1] * grid[2]
            copied = None if source is None else source.view(size)
            return run_map(tokens.view(*size, -1), self.tau, self.longest, copied)

        return each_video(seen, False, merge_runs, () if seen.source is None else (_own(seen, seen.source),))


def _own(seen: Evidence, source: Tensor) -> Tensor:
    """Count the tokens that others are copies of by the cells of their videos: [N], -1 for one without a cell."""
    return moved(seen.layout.cell_of, source.device)[source]


def run_map(features: Tensor, tau: float, longest: int, source: Tensor | None = None) -> TokenMap:
    """Give every run of every location a token.

    Args:
        features: [T, L, C] of any float dtype. A zero vector is similar to nothing.
        tau: see `RLT`.
        longest: positions in a run at most, at least 1.
        source: [T, L] int64, the token in raster order of which each is a copy, itself if it is none. Only what is no
            copy is compared, and the map is the same.

    Returns:
        A map of the T*L tokens in raster order; its tokens stand where their runs begin, in raster order.
    """
    positions, locations, _ = features.shape
    time = torch.arange(positions, device=features.device)[:, None]
    begins = torch.ones(positions, locations, dtype=torch.bool, device=features.device)
    if source is None:
        begins[1:] = ~_continues(features.detach(), tau)
    else:
        begins[1:] = ~_continues_or_copies(features.detach(), tau, source)
    since = time - torch.where(begins, time, 0).cummax(dim=0).values
    begins |= since % longest == 0
    start = torch.where(begins, time, 0).cummax(dim=0).values  # [T, L] where the run of each token began
    number = (begins.flatten().long().cumsum(dim=0) - 1).view(positions, locations)
    return TokenMap(number.gather(0, start).flatten(), begins.flatten().nonzero()[:, 0])


def _continues(features: Tensor, tau: float) -> Tensor:
    """Tell where a position looks like the one before: [T, L, C] -> [T - 1, L] bool."""
    rows = []
    for first in range(0, features.shape[0] - 1, _CHUNK):
        part = torch.nn.functional.normalize(features[first : first + _CHUNK + 1].float(), dim=2, eps=1e-12)
        # at most 1, so that however the sum is rounded nothing is above tau=1
        rows.append((part[1:] * part[:-1]).sum(dim=2).clamp(max=1.0) > tau)
    return torch.cat(rows) if rows else torch.zeros(0, features.shape[1], dtype=torch.bool, device=features.device)


def _continues_or_copies(features: Tensor, tau: float, source: Tensor) -> Tensor:
    """Tell what `_continues` tells, of tokens [T, L, C] of which those are copies that are not their own ``source``.

    A copy of what the position before is looks like it, if any token looks like itself: zeros do not, and nothing does
    at tau=1. A copy of an earlier position is compared as any other.
    """
    positions, locations, _ = features.shape
    flat = features.flatten(0, 1)
    own = torch.ones_like(source, dtype=torch.bool)
    own[1:] = source[1:] != source[:-1]
    alike = torch.zeros(positions, locations, dtype=torch.bool, device=features.device)
    itself = torch.zeros_like(alike)
    for first in range(0, positions, _CHUNK):
        at = own[first : first + _CHUNK].flatten().nonzero()[:, 0] + first * locations
        now = torch.nn.functional.normalize(flat[at].float(), dim=1, eps=1e-12)
        before = source.flatten()[(at - locations).clamp(min=0)]
        then = torch.nn.functional.normalize(flat[before].float(), dim=1, eps=1e-12)
        for found, other in ((alike, then), (itself, now)):
            found.view(-1)[at] = (now * other).sum(dim=1).clamp(max=1.0) > tau
    return torch.where(own, alike, itself.flatten()[source])[1:]
