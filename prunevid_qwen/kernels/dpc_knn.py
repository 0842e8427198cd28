"""DPC-KNN clustering: `reference`, which a student can read, and `dpc_knn`, the same answer for many groups at once.

Density peaks with k nearest neighbours (Du et al. 2016), as PruneVid (arXiv 2412.16117, section 3.1) uses it to cut a
video into segments and to merge tokens. A Triton kernel may take the place of `dpc_knn`; `reference` stays the law.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_qwen.kernels.distances import Distances, blocks_of_groups
from prunevid_qwen.kernels.launch import MOST_ON_GPU, wants_triton, where_of
from prunevid_qwen.kernels.products import names_its_dtypes


class Clusters(NamedTuple):
    """What DPC-KNN answers.

    Args:
        labels: [..., N] int64: the point's cluster, 0 for the best centre's; -1 where the point is not valid.
        centres: [..., K] int64: the index of the j-th best centre; -1 beyond a group's own number of clusters.
    """

    labels: Tensor
    centres: Tensor


def reference(points: Tensor, num_clusters: int, k: int) -> Clusters:
    """Cluster one group of points, one formula a line (prunevid.md section 5).

    Args:
        points: [N, C] of any float dtype; computed in fp32.
        num_clusters: clusters asked for, at least 1, clipped to N.
        k: neighbours in the density, the point itself included, at least 1, clipped to N.

    Returns:
        Labels [N] and centres [min(num_clusters, N)]. Every cluster holds at least its centre.

    Raises:
        ValueError: there is no point, or ``num_clusters`` or ``k`` is below 1.

    Differs from the authors' code: ties go to the lower index (theirs: noise below 1e-6 on the densities), and density
    and score are compared as logarithms, which do not underflow where the features are large.
    """
    _check(points[None], num_clusters, k)
    n, width = points.shape
    x = points.float()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(width)  # [N, N]
    nearest = distance.square().sort(dim=1).values[:, : min(k, n)]
    log_density = -nearest.double().mean(dim=1)
    by_density = log_density.argsort(descending=True, stable=True).tolist()  # ties: the lower index is the denser
    delta = torch.empty(n, dtype=torch.float64)
    delta[by_density[0]] = distance.max()
    for place, point in enumerate(by_density[1:], start=1):
        delta[point] = distance[point, by_density[:place]].min()
    score = log_density.cpu() + delta.log()  # log 0 = -inf: a duplicate of a denser point is the last to be a centre
    centres = score.argsort(descending=True, stable=True)[:num_clusters].to(points.device)
    labels = distance[:, centres].argmin(dim=1)  # ties: the better centre
    labels[centres] = torch.arange(centres.numel(), device=points.device)  # also a centre that equals a better one
    return Clusters(labels, centres)


@names_its_dtypes
def dpc_knn(points: Tensor, num_clusters: int | Tensor, k: int, valid: Tensor | None = None) -> Clusters:
    """Cluster B groups of points, each on its own, without a loop over points.

    Distances come from one matrix product a block of groups. A group gets the same labels whichever groups are beside
    it and wherever its padding is.

    Args:
        points: [B, N, C] of any float dtype; products accumulate in fp32, or fp64 where fp32 would lose the order.
        num_clusters: clusters asked for, at least 1: one int, or [B] int64; clipped to a group's points.
        k: neighbours in the density, the point itself included, at least 1, clipped to a group's points.
        valid: [B, N] bool, at least one True in a row: False is padding. None: every point is valid.

    Returns:
        Labels [B, N], -1 on padding, and centres [B, K], -1 beyond a group's clusters.

    Raises:
        ValueError: the shapes do not fit, a group is empty, or ``num_clusters`` or ``k`` is below 1.

    Differs from the authors' code: as in `reference`.
    """
    _check(points, num_clusters, k)
    if wants_triton(points) and points.shape[1] <= MOST_ON_GPU:
        from prunevid_qwen.kernels import dpc_knn_triton

        checked = None if valid is None else _valid(points, valid)[0]
        with where_of(points):
            return Clusters(*dpc_knn_triton.dpc_knn(points, num_clusters, k, checked))
    valid, counts = _valid(points, valid)
    wanted = torch.as_tensor(num_clusters, device=points.device).expand(points.shape[0])
    clusters = torch.minimum(wanted, counts)
    most = int(clusters.max())
    labels, centres = [], []
    for part in blocks_of_groups(points):
        found = _cluster(points[part], clusters[part], most, k, valid[part])
        labels.append(found.labels)
        centres.append(found.centres)
    return Clusters(torch.cat(labels), torch.cat(centres)) if len(labels) > 1 else found


@names_its_dtypes
def denser_distances(points: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """Measure delta: how far each point is from the nearest denser one of its group.

    Arguments and errors are those of `dpc_knn`.

    Returns:
        [B, N] fp64 Euclidean distance / sqrt(C); for the densest the largest of its group, -inf on padding.
    """
    _check(points, 1, k)
    if wants_triton(points) and points.shape[1] <= MOST_ON_GPU:
        from prunevid_qwen.kernels import dpc_knn_triton

        checked = None if valid is None else _valid(points, valid)[0]
        with where_of(points):
            return dpc_knn_triton.denser_distances(points, k, checked)
    valid, _ = _valid(points, valid)
    parts = []
    for part in blocks_of_groups(points):
        distances = Distances(points[part], valid[part], k)
        delta = distances.to_denser(distances.density_place()).sqrt()
        parts.append(delta.masked_fill(~valid[part], -math.inf))
    return torch.cat(parts)


def _valid(points: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which points are valid [B, N], and how many of each group [B]."""
    batch, n, _ = points.shape
    if valid is None:
        valid = torch.ones(batch, n, dtype=torch.bool, device=points.device)
    if valid.shape != (batch, n) or valid.dtype != torch.bool:
        raise ValueError(f"valid is [{batch}, {n}] bool, got {list(valid.shape)} {valid.dtype}")
    counts = valid.sum(dim=1)
    if bool((counts == 0).any()):
        raise ValueError("every group needs a point: leave empty groups out")
    return valid, counts


