"""Question-to-visual scores in two passes over tiles of logits that never leave the chip.

The first pass gives each query row the logarithm of its softmax's sum, over all keys (online softmax: Milakov and
Gimelshein 2018, arXiv 1805.02867); the keys are split among programs, since a question has few rows. The second makes
the logits of the visual columns again, subtracts that, and reduces over heads and rows. What comes in several parts is
put together in a fixed order, and how the work is cut depends on sizes alone: equal inputs give equal bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

KEYS_AT_ONCE = 64  # keys of the largest tile
KEYS_OF_A_SPLIT, MOST_SPLITS = 512, 32
_POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


@triton.jit
def _logits(  # type: ignore[no-untyped-def]
    q, k, q_row, k_row, row_is, key_is, D: tl.constexpr, LANES: tl.constexpr, WIDEN: tl.constexpr
):
    """Products of some query rows and keys, [rows, keys] fp32; q_row and k_row are where they begin.

    Triton's interpreter multiplies the bits of bf16 as integers: there, WIDEN.
    """
    out = tl.zeros((q_row.shape[0], k_row.shape[0]), dtype=tl.float32)
    for start in range(0, D, LANES):
        lane = start + tl.arange(0, LANES)
        a = tl.load(q + q_row[:, None] + lane[None, :], mask=row_is[:, None] & (lane < D)[None, :], other=0.0)
        b = tl.load(k + k_row[None, :] + lane[:, None], mask=key_is[None, :] & (lane < D)[:, None], other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        out = tl.dot(a, b, out, input_precision="ieee")
    return out


@triton.jit(do_not_specialize=["rows_at", "n_rows", "length", "split_keys"])
def _row_sums(  # type: ignore[no-untyped-def]
    q, k, rows_at, out, scale, n_rows, length, split_keys, q_head, q_row, k_head, k_row,
    GROUP: tl.constexpr, D: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Store log(sum(exp(logits))) of some rows over one split of the keys, out [splits, H, Q]; -inf of no key.

    The query heads of a key head are rows of one matrix: row r is query r % Q of head r // Q.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kv_head = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    row_is = row < GROUP * n_rows
    head = kv_head * GROUP + row // n_rows
    query = row % n_rows
    q_starts = head * q_head + query * q_row
    last = length + tl.zeros((ROWS,), dtype=tl.int64)
    if CAUSAL:
        last = tl.load(rows_at + query, mask=row_is, other=0)
    top = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    stop = tl.minimum((split + 1) * split_keys, length)
    for start in range(split * split_keys, stop, KEYS):
        key = start + tl.arange(0, KEYS)
        key_is = key < stop
        k_starts = kv_head * k_head + key.to(tl.int64) * k_row
        logits = _logits(q, k, q_starts, k_starts, row_is, key_is, D, LANES, WIDEN) * scale
        logits = tl.where(key_is[None, :] & (key[None, :] <= last[:, None]), logits, float("-inf"))
        new = tl.maximum(top, tl.max(logits, axis=1))
        above = tl.where(new == float("-inf"), 0.0, new)  # no key yet: -inf - -inf would be NaN
        total = total * tl.exp(top - above) + tl.sum(tl.exp(logits - above[:, None]), axis=1)
        top = new
    sums = tl.where(total > 0, top + tl.log(total), float("-inf"))
    place = split.to(tl.int64) * tl.num_programs(1) * GROUP * n_rows + head * n_rows + query
    tl.store(out + place, sums, mask=row_is)


@triton.jit(do_not_specialize=["columns", "rows_at", "n_rows", "n_columns", "n_splits", "n_heads"])
def _columns(  # type: ignore[no-untyped-def]
    q, k, columns, rows_at, sums, out, scale, n_rows, n_columns, n_splits, n_heads, q_head, q_row, k_head, k_row,
    GROUP: tl.constexpr, D: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SPLITS: tl.constexpr, CAUSAL: tl.constexpr, MAX_HEADS: tl.constexpr, MAX_ROWS: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Reduce some columns over some rows and some heads, out [head parts, row parts, N]: a log of a maximum, or a sum.

    Heads come first: a maximum is taken of logarithms, a mean becomes a sum of probabilities.
    """
    at = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    at_is = at < n_columns
    key = tl.load(columns + at, mask=at_is, other=0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_is = row < n_rows
    seen = row_is[:, None] & at_is[None, :]
    if CAUSAL:
        seen = seen & (key[None, :] <= tl.load(rows_at + row, mask=row_is, other=0)[:, None])
    split = tl.arange(0, SPLITS)
    heads_each = n_heads // tl.num_programs(2)  # whole groups: see `_parts_of_heads`
    first = tl.program_id(2) * heads_each
    over_heads = tl.full((ROWS, KEYS), float("-inf") if MAX_HEADS else 0.0, dtype=tl.float32)
    for head in range(first, first + heads_each):
        wide = tl.cast(head, tl.int64)
        part = tl.load(
            sums + (split.to(tl.int64) * n_heads + wide)[:, None] * n_rows + row[None, :],
            mask=(split < n_splits)[:, None] & row_is[None, :], other=float("-inf"),
        )  # fmt: skip
        top = tl.max(part, axis=0)
        top = tl.where(row_is, top, 0.0)
        whole = top + tl.log(tl.sum(tl.exp(part - top[None, :]), axis=0))
        starts = wide * q_head + row.to(tl.int64) * q_row
        k_starts = (wide // GROUP) * k_head + key * k_row
        logits = _logits(q, k, starts, k_starts, row_is, at_is, D, LANES, WIDEN) * scale
        log_p = tl.where(seen, logits - whole[:, None], float("-inf"))
        over_heads = tl.maximum(over_heads, log_p) if MAX_HEADS else over_heads + tl.exp(log_p)
    if MAX_ROWS:
        got = tl.max(over_heads, axis=0)
    else:
        got = tl.sum(tl.exp(over_heads) if MAX_HEADS else over_heads, axis=0)
    place = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * n_columns + at
    tl.store(out + place, got, mask=at_is)


@triton.jit(do_not_specialize=["n_columns", "n_parts"])
def _together(  # type: ignore[no-untyped-def]
    parts, out, factor, n_columns, n_parts, KEYS: tl.constexpr, IS_LOG: tl.constexpr, MAX_ROWS: tl.constexpr
):
    """Put the parts [n_parts, N] of each column together, one after the other; out [N] the logarithm."""
    at = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    at_is = at < n_columns
    got = tl.full((KEYS,), float("-inf") if MAX_ROWS else 0.0, dtype=tl.float32)
    for i in range(n_parts):
        part = tl.load(parts + tl.cast(i, tl.int64) * n_columns + at, mask=at_is, other=0.0)
        got = tl.maximum(got, part) if MAX_ROWS else got + part
    tl.store(out + at, got if IS_LOG else tl.log(got * factor), mask=at_is)


def question_attention(
    q: Tensor,
    k: Tensor,
    columns: Tensor,
    rows_at: Tensor | None,
    scale: float,
    heads: str = "max",
    rows: str = "max",
) -> Tensor:
    """Compute `question_attention.reference` on a GPU; same arguments, same result to rounding, no host sync."""
    if rows == "last":
        q, rows_at = q[:, -1:], None if rows_at is None else rows_at[-1:]
    if q.dtype != k.dtype or q.dtype not in _POINTERS:
        q, k = q.float(), k.float()
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    n_heads, n_rows, dim = q.shape
    kv_heads, length, _ = k.shape
    group, n_columns = n_heads // kv_heads, columns.numel()
    out = torch.empty(n_columns, dtype=torch.float32, device=q.device)
    if not n_columns:
        return out
    columns = columns.contiguous()
    places = columns if rows_at is None else rows_at.contiguous()  # unread where there is no rule
    strides = (q.stride(0), q.stride(1), k.stride(0), k.stride(1))

    interpreted = not q.is_cuda
    tile = _tile(q.dtype, dim, group * n_rows, True, interpreted)
    split_keys, n_splits = _splits(length)
    sums = torch.empty(n_splits, n_heads, n_rows, dtype=torch.float32, device=q.device)
    grid = (triton.cdiv(group * n_rows, tile["ROWS"]), kv_heads, n_splits)
    causal = rows_at is not None
    _row_sums[grid](
        q, k, places, sums, float(scale), n_rows, length, split_keys, *strides, GROUP=group, CAUSAL=causal, **tile
    )  # fmt: skip

    tile = _tile(q.dtype, dim, n_rows, False, interpreted)
    max_heads = heads == "max"
    max_rows = max_heads if n_rows == 1 else rows != "mean"
    grid = (
        triton.cdiv(n_columns, tile["KEYS"]),
        triton.cdiv(n_rows, tile["ROWS"]),
        kv_heads if max_heads == max_rows else 1,  # other reductions need all heads of a row together
    )
    parts = torch.empty(grid[1] * grid[2], n_columns, dtype=torch.float32, device=q.device)
    _columns[grid](
        q, k, columns, places, sums, parts, float(scale), n_rows, n_columns, n_splits, n_heads, *strides, GROUP=group,
        SPLITS=triton.next_power_of_2(n_splits), CAUSAL=causal, MAX_HEADS=max_heads, MAX_ROWS=max_rows, **tile
    )  # fmt: skip
    factor = 1.0 / ((1 if max_heads else n_heads) * (1 if max_rows else n_rows))
    _together[(triton.cdiv(n_columns, 256),)](
        parts, out, factor, n_columns, parts.shape[0], KEYS=256, IS_LOG=max_heads and max_rows, MAX_ROWS=max_rows
    )
    return out


def _splits(length: int) -> tuple[int, int]:
    """Return the keys of a split, whole tiles, and how many splits there are; never by what else the GPU does."""
    wanted = min(MOST_SPLITS, triton.cdiv(length, KEYS_OF_A_SPLIT))
    keys = triton.cdiv(triton.cdiv(length, wanted), KEYS_AT_ONCE) * KEYS_AT_ONCE
    return keys, triton.cdiv(length, keys)


def _tile(dtype: torch.dtype, dim: int, rows: int, sums: bool, interpreted: bool) -> dict[str, Any]:
    """Return the constants of `_row_sums` or `_columns` and how it is compiled.

    fp32 products are made exactly, on the plain units, whose operands lie in registers: small tiles.
    """
    exact = dtype == torch.float32
    return {
        "D": dim,
        "LANES": min(triton.next_power_of_2(max(dim, 16)), 32 if exact else 128),
        "ROWS": 16 if exact else min(max(16, triton.next_power_of_2(rows)), 64 if sums else 32),
        "KEYS": KEYS_AT_ONCE if sums and not exact else 32,
        "WIDEN": interpreted and dtype == torch.bfloat16,
        "num_warps": 4,
        "num_stages": 2,
    }


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launcher can choose, for the compile test.

    Head dimensions stand for their classes: one below a power of two, and one that takes two rounds of lanes.
    """
    cases = []
    for dtype, pointer in _POINTERS.items():
        for dim, rows in ((16, 1), (80, 32), (128, 1), (128, 64), (256, 64)):
            for causal, max_heads, max_rows in ((True, True, True), (False, False, False)):
                chosen = {"GROUP": 7, "CAUSAL": causal}
                cases.append(_case(_row_sums, pointer, chosen | _tile(dtype, dim, rows, True, False)))
                chosen |= {"SPLITS": MOST_SPLITS, "MAX_HEADS": max_heads, "MAX_ROWS": max_rows}
                cases.append(_case(_columns, pointer, chosen | _tile(dtype, dim, rows, False, False)))
    for is_log, max_rows in ((True, True), (False, True), (False, False)):
        cases.append(_case(_together, "*fp32", {"KEYS": 256, "IS_LOG": is_log, "MAX_ROWS": max_rows}))
    return cases


def _case(kernel: Any, pointer: str, chosen: dict[str, Any]) -> tuple[Any, dict[str, str], dict[str, Any], Any]:
    options = {name: chosen.pop(name) for name in ("num_warps", "num_stages") if name in chosen}
    kinds = {"q": pointer, "k": pointer, "columns": "*i64", "rows_at": "*i64", "scale": "fp32", "factor": "fp32"}
    kinds |= dict.fromkeys(("out", "sums", "parts"), "*fp32")
    signature = {name: "constexpr" if name in chosen else kinds.get(name, "i32") for name in kernel.arg_names}
    return kernel, signature, chosen, options
