"""The tail of all score-based selectors: shares become counts, ties go by index, no video is left without a token."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_topk(score: Tensor, stratum: Tensor, keep_ratio: float, at_least_one_of: Tensor | None = None) -> Tensor:
    """Keep the best ``int(n * keep_ratio)`` of the n tokens of each stratum.

    Args:
        score: [N] of any real dtype, higher is better; equal scores go to the lower index.
        stratum: [N] int64, any values: tokens compete inside their stratum.
        keep_ratio: share kept, in (0, 1].
        at_least_one_of: [N] int64 or None: each of these classes (videos, images) keeps its best token, even if its
            strata all round to none.

    Returns:
        [K] int64 indices, ascending.

    Raises:
        ValueError: ``keep_ratio`` is out of range, or the sizes differ.
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is a share in (0, 1], got {keep_ratio}")
    if score.dim() != 1 or score.shape != stratum.shape:
        raise ValueError(f"score and stratum are both [N], got {list(score.shape)} and {list(stratum.shape)}")
    best_first = score.argsort(descending=True, stable=True)
    rank, size = _rank_in_class(best_first, stratum.to(score.device))
    keep = rank < (size.double() * keep_ratio).long()  # the product and the cut of Python's int(n * keep_ratio)
    if at_least_one_of is not None:
        classes = at_least_one_of.to(score.device)
        has = torch.zeros(int(classes.max()) + 1 if classes.numel() else 0, dtype=torch.bool, device=score.device)
        has[classes[keep]] = True
        keep |= (_rank_in_class(best_first, classes)[0] == 0) & ~has[classes]
    return keep.nonzero()[:, 0]


def _rank_in_class(best_first: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """For each token its place inside its class when taken in the order ``best_first``, and its class's size."""
    _, of, sizes = torch.unique(of, return_inverse=True, return_counts=True)
    by_class = best_first[of[best_first].argsort(stable=True)]
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(by_class.numel(), device=by_class.device)
    return place - (sizes.cumsum(0) - sizes)[of], sizes[of]
