"""How samples of different lengths stand in one tensor: padding on the left, indices to gather by."""

from __future__ import annotations

import torch
from torch import Tensor


def left_padded(places: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack index lists of different lengths with padding on the left.

    Args:
        places: for each row [n] int64.

    Returns:
        index [B, K] int64 (0 where padded) and valid [B, K] bool, K the longest.
    """
    width = max(at.numel() for at in places)
    index = torch.zeros(len(places), width, dtype=torch.long, device=places[0].device)
    valid = torch.zeros(len(places), width, dtype=torch.bool, device=places[0].device)
    for b, at in enumerate(places):
        index[b, width - at.numel() :] = at
        valid[b, width - at.numel() :] = True
    return index, valid


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens ``index`` [B, K] of ``x`` [..., B, S, D] along S."""
    at = index.to(x.device).view(*[1] * (x.ndim - 3), *index.shape, 1)
    return x.gather(-2, at.expand(*x.shape[:-3], *index.shape, x.shape[-1]))


def gather_positions(positions: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Pick position ids [3 or 4, B, S] -> [.., B, K]; a fourth, text row (the first) is counted anew, without gaps."""
    out = positions.gather(-1, index.to(positions.device).expand(positions.shape[0], -1, -1))
    if out.shape[0] == 4:
        out[0] = consecutive(valid).to(out.device)
    return out


def consecutive(valid: Tensor) -> Tensor:
    """Count valid tokens from 0, [B, K] int64: with gaps flash-attention reads one prompt as several."""
    return (valid.long().cumsum(-1) - 1).clamp(min=0)
