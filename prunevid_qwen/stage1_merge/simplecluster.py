"""SimpleCluster (arXiv 2609.35394): k-means over all tokens of a video, on features that know their place.

Written from a description of the paper. What the paper leaves open is ours, or by an option as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.simplecluster import SimpleClusterOptions
from prunevid_qwen.kernels.k_means import farthest_first, k_means
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap

_BASE = 10000.0  # of the angles of a grid


@register("simplecluster", SimpleClusterOptions, stage=1)
@dataclass(frozen=True)
class SimpleCluster(SimpleClusterOptions):
    """Average ``max(1, int(n * cluster_ratio))`` clusters of each video: plain means of the features as they came.

    The clusters are found on features that are turned as the decoder turns its keys, so that likeness falls with
    distance in time and space. Memory is an fp32 copy of a video's tokens and of the centres, and a block of distances
    of a fixed size; arithmetic grows with tokens times clusters.

    Options: see `SimpleClusterOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The rotary angles of the tokens; nothing where all are kept or the grid gives the angles."""
        every = self.cluster_ratio == 1 and self.keep_tokens is None
        return Needs(angles=not every and self.rotary == "model")

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Cluster the tokens of each video.

        Raises:
            ValueError: a video is not whole, or the evidence holds no rotary angles.
        """
        if self.needs.angles and seen.angles is None:
            raise ValueError("simplecluster turns tokens by their rotary angles: gather what its `needs` asks for")

        def cluster(grid: tuple[int, int, int], tokens: Tensor, *angles: Tensor) -> TokenMap:
            n = tokens.shape[0]
            count = count_of(n, self.cluster_ratio, self.keep_tokens)
            if count == n:
                return TokenMap.identity(n, tokens.device)
            return self._clusters(turned(tokens, *angles) if angles else turned_by_grid(tokens, grid), count)

        beside = () if seen.angles is None else seen.angles.unbind(0)
        return each_video(seen, self.merge_images, cluster, beside if self.needs.angles else ())

    def _clusters(self, points: Tensor, count: int) -> TokenMap:
        """Cluster points [N, D] fp32, which may be overwritten."""
        unit, n, device = self.distance == "cosine", points.shape[0], points.device
        if unit:
            points = torch.nn.functional.normalize(points, dim=1)
        else:  # what all points share takes digits, and no distance knows of it
            points -= points.mean(dim=0)
        if self.start == "farthest":
            starts = farthest_first(points, count)
        else:
            starts = (2 * torch.arange(count, device=device) + 1) * n // (2 * count)
        labels, place = k_means(points, starts, self.iterations, unit)
        if self.place == "first":
            index = torch.arange(n, device=device)
            place = torch.full_like(place, n).scatter_reduce(0, labels, index, "amin")
        order = place.argsort()
        rank = torch.empty_like(order)
        rank[order] = torch.arange(count, device=device)
        return TokenMap(rank[labels], place[order])


def turned(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each token as the decoder turns a key at its position, one stretch of channels after the other.

    Args:
        tokens: [N, D] of any float dtype.
        cos, sin: [N, R] of its rotary angles; channel i of a stretch of R goes with channel i + R / 2.

    Returns:
        [N, D] fp32. Channels beyond the last whole stretch are as they came.
    """
    width = cos.shape[1]
    whole = tokens.shape[1] // width * width
    out = tokens.to(torch.float32, copy=True)
    first, second = out[:, :whole].view(len(out), -1, 2, width // 2).unbind(2)  # [N, stretches, R / 2]
    cos, sin = (angle.float()[:, None] for angle in (cos, sin))
    half = width // 2
    made = first * cos[..., :half] - second * sin[..., :half], second * cos[..., half:] + first * sin[..., half:]
    out[:, :whole] = torch.stack(made, dim=2).flatten(1)
    return out


def turned_by_grid(tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Turn each token by its time, row and column: a third of the channels each, pairs of neighbours.

    Args:
        tokens: [T * h * w, D] of any float dtype, in raster order.
        grid: (T, h, w).

    Returns:
        [T * h * w, D] fp32. Time has the channels that three equal parts leave over; an odd last channel stays.
    """
    out = tokens.to(torch.float32, copy=True)
    third, over = divmod(out.shape[1], 3)
    start = 0
    lines = (torch.arange(size, device=out.device, dtype=torch.float32) for size in grid)
    for axis, width in zip(torch.meshgrid(*lines, indexing="ij"), (third + over, third, third), strict=True):
        pairs = width // 2
        rates = _BASE ** (-torch.arange(pairs, device=out.device, dtype=torch.float32) / max(pairs, 1))
        angle = axis.flatten()[:, None] * rates
        even, odd = (out[:, start + first : start + 2 * pairs : 2] for first in (0, 1))
        made = even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()
        out[:, start : start + 2 * pairs] = torch.stack(made, dim=2).flatten(1)
        start += width
    return out
