"""Labels of temporal positions made contiguous on a GPU: three launches, no host sync.

The law is `refine_segments` of stage 1. What looks at one position is done for all at once (its run, its
label's longest run); only the walk over the runs from left to right, where each decision stands on the one before, is
done by one program, a few loads a run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Segments(NamedTuple):
    """The segments of one video of T positions, with room for `most_segments` of T.

    Args:
        start: [S] int64 first positions; T beyond the last segment.
        length: [S] int64; 0 beyond the last segment.
        label: [S] int64: the label that the segment's positions have now.
        number: [1] int64: how many segments there are.
    """

    start: Tensor
    length: Tensor
    label: Tensor
    number: Tensor


def most_segments(positions: int) -> int:
    """Return how many segments there can be: each holds a run of at least two positions, or is the whole video."""
    return max(1, positions // 2)


@triton.jit(do_not_specialize=["n", "most"])
def _runs(  # type: ignore[no-untyped-def]
    labels, run, start, length, label, n, most, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store the length of the run that each position lies in; clear the table of segments."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    own = tl.load(labels + column, mask=column < n, other=0)
    before = tl.load(labels + column - 1, mask=(column > 0) & (column < n), other=0)
    begins = ((column == 0) | (own != before)) & (column < n)
    first = tl.max(tl.where(begins[None, :] & (column[None, :] <= row[:, None]), column[None, :], 0), axis=1)
    stop = tl.min(tl.where(begins[None, :] & (column[None, :] > row[:, None]), column[None, :], n), axis=1)
    tl.store(run + row, stop - first, mask=row < n)
    tl.store(start + row, row * 0 + n, mask=row < most)
    tl.store(length + row, row * 0, mask=row < most)
    tl.store(label + row, row * 0, mask=row < most)


@triton.jit(do_not_specialize=["n"])
def _stay(labels, run, stays, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store which positions keep their label: those in a run of two or more that none of its label is longer than."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    own = tl.load(labels + row, mask=row < n, other=0)
    other = tl.load(labels + column, mask=column < n, other=0)
    lengths = tl.load(run + column, mask=column < n, other=0)
    longest = tl.max(tl.where(own[:, None] == other[None, :], lengths[None, :], 0), axis=1)
    mine = tl.load(run + row, mask=row < n, other=0)
    tl.store(stays + row, ((mine == longest) & (mine > 1)).to(tl.int32), mask=row < n)


@triton.jit(do_not_specialize=["n"])
def _walk(labels, run, stays, start, length, label, count, n):  # type: ignore[no-untyped-def]
    """Walk over the runs: each unassigned stretch joins the longer neighbour, and what is equal grows together."""
    at = tl.cast(0, tl.int32)
    waiting = tl.cast(0, tl.int32)  # positions of the unassigned stretch that ends here
    made = tl.cast(0, tl.int32)  # segments so far; the last has this label, length and start:
    last_label = tl.cast(0, tl.int64)
    last_length = tl.cast(0, tl.int32)
    last_start = tl.cast(0, tl.int32)
    while at < n:
        size = tl.load(run + at)
        own = tl.load(labels + at)
        if tl.load(stays + at) == 0:
            waiting += size
        else:
            # what waits takes this run's label if the run is longer than the last segment (of length 0: there is none)
            goes_right = size > last_length
            same = (own == last_label) & (made > 0)
            joins_last = (waiting > 0) & ((goes_right == 0) | same)
            last_length += tl.where(joins_last, waiting, 0)
            begin = at - tl.where(joins_last, 0, waiting)
            own_length = size + tl.where(joins_last, 0, waiting)
            made += tl.where(same, 0, 1)
            last_start = tl.where(same, last_start, begin)
            last_length = tl.where(same, last_length, 0) + own_length
            last_label = own
            waiting = tl.cast(0, tl.int32)
            tl.store(start + made - 1, last_start)
            tl.store(label + made - 1, last_label)
        at += size
    if made == 0:  # nothing stays: all is one segment of label 0
        made += 1
        tl.store(start, 0)
        tl.store(label, 0)
    tl.store(count, made)
    tl.debug_barrier()  # the starts are read again
    for segment in range(0, made):
        begin = tl.load(start + segment)
        end = n + tl.cast(0, tl.int64)
        if segment + 1 < made:
            end = tl.load(start + segment + 1)
        tl.store(length + segment, end - begin)


def contiguous_segments(labels: Tensor) -> Segments:
    """Make labels contiguous as `stage1_merge.prunevid.segments.refine_segments` does.

    Args:
        labels: [T] int64, contiguous, T from 1 to 4096.

    Raises:
        ValueError: there are more than 4096 positions.
    """
    n, device = labels.numel(), labels.device
    if n > 4096:
        raise ValueError(f"at most 4096 temporal positions, got {n}")
    most = most_segments(n)
    start, length, label = (torch.empty(most, dtype=torch.long, device=device) for _ in range(3))
    count = torch.empty(1, dtype=torch.long, device=device)
    run, stays = (torch.empty(n, dtype=torch.int32, device=device) for _ in range(2))
    tile = _tile(n)
    grid = (triton.cdiv(n, tile["ROWS"]),)
    _runs[grid](labels, run, start, length, label, n, most, **tile)
    _stay[grid](labels, run, stays, n, **tile)
    _walk[(1,)](labels, run, stays, start, length, label, count, n, num_warps=1)
    return Segments(start, length, label, count)


def _tile(n: int) -> dict[str, int]:
    if n <= 256:
        return {"ROWS": 16, "BLOCK": 256, "num_warps": 4}
    return {"ROWS": 2, "BLOCK": 4096, "num_warps": 8}


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launcher can choose, for the compile test."""
    cases = []
    for kernel, chosen in (
        *((kernel, _tile(n)) for kernel in (_runs, _stay) for n in (256, 4096)),
        (_walk, {"num_warps": 1}),
    ):
        constants = {name: value for name, value in chosen.items() if name != "num_warps"}
        kinds = {"run": "*i32", "stays": "*i32", "n": "i32", "most": "i32"}
        signature = {name: "constexpr" if name in constants else kinds.get(name, "*i64") for name in kernel.arg_names}
        cases.append((kernel, signature, constants, {"num_warps": chosen["num_warps"]}))
    return cases
