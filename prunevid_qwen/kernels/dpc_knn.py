"""DPC-KNN clustering: `reference`, which a student can read, and `dpc_knn`, the same answer for many groups at once.

Density peaks with k nearest neighbours (Du et al. 2016), as PruneVid (arXiv 2412.16117, section 3.1) uses it to cut a
video into segments and to merge tokens. A Triton kernel may take the place of `dpc_knn`; `reference` stays the law.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_qwen.kernels.products import products_are_rounded

DISTANCE_BYTES = 2**25
"""Bytes that one block of pairwise distances may take; more groups, or more rows of one group, go block by block."""

# Where |x|^2 + |y|^2 - 2xy loses too many digits of fp32, a group's products are taken in fp64:
_NEAR = 2e-3  # a nearest neighbour closer than this share of |x|^2 + |y|^2, or
_OFFSET = 0.1  # all points closer than this on average, so that they share a large mean, or
_SMALL = 25  # so few points that it costs nothing.
_FP64_GROUPS, _FP64_COLUMNS = 8, 2048  # taken at a time: fp64 copies of the points are large
_SAME = 1e-12  # a share of |x|^2 + |y|^2 that fp64 cannot tell from 0: the points count as equal.


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
    valid, counts = _valid(points, valid)
    wanted = torch.as_tensor(num_clusters, device=points.device).expand(points.shape[0])
    clusters = torch.minimum(wanted, counts)
    most = int(clusters.max())
    labels, centres = [], []
    for part in _blocks_of_groups(points):
        found = _cluster(points[part], clusters[part], most, k, valid[part])
        labels.append(found.labels)
        centres.append(found.centres)
    return Clusters(torch.cat(labels), torch.cat(centres)) if len(labels) > 1 else found


def denser_distances(points: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """Measure delta: how far each point is from the nearest denser one of its group.

    Arguments and errors are those of `dpc_knn`.

    Returns:
        [B, N] fp64 Euclidean distance / sqrt(C); for the densest the largest of its group, -inf on padding.
    """
    _check(points, 1, k)
    valid, _ = _valid(points, valid)
    parts = []
    for part in _blocks_of_groups(points):
        distances = _Distances(points[part], valid[part], k)
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


def _blocks_of_groups(points: Tensor) -> list[slice]:
    batch, n, width = points.shape
    cast = 0 if points.dtype == torch.float32 else n * width * 4
    step = max(1, DISTANCE_BYTES // max(n * n * 4, cast, 1))
    return [slice(i, i + step) for i in range(0, batch, step)]


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
    distances = _Distances(points, valid, k)
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


class _Distances:
    """Squared distances / C of a batch of groups, inf from and to padding: held whole, or made again row by row."""

    def __init__(self, points: Tensor, valid: Tensor, k: int) -> None:
        self.points = points.detach().float()
        self.valid = None if bool(valid.all()) else valid
        self.counts = valid.sum(dim=1)
        batch, n, width = points.shape
        height = max(1, DISTANCE_BYTES // (batch * n * 4))
        self.blocks = [slice(a, min(a + height, n)) for a in range(0, n, height)]
        self.precise = self.counts <= (n if products_are_rounded() else _SMALL)  # [B]: products in fp64
        self.whole: Tensor | None = None
        if len(self.blocks) == 1:
            self.whole, self.norm = self._square()
            self._refine(self.precise)
        else:
            self.norm = torch.linalg.vector_norm(self.points, dim=2).square() / width
        nearest = self._nearest(max(k, 2))
        flagged = self._cancels(nearest) & ~self.precise
        if bool(flagged.any()):
            self.precise |= flagged
            self._refine(flagged)
            nearest = self._nearest(k)
        nearest = nearest[:, :, :k].double()
        total = nearest.masked_fill(nearest.isinf(), 0.0).sum(dim=2)
        self.mean_nearest = (total / self.counts.clamp(max=k)[:, None]).masked_fill(~valid, math.inf)  # [B, N] fp64

    def density_place(self) -> Tensor:
        """Place of each point by density, [B, N] int64: 0 for the densest; of equals the lower index is the denser."""
        by_density = self.mean_nearest.argsort(dim=1, stable=True)
        index = torch.arange(by_density.shape[1], device=by_density.device)
        return torch.empty_like(by_density).scatter_(1, by_density, index.expand_as(by_density))

    def to_denser(self, place: Tensor) -> Tensor:
        """To the nearest denser point, [B, N] fp64; for the densest, the largest distance of its group."""
        nearest, largest = [], torch.zeros(place.shape[0], device=place.device)
        for block in self.blocks:
            d = self._rows(block)
            nearest.append(torch.where(place[:, None, :] < place[:, block, None], d, math.inf).amin(dim=2))
            finite = d if self.valid is None else d.masked_fill(d.isinf(), 0.0)
            largest = torch.maximum(largest, finite.amax(dim=(1, 2)))
        return torch.where(place == 0, largest[:, None], torch.cat(nearest, dim=1)).double()

    def nearest(self, centres: Tensor, real: Tensor) -> Tensor:
        """Rank of each point's nearest centre, [B, N] int64; ties to the lower rank."""
        labels = []
        for block in self.blocks:
            d = self._rows(block)
            to_centre = d.gather(2, centres[:, None, :].expand(-1, d.shape[1], -1))
            labels.append(to_centre.masked_fill(~real[:, None, :], math.inf).argmin(dim=2))
        return torch.cat(labels, dim=1)

    def _nearest(self, k: int) -> Tensor:
        """Distances to each point's k nearest, smallest first: [B, N, min(k, N)]."""
        k = min(k, self.points.shape[1])
        return torch.cat([self._rows(block).topk(k, dim=2, largest=False).values for block in self.blocks], dim=1)

    def _cancels(self, nearest: Tensor) -> Tensor:
        """[B] bool: groups whose fp32 products leave too few digits in some, or in most, of the distances."""
        if nearest.shape[2] < 2 or bool(self.precise.all()):
            return self.precise
        norm = self.norm if self.valid is None else self.norm.masked_fill(~self.valid, 0.0)
        near = (nearest[:, :, 1] < 2 * _NEAR * norm).any(dim=1)
        total = torch.zeros_like(norm[:, 0])
        for block in self.blocks:
            d = self._rows(block)
            total += (d if self.valid is None else d.masked_fill(d.isinf(), 0.0)).sum(dim=(1, 2))
        return near | (total / self.counts.square() < 2 * _OFFSET * norm.sum(dim=1) / self.counts)

    def _rows(self, block: slice) -> Tensor:
        """Distances of some points to all, [B, rows, N] fp32."""
        if self.whole is not None:
            return self.whole
        if bool(self.precise[0]):
            return self._mask(_fp64_rows(self.points, block), block)
        d = self.norm[:, block, None] + self.norm[:, None, :]
        d.baddbmm_(self.points[:, block], self.points.mT, alpha=-2.0 / self.points.shape[2]).clamp_(min=0.0)
        d.diagonal(block.start, 1, 2).zero_()
        return self._mask(d, block)

    def _square(self) -> tuple[Tensor, Tensor]:
        """Distances of all points in fp32, exactly symmetric and 0 on the diagonal, and their norms / C."""
        scale = 1.0 / self.points.shape[2]
        products = _products(self.points, self.points)
        norm = products.diagonal(dim1=1, dim2=2) * scale  # [B, N]
        # both triangles are added, since the product of two rows may be rounded otherwise than that of the same two
        d = norm[:, :, None] + norm[:, None, :]
        d.sub_(products + products.mT, alpha=scale)
        d.clamp_(min=0.0).diagonal(dim1=1, dim2=2).zero_()
        return self._mask(d, self.blocks[0]), norm

    def _refine(self, groups: Tensor) -> None:
        """Make the distances of some groups again from fp64 products, where they are held whole."""
        if self.whole is not None:
            for index in torch.split(groups.nonzero()[:, 0], _FP64_GROUPS):
                self.whole[index] = _fp64_rows(self.points[index], self.blocks[0])
            self._mask(self.whole, self.blocks[0])

    def _mask(self, d: Tensor, block: slice) -> Tensor:
        if self.valid is not None:
            d.masked_fill_(~(self.valid[:, block, None] & self.valid[:, None, :]), math.inf)
        return d


def _products(rows: Tensor, points: Tensor) -> Tensor:
    """[B, M, N] inner products in fp32, each the same whatever the batch: a batch of one would take another routine."""
    if rows.shape[0] > 1:
        return torch.bmm(rows, points.mT)
    return torch.bmm(rows.expand(2, -1, -1), points.expand(2, -1, -1).mT)[:1]


def _fp64_rows(points: Tensor, block: slice) -> Tensor:
    """Squared distances / C of some points to all by fp64 products, [B, rows, N] fp32; 0 between equal points."""
    rows = points[:, block].double()
    row_norm = rows.square().sum(dim=2)
    d = torch.empty(rows.shape[0], rows.shape[1], points.shape[1], device=points.device)
    for a in range(0, points.shape[1], _FP64_COLUMNS):
        columns = points[:, a : a + _FP64_COLUMNS].double()
        norms = row_norm[:, :, None] + columns.square().sum(dim=2)[:, None, :]
        exact = norms - 2 * torch.bmm(rows, columns.mT)
        d[:, :, a : a + _FP64_COLUMNS] = exact.masked_fill_(exact <= _SAME * norms, 0.0) / points.shape[2]
    return d
