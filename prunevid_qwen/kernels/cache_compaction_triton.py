"""Compaction of many tensors in one launch: a table on the device says where each one and its copy stand.

Entries are copied as words of up to 8 bytes, whatever they hold: the bits cannot change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WORDS = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}
ELEMENTS = 1024  # words that one program copies: eight a thread, all under way at once
COLUMNS = tl.constexpr(6)  # of the table: address, the copy's address, strides of rows, heads and entries, heads


@triton.jit(do_not_specialize=["index", "past", "kept", "width"])
def _copy(table, index, past, kept, width, WORD: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Copy some entries of one head of one row of one tensor; widths and strides in words."""
    own = table + tl.program_id(2) * COLUMNS
    source = tl.load(own).to(tl.pointer_type(WORD))
    target = tl.load(own + 1).to(tl.pointer_type(WORD))
    row_stride, head_stride, stride = tl.load(own + 2), tl.load(own + 3), tl.load(own + 4)
    n_heads = tl.load(own + 5)
    b, head = tl.program_id(1) // n_heads, tl.program_id(1) % n_heads
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place_is = place < past + kept
    chosen = place_is & (place >= past)
    moved = tl.load(index + b * kept + place - past, mask=chosen, other=0) + past
    origin = tl.where(chosen, moved, place)
    source += b * row_stride + head * head_stride
    target += (b * n_heads + head) * (past + kept) * width
    for start in range(0, width, LANES):
        lane = start + tl.arange(0, LANES)
        inside = place_is[:, None] & (lane < width)[None, :]
        words = tl.load(source + origin[:, None] * stride + lane[None, :], mask=inside)
        tl.store(target + place[:, None] * width + lane[None, :], words, mask=inside)


def compact(tensors: Sequence[Tensor], index: Tensor, past: int) -> list[Tensor]:
    """Compute `cache_compaction.reference` on a GPU; same arguments, the same bits, no host sync.

    One launch for the tensors whose entries have the same number of heads and bytes: of a Qwen2.5-VL, all.
    """
    held = [x if x.stride(3) == 1 else x.contiguous() for x in tensors]
    kept = index.shape[1]
    out = [torch.empty(*x.shape[:2], past + kept, x.shape[3], dtype=x.dtype, device=x.device) for x in held]
    index = index.contiguous()
    alike: dict[tuple[int, int], list[int]] = {}
    for i, x in enumerate(held):
        alike.setdefault((x.shape[1], x.shape[3] * x.element_size()), []).append(i)
    for places in alike.values():
        _launch([held[i] for i in places], [out[i] for i in places], index, past)
    return out


def _launch(held: list[Tensor], out: list[Tensor], index: Tensor, past: int) -> None:
    batch, n_heads, length, dim = out[0].shape
    if not out[0].numel():
        return
    in_bytes = [[s * x.element_size() for s in x.stride()[:3]] for x in held]
    numbers = [n for x, y, strides in zip(held, out, in_bytes, strict=True) for n in (x.data_ptr(), *strides)]
    wide = dim * held[0].element_size()
    word = next(size for size in WORDS if not any(n % size for n in (wide, *numbers)))
    rows = [
        (x.data_ptr(), y.data_ptr(), *(s // word for s in strides), n_heads)
        for x, y, strides in zip(held, out, in_bytes, strict=True)
    ]
    chosen = _tile(wide // word, word)
    grid = (triton.cdiv(length, chosen["ROWS"]), batch * n_heads, len(held))
    _copy[grid](_on_device(rows, index.device), index, past, length - past, wide // word, **chosen)


def _on_device(rows: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """Put a table of numbers on the device: from pinned memory the copy need not be waited for."""
    if device.type == "cpu":
        return torch.tensor(rows)
    return torch.tensor(rows, device="cpu", pin_memory=True).to(device, non_blocking=True)


def _tile(width: int, word: int) -> dict[str, Any]:
    """Return the constants of `_copy` for entries of ``width`` words of ``word`` bytes."""
    lanes = min(triton.next_power_of_2(width), 128)
    return {"WORD": WORDS[word], "LANES": lanes, "ROWS": min(64, max(1, ELEMENTS // lanes)), "num_warps": 4}


def aot_cases() -> list[tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Return (kernel, signature, constants, options) of what the launcher can choose, for the compile test."""
    cases = []
    for word in WORDS:
        for width in (1, 20, 32, 128):
            chosen = _tile(width, word)
            options = {"num_warps": chosen.pop("num_warps")}
            kinds = {"table": "*i64", "index": "*i64"}
            signature = {name: "constexpr" if name in chosen else kinds.get(name, "i32") for name in _copy.arg_names}
            cases.append((_copy, signature, chosen, options))
    return cases
