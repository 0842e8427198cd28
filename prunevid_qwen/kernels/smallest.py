"""The few smallest numbers of many columns at once, by comparing whole rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 8
"""Numbers that can be asked for."""

# A sorting network for 8 numbers, and one for 8 that first rise and then fall (Batcher 1968): pairs to put in order.
_SORT = ((0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7), (0, 1), (2, 3), (4, 5), (6, 7), (2, 4), (3, 5),
         (1, 4), (3, 6), (1, 2), (3, 4), (5, 6))  # fmt: skip
_MERGE = ((0, 4), (1, 5), (2, 6), (3, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 1), (2, 3), (4, 5), (6, 7))


def smallest(d: Tensor, k: int) -> Tensor:
    """Find the k smallest numbers of each column, [B, N, M] -> [B, k, M], in rising order.

    The same numbers as ``d.topk(k, dim=1, largest=False)``, which looks at one column after the other: rows are
    compared as wholes, 8 sorted rows of many stretches at first, then two stretches at a time become one.

    Args:
        d: float numbers, N at least 1.
        k: in [1, min(N, 8)].
    """
    stretches = -(-d.shape[1] // MOST)
    rows = [d[:, i * stretches : (i + 1) * stretches] for i in range(MOST)]
    rows = [F.pad(row, (0, 0, 0, stretches - row.shape[1]), value=math.inf) for row in rows]
    _order(rows, _SORT)
    while stretches > 1:
        half = stretches // 2
        # the smaller halves of a rising and a falling run rise and then fall
        merged = [torch.minimum(rows[i][:, :half], rows[-1 - i][:, half : 2 * half]) for i in range(MOST)]
        _order(merged, _MERGE)
        odd = stretches > 2 * half
        rows = [torch.cat([a, b[:, -1:]], dim=1) for a, b in zip(merged, rows, strict=True)] if odd else merged
        stretches = half + odd
    return torch.cat(rows[:k], dim=1)


def _order(rows: list[Tensor], network: tuple[tuple[int, int], ...]) -> None:
    for i, j in network:
        rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
