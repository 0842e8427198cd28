"""K-means of many points in blocks of distances: no empty cluster, ties by index, the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.cluster_mean import cluster_mean
from prunevid_qwen.kernels.products import names_its_dtypes, products_are_rounded

_BLOCK_BYTES = 2**26  # of distances to all centres that are made at a time


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
        [N] int64 the cluster of each point, and [K] the point of each cluster that is nearest to its centre; ties go to
        the lower index. No cluster is empty. Beside the points it takes K * D numbers for the centres, and a block of
        distances of a fixed size. The host does not wait for the device.
    """
    count = starts.numel()
    centres = points.index_select(0, starts)
    squares = points.square().sum(1)
    for _ in range(iterations):
        labels, _ = _filled(*_given(points, centres, squares), count)
        centres = cluster_mean(points, labels, count)
        if unit:
            centres = torch.nn.functional.normalize(centres, dim=1)
    return _filled(*_given(points, centres, squares), count)


@names_its_dtypes
def farthest_first(points: Tensor, count: int) -> Tensor:
    """Pick points one after the other, the first and then each time the one farthest from all before it (Gonzalez 1985).

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


def _given(points: Tensor, centres: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each point, the lower one of equals, and the squared distance to it."""
    dtype = torch.float64 if products_are_rounded() else torch.float32
    centres = centres.to(dtype)
    lengths, labels, away = centres.square().sum(1), [], []
    for block in points.split(max(1, _BLOCK_BYTES // (centres.shape[0] * dtype.itemsize))):
        to_centres = torch.addmm(lengths, block.to(dtype), centres.T, alpha=-2.0)
        nearest = to_centres.argmin(dim=1, keepdim=True)
        labels.append(nearest[:, 0])
        away.append(to_centres.gather(1, nearest)[:, 0].float())
    return torch.cat(labels), (squares + torch.cat(away)).clamp(min=0.0)


def _filled(labels: Tensor, away: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Give each empty cluster a point, and find the nearest point of each cluster: labels [N], points [K]."""
    clusters = torch.arange(count, device=labels.device)
    by_distance = away.argsort(stable=True)
    order = by_distance[labels[by_distance].argsort(stable=True)]  # cluster by cluster, the nearest first
    sizes = torch.zeros_like(clusters).scatter_add_(0, labels, torch.ones_like(labels))
    first = order[(sizes.cumsum(0) - sizes).clamp(max=labels.numel() - 1)]
    empty = sizes == 0
    # a point that is the nearest of its cluster is given to no other: there are enough, as no more clusters than points
    heads = torch.zeros_like(labels).index_put_((first,), (~empty).long(), accumulate=True) > 0
    farthest = away.masked_fill(heads, -1.0).argsort(descending=True, stable=True)[:count]
    taking = (~empty).byte().argsort(stable=True)  # the empty clusters come first
    moves = clusters < empty.sum()
    labels = labels.scatter(0, farthest, torch.where(moves, taking, labels[farthest]))
    first = first.scatter(0, taking, torch.where(moves, farthest, first[taking]))
    return labels, first
