"""Two passes over a video's features on a GPU, with nothing known on the host but their shape.

The first, before the segments are known: the mean of each position over space, and the norm of each token. The second,
of all segments at once: the sum over time of the normalised tokens, whose squared norm is the sum of all pairs' cosines
(`temporal_similarity.reference`), and their mean over time. Both are bound by the features' traffic: 64 MB at 64
positions of 140 tokens of 3584 in bf16, so about 15 microseconds each at an H200's 4.8 TB/s.

Sums are taken in a fixed order, without atomics. The launches may be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_SPACE = {"ROWS": 16, "LANES": 256, "num_warps": 4}
_TIME = {"LANES": 512, "num_warps": 4}
_POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


@triton.jit(do_not_specialize=["locations"])
def _space(  # type: ignore[no-untyped-def]
    x, mean, squares, locations, width, ROWS: tl.constexpr, LANES: tl.constexpr
):
    """Store of one position and some columns the mean over space, and of each token the sum of squares."""
    time = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    total = tl.zeros((ROWS, LANES), dtype=tl.float32)
    for start in range(0, locations, ROWS):
        row = start + tl.arange(0, ROWS)
        token = time * locations + row
        real = (row < locations)[:, None] & (lane < width)[None, :]
        got = tl.load(x + token[:, None] * width + lane[None, :], mask=real, other=0.0).to(tl.float32)
        total += got
        place = token * tl.num_programs(1) + tl.program_id(1)
        tl.store(squares + place, tl.sum(got * got, axis=1), mask=row < locations)
    tl.store(mean + time * width + lane, tl.sum(total, axis=0) / locations, mask=lane < width)


@triton.jit(do_not_specialize=["locations"])
def _time(  # type: ignore[no-untyped-def]
    x, norm, start, length, pairs, mean, locations, width, LANES: tl.constexpr
):
    """Store of one location of one segment, over some columns, the mean over time and a part of the pairs' cosines."""
    cell = tl.program_id(0).to(tl.int64)
    segment = cell // locations
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    n = tl.load(length + segment)
    if n == 0:
        return
    first = tl.load(start + segment) * locations + cell % locations
    unit = tl.zeros((LANES,), dtype=tl.float32)
    total = tl.zeros((LANES,), dtype=tl.float32)
    for at in range(0, n):
        token = first + at * locations
        got = tl.load(x + token * width + lane, mask=lane < width, other=0.0).to(tl.float32)
        scale = 1.0 / tl.maximum(tl.sqrt_rn(tl.load(norm + token)), 1e-12)
        unit += got * scale
        total += got
    wide = unit.to(tl.float64)
    tl.store(pairs + cell * tl.num_programs(1) + tl.program_id(1), tl.sum(wide * wide, axis=0))
    tl.store(mean + cell * width + lane, total / n.to(tl.float32), mask=lane < width)


def over_space(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Average each temporal position over space, and measure each token, in one pass.

    Args:
        tokens: [T, L, C] bf16, fp16 or fp32, contiguous.

    Returns:
        The means [T, C] fp32 and the tokens' squared norms [T * L] fp32.
    """
    t, locations, width = tokens.shape
    parts = triton.cdiv(width, _SPACE["LANES"])
    mean = torch.empty(t, width, dtype=torch.float32, device=tokens.device)
    squares = torch.empty(t * locations, parts, dtype=torch.float32, device=tokens.device)
    _space[(t, parts)](tokens, mean, squares, locations, width, **_SPACE)
    return mean, squares.sum(dim=1)


def over_time(tokens: Tensor, norm: Tensor, start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Compare each location with itself over time, and average it, in all segments in one pass.

    Args:
        tokens: [T, L, C] as in `over_space`.
        norm: [T * L] fp32 squared norms of the tokens.
        start, length: [S] int64: the segments' first positions and lengths; of length 0 there may be any number.

    Returns:
        Mean cosine similarity [S, L] fp64 of all ordered pairs, NaN where there is none; means over time [S, L, C]
        fp32, not written where the length is 0.
    """
    _, locations, width = tokens.shape
    segments = start.numel()
    parts = triton.cdiv(width, _TIME["LANES"])
    pairs = torch.empty(segments, locations, parts, dtype=torch.float64, device=tokens.device)
    mean = torch.empty(segments, locations, width, dtype=torch.float32, device=tokens.device)
    _time[(segments * locations, parts)](tokens, norm, start, length, pairs, mean, locations, width, **_TIME)
    n = length[:, None]
    similarity = (pairs.sum(dim=2) - n) / (n * (n - 1))
    return torch.where(n > 1, similarity, torch.nan), mean


def mean_similarity(segment: Tensor) -> Tensor:
    """Compute `temporal_similarity.reference` of one segment on a GPU: [W, L, C] of any float dtype to [L] fp64."""
    tokens = (segment if segment.dtype in _POINTERS else segment.float()).contiguous()
    start, length = (torch.full((1,), value, device=segment.device) for value in (0, segment.shape[0]))
    return over_time(tokens, over_space(tokens)[1], start, length)[0][0]


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launchers can choose, for the compile test."""
    cases = []
    for pointer in _POINTERS.values():
        for kernel, chosen in ((_space, _SPACE), (_time, _TIME)):
            constants = {name: value for name, value in chosen.items() if name != "num_warps"}
            kinds = {"x": pointer, "start": "*i64", "length": "*i64", "pairs": "*fp64"}
            kinds |= dict.fromkeys(("mean", "squares", "norm"), "*fp32")
            signature = {
                name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names
            }
            cases.append((kernel, signature, constants, {"num_warps": chosen["num_warps"]}))
    return cases
