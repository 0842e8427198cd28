"""Squared distances within groups of points, precise where fp32 products would lose their order."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from prunevid_qwen.kernels.products import products_are_rounded
from prunevid_qwen.kernels.smallest import MOST, smallest

DISTANCE_BYTES = 2**25
"""Bytes that one block of pairwise distances may take; more groups, or more rows of one group, go block by block."""

# Where |x|^2 + |y|^2 - 2xy loses too many digits of fp32, a group's products are taken in fp64:
_NEAR = 2e-3  # a nearest neighbour closer than this share of |x|^2 + |y|^2, or
_OFFSET = 0.1  # all points closer than this on average, so that they share a large mean, or
_SMALL = 25  # so few points that it costs nothing.
_FP64_GROUPS, _FP64_COLUMNS = 8, 2048  # taken at a time: fp64 copies of the points are large
_ROWS = 48  # of products made at a time, up to the diagonal: fewer spare more of the other half, each slower
_MANY = 2**16  # distances from which comparing whole rows is faster than row by row; the answer is the same
_SAME = 1e-12  # a share of |x|^2 + |y|^2 that fp64 cannot tell from 0: the points count as equal.


def blocks_of_groups(points: Tensor) -> list[slice]:
    """Cut B groups, [B, N, C], into blocks whose distances stay within `DISTANCE_BYTES`."""
    batch, n, width = points.shape
    cast = 0 if points.dtype == torch.float32 else n * width * 4
    step = max(1, DISTANCE_BYTES // max(n * n * 4, cast, 1))
    return [slice(i, i + step) for i in range(0, batch, step)]


class Distances:
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
        nearest, largest = [], torch.zeros(place.shape[0], dtype=torch.float32, device=place.device)
        for block in self.blocks:
            d = self._rows(block)
            nearest.append(torch.where(place[:, None, :] < place[:, block, None], d, math.inf).amin(dim=2))
            finite = d if self.valid is None else d.masked_fill(d.isinf(), 0.0)
            largest = torch.maximum(largest, finite.amax(dim=(1, 2)))
        return torch.where(place == 0, largest[:, None], torch.cat(nearest, dim=1)).double()

    def nearest(self, centres: Tensor, real: Tensor) -> Tensor:
        """Rank of each point's nearest centre, [B, N] int64; ties to the lower rank."""
        centres = torch.where(real, centres, centres[:, :1])  # a tie with the best centre, which wins
        labels = []
        for block in self.blocks:
            d = self._rows(block)
            labels.append(d.gather(2, centres[:, None, :].expand(-1, d.shape[1], -1)).argmin(dim=2))
        return torch.cat(labels, dim=1)

    def _nearest(self, k: int) -> Tensor:
        """Distances to each point's k nearest, smallest first: [B, N, min(k, N)]."""
        k = min(k, self.points.shape[1])
        whole = self.whole
        if whole is not None and k <= MOST and whole.numel() >= _MANY and whole.device.type == "cpu":
            return smallest(whole, k).mT.contiguous()  # distances are symmetric: columns are rows
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
        batch, n, width = self.points.shape
        d, norm = self.points.new_empty(batch, n, n), self.points.new_empty(batch, n)
        for a, b in _row_blocks(n):
            rows = _products(self.points[:, a:b], self.points[:, :b])
            torch.mul(rows[:, :, a:].diagonal(dim1=1, dim2=2), 1.0 / width, out=norm[:, a:b])
            rows.mul_(-2.0 / width).add_(norm[:, a:b, None]).add_(norm[:, None, :b]).clamp_(min=0.0)
            # the other half is a copy: the product of two rows may be rounded otherwise than that of the same two
            d[:, a:b, :a] = rows[:, :, :a]
            d[:, :a, a:b] = rows[:, :, :a].mT
            below = rows[:, :, a:].tril(-1)
            torch.add(below, below.mT, out=d[:, a:b, a:b])
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


def _row_blocks(n: int) -> list[tuple[int, int]]:
    """Cut N rows into blocks, none much smaller than `_ROWS`: products of a single row are rounded otherwise."""
    cuts = [*range(0, n - _ROWS // 3, _ROWS), n] if n > _ROWS else [0, n]
    return list(pairwise(cuts))


def _products(rows: Tensor, points: Tensor) -> Tensor:
    """[B, M, N] inner products in fp32, each the same whatever the batch: a batch of one would take another routine.

    So far as the library's own routines keep their bits: MKL's do, but for MKL_CBWR=COMPATIBLE.
    """
    if rows.shape[0] > 1:
        return torch.bmm(rows, points.mT)
    return torch.bmm(rows.expand(2, -1, -1), points.expand(2, -1, -1).mT)[:1]


def _fp64_rows(points: Tensor, block: slice) -> Tensor:
    """Squared distances / C of some points to all by fp64 products, [B, rows, N] fp32; 0 between equal points."""
    rows = points[:, block].double()
    row_norm = rows.square().sum(dim=2)
    d = torch.empty(*rows.shape[:2], points.shape[1], dtype=torch.float32, device=points.device)
    for a in range(0, points.shape[1], _FP64_COLUMNS):
        columns = points[:, a : a + _FP64_COLUMNS].double()
        norms = row_norm[:, :, None] + columns.square().sum(dim=2)[:, None, :]
        exact = norms - 2 * torch.bmm(rows, columns.mT)
        d[:, :, a : a + _FP64_COLUMNS] = exact.masked_fill_(exact <= _SAME * norms, 0.0) / points.shape[2]
    return d
