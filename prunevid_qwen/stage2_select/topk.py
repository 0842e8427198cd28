"""The tail of all score-based selectors: shares become counts, ties go by index, no video is left without a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.tokens import Block


def topk_of_each(score: Tensor, blocks: Sequence[Block], keep_ratio: float, keep_tokens: int | None = None) -> Tensor:
    """Keep the best `count_of` the n tokens of each video and image. Never asks the device.

    Args:
        score: [N] of any real dtype, higher is better; equal scores go to the lower index.
        blocks: partition the N tokens.
        keep_ratio: share kept, in (0, 1].
        keep_tokens: tokens kept of each instead, at least 1; None for the share.

    Returns:
        [K] int64 indices, best first in each block.

    Raises:
        ValueError: ``keep_ratio`` is out of range.
    """
    _check_share(keep_ratio)
    return best_of_each(score, blocks, [count_of(each.stop - each.start, keep_ratio, keep_tokens) for each in blocks])


def best_of_each(score: Tensor, blocks: Sequence[Block], counts: Sequence[int]) -> Tensor:
    """Keep a number of the best tokens of each video and image. Never asks the device.

    Args:
        score: [N] of any real dtype, higher is better; equal scores go to the lower index.
        blocks: partition the N tokens.
        counts: of each block; more than it has is all of it.

    Returns:
        [K] int64 indices, best first in each block.
    """
    parts = []
    for block, count in zip(blocks, counts, strict=True):
        own = score[block.start : block.stop].argsort(descending=True, stable=True)[:count]
        parts.append(own + block.start)
    return torch.cat(parts)


def _check_share(keep_ratio: float) -> None:
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is a share in (0, 1], got {keep_ratio}")


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
    _check_share(keep_ratio)
    if score.dim() != 1 or score.shape != stratum.shape:
        raise ValueError(f"score and stratum are both [N], got {list(score.shape)} and {list(stratum.shape)}")
    best_first = score.argsort(descending=True, stable=True)
    rank, size = _rank_in_class(best_first, stratum.to(score.device))
    keep = rank < (size.double() * keep_ratio).long()  # the product and the cut of Python's int(n * keep_ratio)
    if at_least_one_of is not None:
        classes = at_least_one_of.to(score.device)
        by_class, start, stop = _class_bounds(classes)
        kept = torch.nn.functional.pad(keep[by_class].long().cumsum(0), (1, 0))
        keep |= (_rank_in_class(best_first, classes)[0] == 0) & (kept[stop] == kept[start])
    return keep.nonzero()[:, 0]  # the one question to the device: how many are left


def _class_bounds(of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens sorted by class, [N], and for each token where in that order its class starts and stops."""
    ordered, order = of.sort(stable=True)
    return order, torch.searchsorted(ordered, of), torch.searchsorted(ordered, of, right=True)


def _rank_in_class(best_first: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """For each token its place inside its class when taken in the order ``best_first``, and its class's size."""
    _, start, stop = _class_bounds(of)
    by_class = best_first[of[best_first].argsort(stable=True)]
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(by_class.numel(), device=by_class.device)
    return place - start, stop - start
