"""The greedy set of a determinantal point process, for many groups of points at once."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.products import names_its_dtypes

_EXHAUSTED = 1e-6  # a variance below which a point adds nothing to those chosen: the rest goes by quality
_SIMILARITY_BYTES = 2**28  # up to which all similarities are made at once; above it, those of each chosen point
_BLOCK_BYTES = 2**28  # of groups that are chosen from side by side
_LEAST = -1e4  # stands for the logarithm of a quality of 0, so that such points still rank below all others


@names_its_dtypes
def greedy_dpp(log_quality: Tensor, features: Tensor, count: int, valid: Tensor | None = None) -> Tensor:
    """Choose a set of large determinant of L_ij = q_i cos(x_i, x_j) q_j, one best point after the other.

    Kulesza and Taskar (arXiv 1207.6083) for the kernel of quality and similarity, Chen, Zhang and Zhou (arXiv
    1709.05135) for the greedy step, which extends a Cholesky factor by one row.

    Args:
        log_quality: [N], or [B, N] for B groups, natural logarithm of q.
        features: [N, D] or [B, N, D]; directions count, lengths do not. A zero vector is like nothing.
        count: points chosen of each group, in [1, N].
        valid: [B, N] bool, False for padding, which is chosen after all points of its group. None: all are points.

    Returns:
        [count] or [B, count] int64 in the order of choice; ties go to the lower index. Points that add nothing any more
        (the rank of the kernel is used up) follow by quality. Computed in fp64; beside the features, a small group
        takes N * count and N * N numbers. A large one takes D * D at most: what was chosen spans no more.
    """
    if log_quality.dim() == 1:
        return greedy_dpp(log_quality[None], features[None], count)[0]
    batch, n, width = features.shape
    beside = n * (count + n) if _made_at_once(n) else width * min(count, width)
    step = max(1, _BLOCK_BYTES // (8 * (n * width + beside)))
    valid = torch.ones_like(log_quality, dtype=torch.bool) if valid is None else valid
    parts = [slice(at, at + step) for at in range(0, batch, step)]
    return torch.cat([_chosen(log_quality[part], features[part], count, valid[part]) for part in parts])


def _chosen(log_quality: Tensor, features: Tensor, count: int, valid: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(features.double(), dim=2)
    batch, n, _ = unit.shape
    gain = (2 * log_quality.double().clamp(min=_LEAST)).masked_fill(~valid, -torch.inf)
    variance = torch.ones_like(gain)  # of each point, given those chosen
    given = _Factor(unit, count) if _made_at_once(n) else _Basis(unit, count)
    chosen = torch.zeros(batch, count, dtype=torch.long, device=gain.device)
    for step in range(count):
        best = (gain + variance.clamp(min=_EXHAUSTED).log()).argmax(dim=1, keepdim=True)  # [B, 1]
        chosen[:, step : step + 1] = best
        variance = variance - given.row(best, variance.gather(1, best)).square()
        gain.scatter_(1, best, -torch.inf)
    return chosen


class _Factor:
    """The Cholesky factor of the similarities of those chosen with all points, held with all similarities."""

    def __init__(self, unit: Tensor, count: int) -> None:
        batch, n, _ = unit.shape
        self.every = unit @ unit.mT
        self.rows = unit.new_zeros(batch, count, n)
        self.step = 0

    def row(self, best: Tensor, own: Tensor) -> Tensor:
        """Return the factor's next row [B, N], of the point ``best`` [B, 1] of variance ``own``; 0 if that is none."""
        step, self.step = self.step, self.step + 1
        known = self.rows[:, :step].gather(2, best[:, None].expand(-1, step, -1))  # [B, step, 1]
        row = _row(self.every, best) - known.mT @ self.rows[:, :step]  # [B, 1, N]
        self.rows[:, step] = torch.where(own > _EXHAUSTED, row[:, 0] / own.clamp(min=_EXHAUSTED).sqrt(), 0.0)
        return self.rows[:, step]


class _Basis:
    """The same rows from an orthonormal basis of those chosen, which has D vectors at most: no row is held."""

    def __init__(self, unit: Tensor, count: int) -> None:
        batch, _, width = unit.shape
        self.unit = unit
        self.vectors = unit.new_zeros(batch, min(count, width), width)
        self.filled = torch.zeros(batch, 1, dtype=torch.long, device=unit.device)

    def row(self, best: Tensor, own: Tensor) -> Tensor:
        """Return what `_Factor.row` does."""
        vector = _row(self.unit, best)  # [B, 1, D]
        more = (own > _EXHAUSTED) & (self.filled < self.vectors.shape[1]) & vector[:, 0].any(dim=1, keepdim=True)
        for _ in range(2):  # what rounding leaves of the basis is taken off once more
            vector = vector - (vector @ self.vectors.mT) @ self.vectors
        vector = torch.where(more[..., None], torch.nn.functional.normalize(vector, dim=2), 0.0)
        at = self.filled.clamp(max=self.vectors.shape[1] - 1)[..., None].expand_as(vector)
        self.vectors.scatter_add_(1, at, vector)
        self.filled += more
        return (vector @ self.unit.mT)[:, 0]


def _made_at_once(n: int) -> bool:
    return 8 * n**2 <= _SIMILARITY_BYTES


def _row(x: Tensor, at: Tensor) -> Tensor:
    """Row ``at`` [B, 1] of each matrix of [B, N, C]: [B, 1, C]."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))
