"""What `pruned`'s trace says of one prompt, copied to the host and told of the tokens that the vision encoder made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunevid_qwen.kept.value import Ints, Kept, KeptMedium, KeptStep
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import SampleTrace
from prunevid_qwen.video.position_times import frames_of_positions, seconds_of_positions


def kept_of(
    sample: SampleTrace,
    media: Sequence[Mapping[str, Any]] = (),
    question: str = "",
    answer: str = "",
    uneven: Sequence[str] = (),
) -> Kept:
    """Copy what became of a prompt's visual tokens to the host.

    Args:
        sample: a row of the trace that `pruned` yields.
        media: for each video and image of the prompt in order, what a receipt says of it (``stats["input"]``). Without
            them, names, sizes and times are unknown, and a frame counts as large as its grid.
        question: as asked.
        answer: as given.
        uneven: kinds ("video", "image") that the model crops or pads, so that places in the frame are unknown.

    Raises:
        ValueError: ``media`` are not as many as the prompt shows.
    """
    whole = [block for block in sample.blocks if not block.part]
    if media and len(media) != len(whole):
        raise ValueError(f"the prompt shows {len(whole)} videos and images, got facts of {len(media)}")
    facts = iter(media)
    shown, last = list[KeptMedium](), dict[str, Any]()
    for number, block in enumerate(sample.blocks):
        last = last if block.part else dict(next(facts, {}))
        tiled = block.part or any(each.part for each in sample.blocks[number + 1 : number + 2])
        cells = None if sample.cells is None else sample.cells[block.start : block.stop].cpu().numpy()
        shown.append(_medium(block, last, cells, placed=block.kind not in uneven and not tiled))
    return Kept(tuple(shown), _steps(sample), question, answer)


def _steps(sample: SampleTrace) -> tuple[KeptStep, ...]:
    group = own = np.arange(sample.tokens)  # of each token its group, of each group the token whose place it has
    steps = []
    for each in sample.reductions:
        target, place = _members(each.map), each.map.rep.cpu().numpy()
        score = None
        if each.score is not None:
            score = np.full(sample.tokens, np.nan, np.float32)
            alive = group >= 0
            score[alive] = each.score.detach().float().cpu().numpy()[group[alive]]
        group = np.append(target, -1)[group]
        own = own[place]
        owns = np.zeros(sample.tokens, bool)
        owns[own] = True
        steps.append(KeptStep(each.name, each.at, group, owns, score))
    return tuple(steps)


def _members(step: TokenMap) -> Ints:
    """Return the group of each token: of one that only a mix uses, that to which it gives most, first of equals."""
    target: Ints = step.target.cpu().numpy().copy()
    if step.mix is not None:
        source, group, weight = (each.cpu().numpy() for each in (step.mix.source, step.mix.group, step.mix.weight))
        order = np.lexsort((group, -np.abs(weight), source))
        tokens, first = np.unique(source[order], return_index=True)
        lost = target[tokens] < 0
        target[tokens[lost]] = group[order][first[lost]]
    return target


def _medium(block: Block, facts: Mapping[str, Any], cells: Ints | None, placed: bool) -> KeptMedium:
    positions, rows, columns = block.grid
    height, width = facts.get("size", (rows, columns))
    plain = cells is None or np.array_equal(cells, np.arange(positions * rows * columns))
    seconds, frames = None, tuple[tuple[int, ...], ...]()
    if block.kind == "video" and facts.get("timestamps"):
        frames = tuple(tuple(each) for each in frames_of_positions(facts, positions))
        seconds = tuple(seconds_of_positions(facts, positions))
    return KeptMedium(
        block.kind, str(facts.get("source", block.kind)), block.grid, block.start, block.stop,
        (int(width), int(height)), None if plain else cells, seconds, frames, placed,
    )  # fmt: skip
