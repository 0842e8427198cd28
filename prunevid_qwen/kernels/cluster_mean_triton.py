"""Means of groups on a GPU: tokens sorted by group, each program adds the members of one group in token order.

No atomics: the same bits in every run. The launch may be captured in a CUDA graph; torch.compile may trace through it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES = 1024
_POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


@triton.jit
def _means(x, member, first, out, width, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the mean of one group over some columns; 0 for a group without members."""
    group = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * LANES + tl.arange(0, LANES)
    start = tl.load(first + group)
    stop = tl.load(first + group + 1)
    total = tl.zeros((LANES,), dtype=tl.float32)
    for at in range(start, stop):
        row = tl.load(member + at)
        total += tl.load(x + row * width + lane, mask=lane < width, other=0.0).to(tl.float32)
    mean = tl.div_rn(total, tl.maximum(stop - start, 1).to(tl.float32))
    tl.store(out + group * width + lane, mean, mask=lane < width)


def cluster_mean(x: Tensor, target: Tensor, n_out: int) -> Tensor:
    """Compute `cluster_mean.reference` on a GPU; same arguments, same result to rounding, no host sync."""
    if x.dtype not in _POINTERS:
        return cluster_mean(x.float(), target, n_out).to(x.dtype)
    flat = x.reshape(x.shape[0], -1).contiguous()
    width = flat.shape[1]
    out = torch.empty(n_out, width, dtype=x.dtype, device=x.device)
    if out.numel():
        by_group, member = target.sort(stable=True)  # dropped tokens, -1, come first
        first = torch.searchsorted(by_group, torch.arange(n_out + 1, device=x.device))
        _means[(n_out, triton.cdiv(width, _LANES))](flat, member, first, out, width, LANES=_LANES, num_warps=4)
    return out.view(n_out, *x.shape[1:])


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launcher can choose, for the compile test."""
    return [
        (
            _means,
            {"x": kind, "member": "*i64", "first": "*i64", "out": kind, "width": "i32", "LANES": "constexpr"},
            {"LANES": _LANES},
            {"num_warps": 4},
        )
        for kind in _POINTERS.values()
    ]
