"""Squared distances of the points of ragged groups on a GPU: by products on the matrix units or by differences.

bf16 and fp16 points are multiplied on the matrix units (exact products, fp32 sums). Where a pair is nearer than `NEAR`
of its squared norms, |x|^2 + |y|^2 - 2xy has lost digits: near duplicates, or points that share a large mean. These
are made again by the differences themselves, in tiles of 16 x 16 that hold one; fp32 points always are, since fp32
products on the plain units are hardly cheaper. A tile gives up only its near pairs for that: which way a distance is
made depends on the pair alone, not on its neighbours. So equal points are at exactly 0 and equally far from every other
point, and every distance is stored on both sides of the diagonal: ties are decided by the index alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NEAR = 1 / 64  # with sums that the matrix units truncate, a nearer pair would keep fewer than three decimal digits
POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
"""The types that points may have, as triton spells a pointer to them."""
_DOTS = {"TILE": 64, "LANES": 64, "num_warps": 4, "num_stages": 3}
_DIFFERENCES = {"TILE": 16, "LANES": 32, "num_warps": 4, "num_stages": 2}
_NORMS = {"LANES": 1024, "num_warps": 4}


@triton.jit(do_not_specialize=["n_most"])
def _norms(base, rows, counts, norm, n_most, width, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the squared norm of each point, [G, N]."""
    place = tl.program_id(0).to(tl.int64)
    if place % n_most >= tl.load(counts + place // n_most):
        return
    start_of_row = base + tl.load(rows + place) * width
    total = tl.zeros((LANES,), dtype=tl.float32)
    for start in range(0, width, LANES):
        lane = start + tl.arange(0, LANES)
        x = tl.load(start_of_row + lane, mask=lane < width, other=0.0).to(tl.float32)
        total += x * x
    tl.store(norm + place, tl.sum(total, axis=0))


@triton.jit
def _store_both_sides(distance, squared, chosen, group, left, right, n, n_most, pitch):  # type: ignore[no-untyped-def]
    """Store the chosen pairs of a tile above the diagonal, their mirror images below it, and 0 on the diagonal."""
    whole = distance + group * n_most * pitch
    above = chosen & (left[:, None] < right[None, :]) & (right < n)[None, :]
    on = chosen & (left[:, None] == right[None, :]) & (right < n)[None, :]
    wide_left, wide_right = left.to(tl.int64), right.to(tl.int64)
    straight = whole + wide_left[:, None] * pitch + wide_right[None, :]
    tl.store(straight, tl.where(on, 0.0, squared), mask=above | on)
    tl.store(whole + wide_right[None, :] * pitch + wide_left[:, None], squared, mask=above)


@triton.jit(do_not_specialize=["n_most", "n_tiles", "pitch16"])
def _dots(  # type: ignore[no-untyped-def]
    base, rows, counts, norm, distance, n_most, n_tiles, pitch16, width,
    TILE: tl.constexpr, LANES: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Store squared distances / C of the pairs of one tile by |x|^2 + |y|^2 - 2xy."""
    program = tl.program_id(0)
    group = (program // (n_tiles * n_tiles)).to(tl.int64)
    row_tile = program // n_tiles % n_tiles
    column_tile = program % n_tiles
    n = tl.load(counts + group).to(tl.int32)
    if (column_tile < row_tile) | (column_tile * TILE >= n):
        return
    left = row_tile * TILE + tl.arange(0, TILE)
    right = column_tile * TILE + tl.arange(0, TILE)
    left_row = tl.load(rows + group * n_most + left, mask=left < n, other=0) * width
    right_row = tl.load(rows + group * n_most + right, mask=right < n, other=0) * width
    products = tl.zeros((TILE, TILE), dtype=tl.float32)
    for start in range(0, width, LANES):
        lane = start + tl.arange(0, LANES)
        a = tl.load(
            base + left_row[:, None] + lane[None, :], mask=(left < n)[:, None] & (lane < width)[None, :], other=0.0
        )
        b = tl.load(
            base + right_row[None, :] + lane[:, None], mask=(right < n)[None, :] & (lane < width)[:, None], other=0.0
        )
        if WIDEN:  # the interpreter's products of narrow types are rounded
            a, b = a.to(tl.float32), b.to(tl.float32)
        products = tl.dot(a, b, products, input_precision="ieee")
    left_norm = tl.load(norm + group * n_most + left, mask=left < n, other=0.0)
    right_norm = tl.load(norm + group * n_most + right, mask=right < n, other=0.0)
    squared = tl.maximum(left_norm[:, None] + right_norm[None, :] - 2.0 * products, 0.0) / width
    chosen = left[:, None] <= right[None, :]
    _store_both_sides(distance, squared, chosen, group, left, right, n, n_most, pitch16 * 16)


@triton.jit(do_not_specialize=["n_most", "n_tiles", "pitch16", "near"])
def _differences(  # type: ignore[no-untyped-def]
    base, rows, counts, norm, distance, near, n_most, n_tiles, pitch16, width,
    TILE: tl.constexpr, LANES: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """Store squared distances / C of the pairs of one tile by their differences: all pairs, or those near."""
    program = tl.program_id(0)
    group = (program // (n_tiles * n_tiles)).to(tl.int64)
    row_tile = program // n_tiles % n_tiles
    column_tile = program % n_tiles
    n = tl.load(counts + group).to(tl.int32)
    if (column_tile < row_tile) | (column_tile * TILE >= n):
        return
    left = row_tile * TILE + tl.arange(0, TILE)
    right = column_tile * TILE + tl.arange(0, TILE)
    chosen = left[:, None] <= right[None, :]
    if not ALL:
        pair = (left[:, None] < right[None, :]) & (right < n)[None, :]
        start_of_group = distance + group * n_most * pitch16 * 16
        straight = start_of_group + left.to(tl.int64)[:, None] * (pitch16 * 16) + right[None, :]
        rough = tl.load(straight, mask=pair, other=float("inf"))
        left_norm = tl.load(norm + group * n_most + left, mask=left < n, other=0.0)
        right_norm = tl.load(norm + group * n_most + right, mask=right < n, other=0.0)
        chosen = pair & (rough * width <= near * (left_norm[:, None] + right_norm[None, :]))
        if tl.max(tl.max(chosen.to(tl.int32), axis=1), axis=0) == 0:
            return
    left_row = tl.load(rows + group * n_most + left, mask=left < n, other=0) * width
    right_row = tl.load(rows + group * n_most + right, mask=right < n, other=0) * width
    total = tl.zeros((TILE, TILE, LANES), dtype=tl.float32)
    for start in range(0, width, LANES):
        lane = start + tl.arange(0, LANES)
        a = tl.load(
            base + left_row[:, None] + lane[None, :], mask=(left < n)[:, None] & (lane < width)[None, :], other=0.0
        )
        b = tl.load(
            base + right_row[:, None] + lane[None, :], mask=(right < n)[:, None] & (lane < width)[None, :], other=0.0
        )
        difference = a.to(tl.float32)[:, None, :] - b.to(tl.float32)[None, :, :]
        total += difference * difference
    squared = tl.sum(total, axis=2) / width
    _store_both_sides(distance, squared, chosen, group, left, right, n, n_most, pitch16 * 16)


def pitch(n_most: int) -> int:
    """Return the numbers from one row of distances to the next: whole lines of 64 bytes."""
    return (n_most + 15) // 16 * 16


def squared_distances(base: Tensor, rows: Tensor, counts: Tensor, norm: Tensor, distance: Tensor) -> None:
    """Write the squared distances / C of all pairs of each group, in three launches (of fp32: one).

    Args:
        base: [M, C] bf16, fp16 or fp32, contiguous.
        rows: [G, N] int64, contiguous: the rows of ``base`` that are the group's points, the first of them valid.
        counts: [G] int64: points of each group, from 0 to N.
        norm: [G, N] fp32 to work in.
        distance: [G, N, `pitch` (N)] fp32, contiguous: written where both points are.
    """
    n_groups, n_most = rows.shape
    width, pitch16 = base.shape[1], distance.shape[2] // 16
    whole = base.dtype == torch.float32
    if not whole:
        _norms[(n_groups * n_most,)](base, rows, counts, norm, n_most, width, **_NORMS)
        tiles = triton.cdiv(n_most, _DOTS["TILE"])
        _dots[(n_groups * tiles * tiles,)](
            base, rows, counts, norm, distance, n_most, tiles, pitch16, width, WIDEN=not base.is_cuda, **_DOTS
        )
    tiles = triton.cdiv(n_most, _DIFFERENCES["TILE"])
    _differences[(n_groups * tiles * tiles,)](
        base, rows, counts, norm, distance, NEAR, n_most, tiles, pitch16, width, ALL=whole, **_DIFFERENCES
    )


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launcher can choose, for the compile test."""
    cases = []
    for pointer in POINTERS.values():
        whole = pointer == "*fp32"
        chosen: list[tuple[Any, dict[str, Any]]] = [(_differences, {"ALL": whole, **_DIFFERENCES})]
        if not whole:
            chosen += [(_norms, _NORMS), (_dots, {"WIDEN": False, **_DOTS})]
        for kernel, given in chosen:
            options: dict[str, int] = {name: given[name] for name in ("num_warps", "num_stages") if name in given}
            constants = {name: value for name, value in given.items() if name not in options}
            kinds: dict[str, str] = {"base": pointer, "near": "fp32", "rows": "*i64", "counts": "*i64"}
            kinds |= {"norm": "*fp32", "distance": "*fp32"} | dict.fromkeys(constants, "constexpr")
            cases.append((kernel, {name: kinds.get(name, "i32") for name in kernel.arg_names}, constants, options))
    return cases
