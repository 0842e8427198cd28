"""Made-up samples that a reducer is shown: videos and images of odd sizes, noise and tokens that are all equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.needs import Evidence, Probe, VisionQuery
from prunevid_qwen.reducer import Prepares, Reducer
from prunevid_qwen.tokens import Block, TokenLayout

ShownMedium = tuple[str, tuple[int, int, int]]
_VIDEO, _SMALL, _IMAGE = ("video", (4, 4, 6)), ("video", (2, 2, 2)), ("image", (1, 4, 5))
_ONE_FRAME, _ONE_TOKEN, _ONE_COLUMN = ("video", (1, 5, 5)), ("video", (1, 1, 1)), ("video", (6, 1, 1))
LAYOUTS: dict[str, tuple[ShownMedium, ...]] = {
    "one video": (_VIDEO,),
    "two videos": (_VIDEO, _SMALL),
    "an image": (_IMAGE,),
    "image between videos": (_SMALL, _IMAGE, _VIDEO),
    "one frame": (_ONE_FRAME,),
    "one token": (_ONE_TOKEN,),
    "tokens over time": (_ONE_COLUMN,),
    "one token beside a video": (_VIDEO, _ONE_TOKEN),
}
CONTENT: dict[str, Callable[[int, int], Tensor]] = {
    "noise": lambda n, width: torch.randn(n, width, generator=torch.Generator().manual_seed(n)),
    "all equal": lambda n, width: torch.ones(n, width),
}
QUESTION = 3  # tokens
_WIDTH, _HEADS = 16, 2


def evidence(name: str, content: str = "noise") -> Evidence:
    """Make a sample: each video or image after two text tokens, then three of the question.

    Args:
        name: of ``LAYOUTS``.
        content: of ``CONTENT``.
    """
    blocks: list[Block] = []
    visual: list[int] = []
    stratum: list[int] = []
    start = position = 0
    for i, (kind, (t, h, w)) in enumerate(LAYOUTS[name]):
        size, position = t * h * w, position + 2
        blocks.append(Block(kind, (t, h, w), start, start + size))
        visual += range(position, position + size)
        stratum += [i] * size
        start, position = start + size, position + size
    layout = TokenLayout(
        position + QUESTION,
        torch.tensor(visual),
        torch.arange(position, position + QUESTION),
        tuple(blocks),
        torch.tensor(stratum),
    )
    values = CONTENT[content](start, _WIDTH)
    return Evidence(layout, values, CONTENT[content](QUESTION, _WIDTH), values[:, 0].clone(), start=start)


def only_what_it_asks_for(reducer: Reducer, seen: Evidence, **place: Any) -> Evidence:
    """Return a sample with the evidence that a reducer asks for and no other.

    Args:
        reducer: whose `needs` are met.
        seen: as `evidence` makes it.
        place: fields of `Evidence` that say which step it is.
    """
    needs, n = reducer.needs, seen.layout.visual.numel()
    numbers = torch.Generator().manual_seed(7)
    attention = None if needs.attention is None else seen.attention
    if attention is not None and needs.attention is not None and needs.attention.rows == "each":
        asking = 1 if needs.attention.tokens == "last" else QUESTION
        attention = torch.stack([attention.roll(row) for row in range(asking)])
    probe, vision = needs.probe, needs.vision
    keys = torch.randn(_HEADS, n, _WIDTH // _HEADS, generator=numbers) if needs.keys else None
    turns = torch.rand(n, _WIDTH // _HEADS // 2, generator=numbers).repeat(1, 2) if needs.angles else None
    rows = {"": 0, "last": 1}.get(str(needs.question), QUESTION)
    both = needs.keys and rows
    question_keys = torch.randn(_HEADS, rows, _WIDTH // _HEADS, generator=numbers) if both else None
    whole = dataclasses.replace(seen, question=seen.question[:rows], attention=None)
    note = reducer.prepare(whole) if isinstance(reducer, Prepares) and "note" not in place else place.pop("note", None)
    return dataclasses.replace(
        whole,
        attention=attention,
        probe=None if probe is None else _of_probe(probe, n, numbers),
        vision=None if vision is None else {kind: _of_tower(kind, vision, n, numbers) for kind in vision.kinds},
        marks=torch.rand(n, generator=numbers) if needs.marks else None,
        keys=keys,
        question_keys=question_keys,
        angles=None if turns is None else torch.stack([turns.cos(), turns.sin()]),
        note=note,
        **place,
    )


def _of_probe(probe: Probe, n: int, numbers: torch.Generator) -> Tensor:
    logits = torch.randn(len(probe.layers), probe.heads, 1, n, generator=numbers)
    return logits.log_softmax(-1) if probe.softmax else logits


def _of_tower(kind: str, query: VisionQuery, n: int, numbers: torch.Generator) -> Tensor:
    blocks = len(query.blocks)
    if kind in ("received", "cls", "salience", "pooled"):
        return torch.rand(blocks, n, generator=numbers)
    return torch.randn(blocks, n, query.width or _WIDTH, generator=numbers)