def _check(points: Tensor, num_clusters: int | Tensor, k: int) -> None:
    if points.dim() != 3 or not points.is_floating_point():
        raise ValueError(f"points are [B, N, C] floats (reference: [N, C]), got {list(points.shape)} {points.dtype}")
    if 0 in points.shape[:2]:
        raise ValueError(f"there is nothing to cluster in {list(points.shape)}")
    if k < 1:
        raise ValueError(f"k counts the point itself and is at least 1, got {k}")
    if int(torch.as_tensor(num_clusters).min()) < 1:
        raise ValueError(f"num_clusters is at least 1, got {num_clusters}")


def _cluster(points: Tensor, clusters: Tensor, most: int, k: int, valid: Tensor) -> Clusters:
    """Cluster groups whose distances fit one block, or a single group row block by row block."""
    distances = Distances(points, valid, k)
    n = points.shape[1]
    score = 0.5 * distances.to_denser(distances.density_place()).log() - distances.mean_nearest
    score = score.clamp(min=-1e300).masked_fill(~valid, -math.inf)  # log 0 must still beat padding
    centres = score.argsort(dim=1, descending=True, stable=True)[:, :most]
    rank = torch.arange(most, device=points.device).expand_as(centres)
    real = rank < clusters[:, None]
    labels = distances.nearest(centres, real).masked_fill(~valid, -1)
    # a centre joins itself; ranks beyond a group's own clusters write to a column that is then cut off
    spare = torch.cat([labels, labels[:, :1]], dim=1)
    labels = spare.scatter(1, torch.where(real, centres, n), rank)[:, :n]
    return Clusters(labels, centres.masked_fill(~real, -1))
