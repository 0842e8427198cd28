"""An experiment: temporal positions merged in pairs inside the vision encoder, as EarlyTom merges frames.

After an early block, a position of a video that looks like the next one is averaged with it (EarlyTom, arXiv
2605.30010, by the rule of its code). The blocks after it run on fewer positions. Before the merger each member of a
pair gets a copy of the average, so the decoder sees every position. Angles of the tower know no time, so a pair keeps
its places. Unlike EarlyTom's code, the last position of a segment is never lost, and nothing is left out for good.

This is no option of the package: `research.moving_camera` says how it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from prunevid_qwen.adapters.attachments import hook

LEAST_LIKENESS, LONGEST = 0.6, 8  # of a segment: EarlyTom's T and M
_NEWEST = 0.9  # weight of the newest likeness in its running mean


def likeness(one: Tensor, other: Tensor) -> float:
    """Average the cosine of the patches [P, C] of two positions, place by place."""
    return float(cosine_similarity(one, other, dim=-1).mean())


def segments(states: Tensor) -> list[range]:
    """Cut positions into segments: one ends where its running likeness to its first position is low, or it is long.

    Args:
        states: [T, P, C] of T positions of P patches.
    """
    cuts, first, running = [0], 0, 1.0
    for number in range(1, len(states)):
        running = _NEWEST * likeness(states[number], states[first]) + (1 - _NEWEST) * running
        if running < LEAST_LIKENESS or number - first >= LONGEST:
            cuts.append(number)
            first, running = number, 1.0
    return [range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(states)], strict=True)]


def pairs_of(states: Tensor) -> tuple[Tensor, Tensor]:
    """Choose which positions are merged with the next one.

    Of a segment of at least three the first and the last stay. Between them a position is merged with the next one if
    they are more alike than the segment's ends are, and than the next one and its own next.

    Args:
        states: [T, P, C].

    Returns:
        [T] int64, the number of the position that each becomes a part of, and [T] its weight in that.
    """
    count = len(states)
    alike = [likeness(states[number + 1], states[number]) for number in range(count - 1)]
    second, weights = [False] * count, torch.ones(count)
    for part in segments(states):
        if len(part) < 3:
            continue
        ends, number = likeness(states[part[0]], states[part[-1]]), part[1]
        while number + 1 < part[-1]:
            own, after = alike[number], alike[number + 1]
            if own > ends and own > after:
                second[number + 1] = True
                share = own / (own + after) if own + after > 0 else 0.5
                weights[number], weights[number + 1] = share, 1 - share
                number += 1
            number += 1
    return (~torch.tensor(second)).cumsum(0) - 1, weights


@contextmanager
def pairs_merged(tower: nn.Module, block: int) -> Iterator[list[float]]:
    """Merge pairs of positions after ``block`` in the with-block, for calls of a Qwen2-VL or Qwen2.5-VL tower.

    Each call encodes one video, the blocks' own arguments say how its rows are cut into sequences.

    Yields:
        Of each call, positions after merging as a share of those before it.
    """
    blocks: Any = tower.blocks
    shares: list[float] = []
    positions = 0
    target = torch.empty(0, dtype=torch.long)

    def count(_module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal positions
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        ((positions, _, _),) = grid.tolist()

    def merge(_module: nn.Module, _args: Any, _kwargs: Any, out: Tensor) -> Tensor:
        nonlocal target
        states = out.view(positions, -1, out.shape[-1])
        target, weights = pairs_of(states.float())
        merged = states.new_zeros(int(target[-1]) + 1, *states.shape[1:])
        merged.index_add_(0, target, states * weights.to(states)[:, None, None])
        shares.append(len(merged) / positions)
        return merged.flatten(0, 1)

    def shorten(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        rows = args[0].shape[0]  # positions have equal sequences one after the other: the first ones are enough
        angles = tuple(each[:rows] for each in kwargs["position_embeddings"])
        ends = kwargs["cu_seqlens"]
        return args, {**kwargs, "cu_seqlens": ends[ends <= rows], "position_embeddings": angles}

    def give_back(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return out.view(int(target[-1]) + 1, -1, out.shape[-1])[target].flatten(0, 1)

    with ExitStack() as stack:
        hook(stack, tower.register_forward_pre_hook, count, with_kwargs=True)
        hook(stack, blocks[block].register_forward_hook, merge, with_kwargs=True)
        for later in blocks[block + 1 :]:
            hook(stack, later.register_forward_pre_hook, shorten, with_kwargs=True)
        hook(stack, blocks[-1].register_forward_hook, give_back)
        yield shares
