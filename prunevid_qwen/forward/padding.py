"""How samples of different lengths stand in one tensor: padding on the left, indices to gather by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.tokens.device import moved


def on_host(*tensors: Tensor | None) -> list[Any]:
    """Copy whole-number or bool tensors to the CPU, all in one transfer: the host waits once. None stays None."""
    given = [x for x in tensors if x is not None]
    if any(x.device.type == "cpu" for x in given):
        return [None if x is None else x.cpu() for x in tensors]
    sizes = [x.numel() for x in given]
    flat = iter(torch.split(torch.cat([x.reshape(-1).long().to(given[0].device) for x in given]).cpu(), sizes))
    return [None if x is None else next(flat).view(x.shape) for x in tensors]


def left_padded(places: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack index lists of different lengths with padding on the left.

    Args:
        places: for each row [n] int64.

    Returns:
        index [B, K] int64 (0 where padded) and, on the CPU, valid [B, K] bool; K the longest.
    """
    width = max(at.numel() for at in places)
    index = torch.zeros(len(places), width, dtype=torch.long, device=places[0].device)
    valid = torch.zeros(len(places), width, dtype=torch.bool, device="cpu")  # whatever the default device is
    for b, at in enumerate(places):
        index[b, width - at.numel() :] = at
        valid[b, width - at.numel() :] = True
    return index, valid


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens ``index`` [B, K] of ``x`` [..., B, S, D] along S."""
    at = index.to(x.device).view(*[1] * (x.ndim - 3), *index.shape, 1)
    return x.gather(-2, at.expand(*x.shape[:-3], *index.shape, x.shape[-1]))


def gather_positions(positions: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Pick position ids [B, S] or [3 or 4, B, S] -> [.., B, K]; a fourth, text row is counted anew, without gaps."""
    if positions.ndim == 2:
        return positions.gather(-1, index.to(positions.device))
    out = positions.gather(-1, index.to(positions.device).expand(positions.shape[0], -1, -1))
    if out.shape[0] == 4:
        out[0] = moved(consecutive(valid), out.device)
    return out


def consecutive(valid: Tensor) -> Tensor:
    """Count valid tokens from 0, [B, K] int64: with gaps flash-attention reads one prompt as several."""
    return (valid.long().cumsum(-1) - 1).clamp(min=0)


def grown(valid: Tensor | None, held: int, new: Tensor) -> Tensor | None:
    """Extend validity [B, >= held] (None: all valid), cut to ``held``, by that of [B, q] tokens; None: all is valid."""
    if valid is None and bool(new.all()):
        return None
    before = new.new_ones(new.shape[0], held) if valid is None else valid[:, :held].to(new.device)
    return torch.cat([before, new], dim=1)
