"""Layouts of several images, and what a schedule leaves of them layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.needs import Evidence
from prunevid_qwen.tokens import Block, TokenLayout

QUESTION = 5


def places_of(options: Any, depth: int) -> tuple[int, ...]:
    plan = compile_plan(PruneVidConfig(merger=None, selector=options), depth)
    assert len({id(step.by) for step in plan.steps}) == 1, "a step of several has a reducer of its own"
    return tuple(step.at for step in plan.steps)


def widths(options: Any, sizes: tuple[int, ...], depth: int, seed: int = 0) -> list[list[int]]:
    """Tokens of each image that each layer sees, when the reducer cuts by noise at its places."""
    plan = compile_plan(PruneVidConfig(merger=None, selector=options), depth)
    reducer, places = plan.steps[0].by, plan.places_of(plan.steps[0].by)
    layout, hidden = several_images(sizes)
    numbers = torch.Generator().manual_seed(seed)
    seen = [list(sizes) for _ in range(places[0] + 1)]
    for step, at in enumerate(places):
        chosen = reducer.plan(evidence(reducer, layout, hidden, numbers, step, sizes, places, depth))
        layout, hidden = layout.apply(chosen)[0], chosen.mean(hidden)
        left = [block.stop - block.start for block in layout.blocks]
        until = places[step + 1] if step + 1 < len(places) else depth - 1
        seen += [left] * (until - at)
    assert len(seen) == depth
    return seen


def several_images(sizes: tuple[int, ...]) -> tuple[TokenLayout, Tensor]:
    n = sum(sizes)
    stops = torch.tensor(sizes).cumsum(0).tolist()
    blocks = tuple(Block("image", (1, 1, size), stop - size, stop) for size, stop in zip(sizes, stops, strict=True))
    stratum = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    layout = TokenLayout(n + QUESTION, torch.arange(n), torch.arange(n, n + QUESTION), blocks, stratum)
    return layout, torch.randn(n, 8, generator=torch.Generator().manual_seed(n))


def evidence(
    reducer: Any, layout: TokenLayout, hidden: Tensor, numbers: torch.Generator, step: int, entered: tuple[int, ...],
    places: tuple[int, ...], depth: int,
) -> Evidence:  # fmt: skip
    n = layout.visual.numel()
    rows = torch.rand(QUESTION, n, generator=numbers).log()
    each = reducer.needs.attention is not None and reducer.needs.attention.rows == "each"
    return Evidence(
        layout, hidden, hidden[:0], rows if each else rows[-1], note=torch.tensor([True, False, True, True, False]),
        step=step, entered=entered, steps_at=places, depth=depth,
    )  # fmt: skip
