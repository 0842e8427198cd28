"""K-means of many points in blocks of distances: no empty cluster, ties by index, the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.cluster_mean import cluster_mean
from prunevid_qwen.kernels.products import names_its_dtypes, products_are_rounded

_BLOCK_BYTES = 2**26  # of distances to all centres that are made at a time
_ALIKE = 1e-4  # a share of the squared distance to a centre, and
_ROUNDING = 1e-10  # one of the squared length, by which rounding may tell equals apart


@names_its_dtypes
def k_means(points: Tensor, starts: Tensor, iterations: int, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Cluster points by Lloyd's algorithm.

    Each round gives every point to the nearest centre and moves each centre to the mean of its points; at the end every
    point is given once more. A cluster that got no point takes the one farthest from its centre among those that are
    not the nearest of a cluster.

    Args:
        points: [N, D] fp32.
        starts: [K] int64 the points at which the centres begin, K at most N.
        iterations: rounds, at least 1.
        unit: points have length 1, and so have the centres that move: distances order as cosines do.

    Returns:
        [N] int64 the cluster of each point, and [K] the point of each cluster that is nearest to its centre. Ties go to
        the lower index; so do points that rounding alone tells apart, as the two of a cluster of two. No cluster is
        empty. Beside the points it takes K * D numbers for the centres, and a block of distances of a fixed size. The
        host does not wait for the device.
    """
    count = starts.numel()
    centres = points.index_select(0, starts)
    for _ in range(iterations):
        labels, _ = _filled(points, centres)
        centres = cluster_mean(points, labels, count)
        if unit:
            centres = torch.nn.functional.normalize(centres, dim=1)
    return _filled(points, centres)


@names_its_dtypes
def farthest_first(points: Tensor, count: int) -> Tensor:
    """Pick the first point, and then each time the one farthest from all before it (Gonzalez 1985).

    Args:
        points: [N, D] fp32.
        count: picks, in [1, N].

    Returns:
        [count] int64; of equals the lower index. Where all points have been picked or equal one, the first comes again.
    """
    picks = torch.zeros(count, dtype=torch.long, device=points.device)
    squares = points.square().sum(1)
    away = torch.full_like(squares, torch.inf)
    for number in range(1, count):
        last = picks[number - 1 : number]
        to_last = squares + squares.index_select(0, last) - 2 * (points @ points.index_select(0, last)[0])
        away = torch.minimum(away, to_last.clamp(min=0)).index_fill(0, last, 0.0)
        picks[number : number + 1] = away.argmax(dim=0, keepdim=True)
    return picks


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each point, the lower one of equals, and the squared distance to it."""
    dtype = torch.float64 if products_are_rounded() else torch.float32
    wide = centres.to(dtype)
    lengths, labels, away = wide.square().sum(1), [], []
    for block in torch.split(points, max(1, _BLOCK_BYTES // (centres.shape[0] * dtype.itemsize))):
        nearest = torch.addmm(lengths, block.to(dtype), wide.T, alpha=-2.0).argmin(dim=1)
        labels.append(nearest)
        away.append((block - centres.index_select(0, nearest)).square().sum(1))
    return torch.cat(labels), torch.cat(away)


def _filled(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Give each point to a cluster and each empty cluster a point, [N], and find the nearest point of each, [K]."""
    labels, away = _nearest(points, centres)
    n, count = labels.numel(), centres.shape[0]
    index, clusters = (torch.arange(size, device=labels.device) for size in (n, count))
    least = torch.full_like(centres[:, 0], torch.inf).scatter_reduce(0, labels, away, "amin")
    alike = away <= least[labels] * (1 + _ALIKE) + _ROUNDING * points.square().sum(1)
    first = torch.full_like(clusters, n).scatter_reduce(0, labels, torch.where(alike, index, n), "amin")
    empty = first == n
    # a point that is the nearest of its cluster is given to no other: the rest are enough, as there are points enough
    taken = torch.zeros(n + 1, dtype=torch.bool, device=labels.device).index_fill(0, first, True)[:n]
    farthest = away.masked_fill(taken, -1.0).argsort(descending=True, stable=True)[:count]
    taking = (~empty).byte().argsort(stable=True)  # the empty clusters come first
    moves = clusters < empty.sum()
    labels = labels.scatter(0, farthest, torch.where(moves, taking, labels[farthest]))
    return labels, first.scatter(0, taking, torch.where(moves, farthest, first[taking]))
