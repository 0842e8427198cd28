"""When the question looked: the seconds of each video on which the attention that decided lay more than its share.

A span says where a step's evidence lay, not why the answer is what it is: attention is no proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.receipt.keys import LookedAt
from prunevid_qwen.tokens.trace import DOOR, SampleTrace
from prunevid_qwen.video.position_times import seconds_of_positions

MORE_THAN_SHARE = 1.5
"""A temporal position was looked at when it holds this many times the mean of its video's positions."""


def looked_at(sample: SampleTrace, videos: Sequence[Mapping[str, Any]]) -> list[LookedAt] | None:
    """Return the spans of each video that the last step chosen by the question looked at.

    None where no such step acted between the layers, or where it is not known when the videos' frames are shown.

    Args:
        sample: a row of a trace.
        videos: what the receipt says of each video, in order.
    """
    number = last_guided(sample)
    shown = [block for block in sample.blocks if block.kind == "video" and not block.part]
    if number is None or not shown or len(shown) != len(videos) or not all(each.get("timestamps") for each in videos):
        return None
    weights = weight_of_tokens(sample, number)
    out: list[LookedAt] = []
    for index, (block, facts) in enumerate(zip(shown, videos, strict=True)):
        positions, rows, columns = block.grid
        own = weights[block.start : block.stop]
        cells = torch.arange(len(own), device="cpu")
        if sample.cells is not None:
            cells = sample.cells[block.start : block.stop].cpu()
        inside = cells >= 0  # a newline stands in no frame
        at = cells[inside].div(rows * columns, rounding_mode="floor")
        held = torch.zeros(positions, dtype=torch.float64, device="cpu").index_add_(0, at, own[inside])
        out.append({"video": index, "spans": spans_of(held.tolist(), seconds_of_positions(facts, positions))})
    return out


def last_guided(sample: SampleTrace) -> int | None:
    """Return the number of the last step between the layers that read attention or a probe; None: there was none."""
    guided = [number for number, each in enumerate(sample.reductions) if each.guided and each.at > DOOR]
    return guided[-1] if guided else None


def weight_of_tokens(sample: SampleTrace, number: int) -> Tensor:
    """Return how much each token of the prompt's media counts: [sample.tokens] float64 on the CPU, 0 or more.

    What the step kept counts its share of attention where the step chose by it, and 1 otherwise; the rest counts 0.
    Each member of a group of merged tokens gets an equal part.

    Args:
        sample: a row of a trace.
        number: of the step among ``sample.reductions``.
    """
    group = torch.arange(sample.tokens, device="cpu")  # of each token, before the step; -1: none
    for each in sample.reductions[:number]:
        group = _then(group, each.map.target)
    step = sample.reductions[number]
    after = _then(group, step.map.target)
    members = torch.bincount(group[group >= 0], minlength=step.map.n_in).clamp(min=1)
    if step.score is None:
        weight = torch.ones(step.map.n_in, dtype=torch.float64, device="cpu")
    else:
        weight = step.score.detach().cpu().double().softmax(0)  # scores are logarithms
    left = after >= 0
    out = torch.zeros(sample.tokens, dtype=torch.float64, device="cpu")
    out[left] = (weight / members)[group[left]]
    return out


def _then(group: Tensor, target: Tensor) -> Tensor:
    target = target.cpu()
    return torch.where(group >= 0, target[group.clamp(min=0)], group) if target.numel() else torch.full_like(group, -1)


def spans_of(held: Sequence[float], seconds: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Return the spans of the positions that hold clearly more than their share, [start, end] in seconds; [] if none.

    Args:
        held: of each temporal position, 0 or more.
        seconds: when each begins and ends.
    """
    least = MORE_THAN_SHARE * sum(held) / max(1, len(held))
    spans: list[list[float]] = []
    joins = False  # the position before was looked at
    for each, (begin, end) in zip(held, seconds, strict=True):
        looked = each > 0 and each >= least
        if looked and joins:
            spans[-1][1] = round(end, 3)
        elif looked:
            spans.append([round(begin, 3), round(end, 3)])
        joins = looked
    return spans
