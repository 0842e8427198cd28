"""DPC-KNN over ragged groups on a GPU: eight launches for all groups, whatever their number and sizes, no host sync.

Distances are made once (`triton_distances`), kept in a scratch buffer of at most `SCRATCH_BYTES`, and read by the four
steps after them; more groups go block by block. Making them again in each step would cost the features' traffic and the
products four times, and the steps could disagree about ties; 64 positions of 140 tokens take 5 MB, which stay in the L2
cache.

The launches may be captured in a CUDA graph, and torch.compile may trace through them: shapes alone decide about them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_qwen.kernels.launch import MOST_ON_GPU
from prunevid_qwen.kernels.triton_distances import POINTERS, pitch, squared_distances

SCRATCH_BYTES = 2**26
"""Bytes that the distances of one block of groups may take: those of one group of 4096."""


class Points(NamedTuple):
    """Where some groups' points stand.

    Args:
        base: [M, C] bf16, fp16 or fp32, contiguous.
        rows: [G, N] int64, contiguous: the rows of ``base`` that are the group's points, the first of them valid.
    """

    base: Tensor
    rows: Tensor


class RaggedClusters(NamedTuple):
    """What becomes of ragged groups; entries beyond a group's points, or its clusters, are not written.

    Args:
        labels: [G, N] int64.
        centres: [G, N] int64: the place in its group of the j-th best centre.
    """

    labels: Tensor
    centres: Tensor


@triton.jit(do_not_specialize=["n_most", "pitch16", "k"])
def _density(  # type: ignore[no-untyped-def]
    distance, counts, mean_nearest, farthest, k, n_most, pitch16, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store of each point the mean of its k smallest squared distances, and the largest."""
    n_parts = tl.cdiv(n_most, ROWS)
    group = (tl.program_id(0) // n_parts).to(tl.int64)
    row = tl.program_id(0) % n_parts * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    n = tl.load(counts + group).to(tl.int32)
    if tl.program_id(0) % n_parts * ROWS >= n:
        return
    start = distance + (group * n_most + row)[:, None] * (pitch16 * 16) + column[None, :]
    real = (row < n)[:, None] & (column < n)[None, :]
    left = tl.load(start, mask=real, other=float("inf"))
    tl.store(farthest + group * n_most + row, tl.max(tl.where(real, left, 0.0), axis=1), mask=row < n)
    total = tl.zeros((ROWS,), dtype=tl.float64)
    taken = tl.minimum(k, n)
    for _ in range(taken):
        least, at = tl.min(left, axis=1, return_indices=True)
        total += least.to(tl.float64)
        left = tl.where(column[None, :] == at[:, None], float("inf"), left)
    tl.store(mean_nearest + group * n_most + row, total / taken, mask=row < n)


@triton.jit(do_not_specialize=["n_most", "pitch16"])
def _delta(  # type: ignore[no-untyped-def]
    distance, counts, mean_nearest, farthest, delta, score, n_most, pitch16, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store of each point the squared distance to the nearest denser one, and log(density * distance)."""
    n_parts = tl.cdiv(n_most, ROWS)
    group = (tl.program_id(0) // n_parts).to(tl.int64)
    row = tl.program_id(0) % n_parts * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    n = tl.load(counts + group).to(tl.int32)
    if tl.program_id(0) % n_parts * ROWS >= n:
        return
    own = tl.load(mean_nearest + group * n_most + row, mask=row < n, other=0.0)
    other = tl.load(mean_nearest + group * n_most + column, mask=column < n, other=float("inf"))
    tie = (other[None, :] == own[:, None]) & (column[None, :] < row[:, None])
    denser = ((other[None, :] < own[:, None]) | tie) & (row < n)[:, None] & (column < n)[None, :]
    start = distance + (group * n_most + row)[:, None] * (pitch16 * 16) + column[None, :]
    squared = tl.load(start, mask=denser, other=float("inf"))
    nearest = tl.min(squared, axis=1)
    largest = tl.max(tl.load(farthest + group * n_most + column, mask=column < n, other=0.0), axis=0)
    nearest = tl.where(tl.max(denser.to(tl.int32), axis=1) > 0, nearest, largest)
    tl.store(delta + group * n_most + row, nearest, mask=row < n)
    log = tl.log(tl.where(nearest > 0, nearest, 1.0).to(tl.float64))
    value = tl.where(nearest > 0, 0.5 * log - own, float("-inf"))
    value = tl.where(value == value, value, float("-inf"))  # NaN features: any order, but an order
    tl.store(score + group * n_most + row, value, mask=row < n)


@triton.jit(do_not_specialize=["n_most"])
def _rank(  # type: ignore[no-untyped-def]
    score, counts, clusters, rank, centres, n_most, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store how many points of the group make better centres, and the place of each centre."""
    n_parts = tl.cdiv(n_most, ROWS)
    group = (tl.program_id(0) // n_parts).to(tl.int64)
    row = tl.program_id(0) % n_parts * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    n = tl.load(counts + group).to(tl.int32)
    if tl.program_id(0) % n_parts * ROWS >= n:
        return
    own = tl.load(score + group * n_most + row, mask=row < n, other=0.0)
    other = tl.load(score + group * n_most + column, mask=column < n, other=0.0)
    tie = (other[None, :] == own[:, None]) & (column[None, :] < row[:, None])
    better = ((other[None, :] > own[:, None]) | tie) & (column < n)[None, :]
    place = tl.sum(better.to(tl.int32), axis=1)
    tl.store(rank + group * n_most + row, place, mask=row < n)
    is_centre = (row < n) & (place < tl.load(clusters + group))
    tl.store(centres + group * n_most + place, row, mask=is_centre)


@triton.jit(do_not_specialize=["n_most", "pitch16"])
def _join(  # type: ignore[no-untyped-def]
    distance, counts, clusters, rank, labels, n_most, pitch16, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store the rank of each point's nearest centre, ties to the better one; a centre joins itself."""
    n_parts = tl.cdiv(n_most, ROWS)
    group = (tl.program_id(0) // n_parts).to(tl.int64)
    row = tl.program_id(0) % n_parts * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    n = tl.load(counts + group).to(tl.int32)
    if tl.program_id(0) % n_parts * ROWS >= n:
        return
    most = tl.minimum(tl.load(clusters + group).to(tl.int32), n)
    own = tl.load(rank + group * n_most + row, mask=row < n, other=0)
    other = tl.load(rank + group * n_most + column, mask=column < n, other=BLOCK)
    is_centre = (row < n)[:, None] & (other < most)[None, :]
    squared = tl.load(
        distance + (group * n_most + row)[:, None] * (pitch16 * 16) + column[None, :],
        mask=is_centre,
        other=float("inf"),
    )
    nearest = is_centre & (squared == tl.min(squared, axis=1)[:, None])
    label = tl.min(tl.where(nearest, other[None, :], BLOCK), axis=1)
    label = tl.minimum(tl.where(own < most, own, label), most - 1)  # NaN features have no nearest centre
    tl.store(labels + group * n_most + row, label, mask=row < n)


def ragged_clusters(parts: list[Points], counts: Tensor, clusters: Tensor, k: int) -> RaggedClusters:
    """Cluster groups of any size, each on its own (`dpc_knn.reference`), without a host sync.

    Args:
        parts: the groups, those of the first part first; all parts have the same N, at most `launch.MOST_ON_GPU`.
        counts: [G] int64, contiguous: points of each group, from 0 (left alone) to N.
        clusters: [G] int64, contiguous: clusters wanted, at least 1 where there are points; clipped to these.
        k: neighbours in the density, the point itself included, at least 1, clipped to a group's points.

    Raises:
        ValueError: a group may have more than `launch.MOST_ON_GPU` points.
    """
    n_groups, n_most = counts.numel(), _points_of(parts)
    labels, centres = (torch.empty(n_groups, n_most, dtype=torch.long, device=counts.device) for _ in range(2))
    rank = torch.empty(n_groups, n_most, dtype=torch.int32, device=counts.device)
    for block, distance, score, _ in _measured(parts, counts, k):
        own, wanted, grid, tile = counts[block], clusters[block], _grid(block, n_most), _rows_tile(n_most)
        _rank[grid](score, own, wanted, rank[block], centres[block], n_most, **tile)
        _join[grid](distance, own, wanted, rank[block], labels[block], n_most, pitch(n_most) // 16, **tile)
    return RaggedClusters(labels, centres)


def ragged_denser_distances(parts: list[Points], counts: Tensor, k: int) -> Tensor:
    """Measure delta of ragged groups: arguments, errors as of `ragged_clusters`.

    Returns:
        [G, N] fp32: the *squared* distance / C to the nearest denser point, for the densest the largest of its group;
        not written beyond a group's points.
    """
    delta = torch.empty(counts.numel(), _points_of(parts), dtype=torch.float32, device=counts.device)
    for block, _, _, found in _measured(parts, counts, k):
        delta[block] = found
    return delta


def _points_of(parts: list[Points]) -> int:
    n_most = parts[0].rows.shape[1]
    if n_most > MOST_ON_GPU:
        raise ValueError(f"a group has at most {MOST_ON_GPU} points here, got room for {n_most}")
    return n_most


def _measured(parts: list[Points], counts: Tensor, k: int) -> Any:
    """Yield block after block of groups: its slice, distances, scores and deltas; the next block overwrites them."""
    n_groups, n_most = counts.numel(), _points_of(parts)
    stride, device = pitch(n_most), counts.device
    step = max(1, min(n_groups, SCRATCH_BYTES // (n_most * stride * 4)))
    distance = torch.empty(step, n_most, stride, dtype=torch.float32, device=device)
    norm, farthest, delta = (torch.empty(step, n_most, dtype=torch.float32, device=device) for _ in range(3))
    mean_nearest, score = (torch.empty(step, n_most, dtype=torch.float64, device=device) for _ in range(2))
    tile = _rows_tile(n_most)
    for first in range(0, n_groups, step):
        block = slice(first, min(first + step, n_groups))
        start = 0
        for base, rows in parts:
            a, b = max(block.start, start), min(block.stop, start + rows.shape[0])
            if a < b:
                at = slice(a - block.start, b - block.start)
                squared_distances(base, rows[a - start : b - start], counts[a:b], norm[at], distance[at])
            start += rows.shape[0]
        grid, own = _grid(block, n_most), counts[block]
        _density[grid](distance, own, mean_nearest, farthest, k, n_most, stride // 16, **tile)
        _delta[grid](distance, own, mean_nearest, farthest, delta, score, n_most, stride // 16, **tile)
        yield block, distance, score, delta[: block.stop - block.start]


def _grid(block: slice, n_most: int) -> tuple[int]:
    return ((block.stop - block.start) * triton.cdiv(n_most, _rows_tile(n_most)["ROWS"]),)


def _rows_tile(n_most: int) -> dict[str, int]:
    """Return how many rows of distances a program holds in its registers, and how wide."""
    if n_most <= 256:
        return {"ROWS": 8, "BLOCK": 256, "num_warps": 4}
    if n_most <= 1024:
        return {"ROWS": 4, "BLOCK": 1024, "num_warps": 4}
    return {"ROWS": 1, "BLOCK": 4096, "num_warps": 8}


def dpc_knn(points: Tensor, num_clusters: int | Tensor, k: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute labels and centres of `dpc_knn.dpc_knn` on a GPU; its arguments, checked.

    With ``valid`` or a tensor of ``num_clusters`` the host waits once: the width of the centres depends on these.
    """
    batch, n, _ = points.shape
    part, place, counts = _dense(points, valid)
    if isinstance(num_clusters, int):
        wanted = torch.full((batch,), num_clusters, device=points.device)
    else:
        wanted = num_clusters.to(points.device).expand(batch)
    wanted = torch.minimum(wanted, counts)
    if valid is None and isinstance(num_clusters, int):
        most = min(num_clusters, n)
    else:
        most = int(wanted.max())
    found = ragged_clusters([part], counts, wanted, k)
    rank = torch.arange(n, device=points.device)
    labels = torch.where(rank < counts[:, None], found.labels, -1)
    centres = torch.where(rank < wanted[:, None], found.centres, 0)
    centres = torch.where(rank < wanted[:, None], place.gather(1, centres), -1)
    return torch.empty_like(labels).scatter_(1, place, labels), centres[:, :most]


def denser_distances(points: Tensor, k: int, valid: Tensor | None) -> Tensor:
    """Compute `dpc_knn.denser_distances` on a GPU; its arguments, checked."""
    part, place, counts = _dense(points, valid)
    delta = ragged_denser_distances([part], counts, k).double().sqrt()
    delta = torch.where(torch.arange(place.shape[1], device=points.device) < counts[:, None], delta, -math.inf)
    return torch.empty_like(delta).scatter_(1, place, delta)


def _dense(points: Tensor, valid: Tensor | None) -> tuple[Points, Tensor, Tensor]:
    """Return the points as one part, the columns [B, N] of each group's valid ones in their order, and how many [B]."""
    batch, n, width = points.shape
    base = points.detach()
    base = (base if base.dtype in POINTERS else base.float()).reshape(batch * n, width).contiguous()
    if valid is None:
        place = torch.arange(n, device=points.device).expand(batch, n)
        counts = torch.full((batch,), n, device=points.device)
    else:
        place = (~valid).byte().argsort(dim=1, stable=True)
        counts = valid.sum(dim=1)
    first = torch.arange(0, batch * n, n, device=points.device)[:, None]
    return Points(base, (first + place).contiguous()), place, counts


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launchers can choose, for the compile test."""
    cases = []
    kinds = {"rank": "*i32"} | dict.fromkeys(("counts", "clusters", "labels", "centres"), "*i64")
    kinds |= dict.fromkeys(("distance", "farthest", "delta"), "*fp32")
    kinds |= dict.fromkeys(("mean_nearest", "score"), "*fp64") | dict.fromkeys(("ROWS", "BLOCK"), "constexpr")
    for n_most in (256, 1024, 4096):
        tile = _rows_tile(n_most)
        options = {"num_warps": tile.pop("num_warps")}
        for kernel in (_density, _delta, _rank, _join):
            cases.append((kernel, {name: kinds.get(name, "i32") for name in kernel.arg_names}, tile, options))
    return cases
