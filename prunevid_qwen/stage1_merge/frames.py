"""What mergers share that decide about each frame by itself: budgets of frames, ranks, and maps of what they keep.

A frame is a temporal position: an image has one. The vision towers attend within it, so the scores of two frames are no
scale of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from prunevid_qwen.tokens import Mix, TokenMap
from prunevid_qwen.tokens.device import tensor_on


def counts_of_frames(count: int, frames: int) -> list[int]:
    """Share out the tokens kept of a video among its frames, as equally as can be; a frame may get none."""
    return [stop - start for start, stop in pairwise(i * count // frames for i in range(frames + 1))]


def parts_of(counts: Sequence[int], part: int) -> list[int]:
    """Share out ``part`` of the tokens that ``counts`` keeps of each frame, in proportion, and at most those.

    Args:
        counts: tokens kept of each frame.
        part: of all of them together, in [0, sum(counts)].
    """
    ends = [end * part // max(1, sum(counts)) for end in accumulate(counts, initial=0)]
    return [stop - start for start, stop in pairwise(ends)]


def column(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return a number for each frame as [F, 1] int64."""
    return tensor_on(list(counts), device)[:, None]


def rank_in_frame(score: Tensor) -> Tensor:
    """Place of each token of each frame by score, highest first: [F, n] int64 of [F, n]; ties by index."""
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def places_of(true: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` True of a mask, ascending: [count] int64, without asking the device."""
    return (~true.flatten()).byte().argsort(stable=True)[:count]


def merged_map(kept: Tensor, into: Tensor, count: int) -> TokenMap:
    """Return the map in which each kept token becomes the mean of itself and of what goes into it.

    Args:
        kept: [F, n] bool.
        into: [F, n] int64: place in its frame of the kept token that a token goes into, its own for a kept one; -1 for
            a token that is dropped.
        count: number of kept tokens.
    """
    number = kept.flatten().long().cumsum(0) - 1
    start = torch.arange(kept.shape[0], device=kept.device)[:, None] * kept.shape[1]
    target = torch.where(into < 0, -1, number[(start + into.clamp(min=0)).flatten()].view_as(into))
    return TokenMap(target.flatten(), places_of(kept, count))


def added_map(kept: Tensor, into: Tensor, count: int, dropped: int) -> TokenMap:
    """Return the map in which the mean of what goes into a kept token is added to it, without halving the sum.

    Args:
        kept: as of `merged_map`.
        into: as of `merged_map`.
        count: number of kept tokens.
        dropped: number of tokens with ``into`` -1.
    """
    whole = merged_map(kept, into, count)
    source = places_of(whole.target >= 0, whole.n_in - dropped)
    group = whole.target[source]
    others = (whole.sizes - 1).clamp(min=1)[group]
    weight = torch.where(kept.flatten()[source], 1.0, others.float().reciprocal())
    return TokenMap(whole.target, whole.rep, mix=Mix(source, group, weight))
