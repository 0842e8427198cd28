"""The order in which Qwen2.5-VL's vision encoder holds tokens: window after window (arXiv 2502.13923, sec. 2.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def window_order(grids: Sequence[tuple[int, int, int]], side: int) -> Tensor:
    """Return which token of the raster stands at each place when windows follow each other, [N] int64.

    Args:
        grids: merged (T, H, W) of each image or video.
        side: tokens along a window's side; windows at the right and lower edge hold what is left.
    """
    out, before = [], 0
    for t, h, w in grids:
        cell = torch.arange(t * h * w, device="cpu")
        row, column = cell % (h * w) // w, cell % w
        across = -(-w // side)
        window = (cell // (h * w) * -(-h // side) + row // side) * across + column // side
        out.append(window.argsort(stable=True) + before)
        before += t * h * w
    return torch.cat(out)


def in_raster(states: Tensor, unit: int, order: Tensor | None) -> Tensor:
    """Average what a tower holds of patches over each token, and put the tokens in raster order: [N, C].

    Args:
        states: [N * unit, C]; the patches of a token stand together.
        unit: patches of a token.
        order: [N] int64 of `window_order`; None where the tokens stand in raster order.
    """
    tokens = states.view(-1, unit, states.shape[-1]).mean(dim=1)
    if order is None:
        return tokens
    out = torch.empty_like(tokens)
    out[order.to(tokens.device)] = tokens
    return out
