"""The greedy step of a determinantal point process over all points, for many groups at once and without host waits."""

from __future__ import annotations

import torch
from torch import Tensor

EXHAUSTED = 1e-6
"""A variance below which a point adds nothing to those chosen: the rest goes by quality."""
NEAR = 2.0**-20
"""Logarithms of gains as close as this are equal: 16 units in the last place of fp32, each 2 ** -24 of a number."""
SIMILARITY_BYTES = 2**28
"""Up to which all similarities are made at once; above it, those of each chosen point."""


def eager_greedy(gain: Tensor, rest: Tensor, variance: Tensor, count: int) -> Tensor:
    """Choose one best point after the other, and bring all points up to date after each.

    Args:
        gain: [B, N] fp64, logarithm of the squared quality; -inf for points that are not there.
        rest: [B, N, D] fp64, the points less what those chosen before span: at first of length 1, or 0.
        variance: [B, N] fp64 of each point given those chosen before: at first 1.
        count: points chosen of each group, in [1, N].

    Returns:
        [B, count] int64 in the order of choice.
    """
    batch, n, _ = rest.shape
    gain = gain.clone()
    given = _Factor(rest, count) if made_at_once(n) else _Basis(rest, count)
    chosen = torch.zeros(batch, count, dtype=torch.long, device=gain.device)
    for step in range(count):
        scores = gain + variance.clamp(min=EXHAUSTED).log()
        # the first of those that are equal to the best: a sum in another order decides nothing
        best = (scores >= scores.amax(dim=1, keepdim=True) - NEAR).byte().argmax(dim=1, keepdim=True)  # [B, 1]
        chosen[:, step : step + 1] = best
        variance = variance - given.row(best, variance.gather(1, best)).square()
        gain.scatter_(1, best, -torch.inf)
    return chosen


class _Factor:
    """The Cholesky factor of the similarities of those chosen with all points, held with all similarities."""

    def __init__(self, rest: Tensor, count: int) -> None:
        batch, n, _ = rest.shape
        self.every = rest @ rest.mT
        self.rows = rest.new_zeros(batch, count, n)
        self.step = 0

    def row(self, best: Tensor, own: Tensor) -> Tensor:
        """Return the factor's next row [B, N], of the point ``best`` [B, 1] of variance ``own``; 0 if that is none."""
        step, self.step = self.step, self.step + 1
        known = self.rows[:, :step].gather(2, best[:, None].expand(-1, step, -1))  # [B, step, 1]
        row = _row(self.every, best) - known.mT @ self.rows[:, :step]  # [B, 1, N]
        self.rows[:, step] = torch.where(own > EXHAUSTED, row[:, 0] / own.clamp(min=EXHAUSTED).sqrt(), 0.0)
        return self.rows[:, step]


class _Basis:
    """The same rows from an orthonormal basis of those chosen, which has D vectors at most: no row is held."""

    def __init__(self, rest: Tensor, count: int) -> None:
        batch, _, width = rest.shape
        self.rest = rest
        self.vectors = rest.new_zeros(batch, min(count, width), width)
        self.filled = torch.zeros(batch, 1, dtype=torch.long, device=rest.device)

    def row(self, best: Tensor, own: Tensor) -> Tensor:
        """Return what `_Factor.row` does."""
        vector = _row(self.rest, best)  # [B, 1, D]
        more = (own > EXHAUSTED) & (self.filled < self.vectors.shape[1]) & vector[:, 0].any(dim=1, keepdim=True)
        for _ in range(2):  # what rounding leaves of the basis is taken off once more
            vector = vector - (vector @ self.vectors.mT) @ self.vectors
        vector = torch.where(more[..., None], torch.nn.functional.normalize(vector, dim=2), 0.0)
        at = self.filled.clamp(max=self.vectors.shape[1] - 1)[..., None].expand_as(vector)
        self.vectors.scatter_add_(1, at, vector)
        self.filled += more
        return (vector @ self.rest.mT)[:, 0]


def made_at_once(n: int) -> bool:
    """Say whether all similarities of n points are held."""
    return 8 * n**2 <= SIMILARITY_BYTES


def _row(x: Tensor, at: Tensor) -> Tensor:
    """Row ``at`` [B, 1] of each matrix of [B, N, C]: [B, 1, C]."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))
