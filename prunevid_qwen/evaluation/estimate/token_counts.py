"""Visual tokens after each step of a plan, for a video that nobody has looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.reducer import most
from prunevid_qwen.tokens import Block, TokenLayout
from prunevid_qwen.tokens.trace import DOOR

EXACT, MOST, ALL = "exact", "nothing stands still", "the content decides: counted as all"


@dataclass(frozen=True)
class StepCount:
    """What a step leaves.

    Args:
        at: the layer on whose output it acts, -1 for the decoder's door.
        name: of the method.
        left: visual tokens of a row.
        how: "exact"; "nothing stands still", the most that a merger leaves; or that the content decides.
    """

    at: int
    name: str
    left: int
    how: str = EXACT

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def step_counts(plan: Plan, grid: Sequence[int]) -> list[StepCount]:
    """Return what each step of a plan leaves of one video's tokens.

    Args:
        plan: compiled for the model.
        grid: (positions, rows, columns) of the tokens.
    """
    left, found, of_method = grid[0] * grid[1] * grid[2], list[StepCount](), dict[Any, int]()
    shape: tuple[int, int, int] = (grid[0], grid[1], grid[2])
    for step in plan.steps:
        number = of_method.get(step.name, 0)
        of_method[step.name] = number + 1
        left, how = _left(step, left, shape, number)
        found.append(StepCount(step.at, step.name, left, how))
        shape = (1, 1, left)
    return found


def widths_of(steps: Sequence[StepCount], visual: int, layers: int) -> list[int]:
    """Return the visual tokens that each layer runs on."""
    return [next((each.left for each in reversed(steps) if each.at < layer), visual) for layer in range(layers)]


def _left(step: Step, given: int, grid: tuple[int, int, int], number: int) -> tuple[int, str]:
    own = step.by if step.options is None else step.options
    layout = _layout(given, grid)
    known = most(own, layout, number)
    if known is not None:
        return min(given, known), EXACT
    ratio = getattr(own, "cluster_ratio", None)
    if step.at == DOOR and isinstance(ratio, (int, float)):  # each position on its own, as where all moves
        return min(given, grid[0] * count_of(given // grid[0], ratio)), MOST
    return given, ALL


def _layout(visual: int, grid: tuple[int, int, int]) -> TokenLayout:
    """Return the layout of a prompt of so many visual tokens, in whose place nothing depends on the words."""
    blocks = (Block("video", grid, 0, visual),)
    places = torch.arange(1, 1 + visual)
    return TokenLayout(visual + 2, places, torch.tensor([visual + 1]), blocks, torch.zeros(visual, dtype=torch.long))
