"""Methods at equal time to the first token: the time of each cell, and the answers at a budget of time.

The time runs from a video's pixels to the first token of one answer: the vision tower, the choice of tokens, and the
prefill. Cells seldom take exactly the time that is asked for. A draw by lot between two cells of a method takes any
mean time between theirs, so a method at a budget of time is the draw with exactly that mean, and its answers are the
weighted means of the two cells' answers.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.shapes.accuracy_answers import Answered, Answers, CellName, MeanAnswer, QuestionName
from prunevid_qwen.evaluation.shapes.budgets import Cell
from prunevid_qwen.evaluation.shapes.methods import BLANK, UNPRUNED
from prunevid_qwen.evaluation.shapes.videos import Questioner
from prunevid_qwen.forward.hooks import pruned

TIME_BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the unpruned model's time to the first token."""

ROUNDS = 5
"""How often each cell is timed."""

_Curve = list[tuple[float, Answered]]  # a method's cells on one kind of video, from many tokens to few: time, answers


@torch.no_grad()
def timed(asked: Questioner, cells: Sequence[Cell]) -> list[Cell]:
    """Return cells with ``seconds``: the median time to the first token of the questions, over ``ROUNDS`` rounds.

    Each round times all cells in turn, so that a busy moment hits all alike. Cells that are not reached stay as they
    are, and cells of one config share a time.

    Args:
        asked: about one video of the cells' condition.
        cells: of one condition.
    """
    reached = [PruneVidConfig.from_record(cell["config"]) for cell in cells if cell["status"] == "ok"]
    times: dict[PruneVidConfig, list[float]] = {config: [] for config in reached}
    prompts = {(each.max_frames, each.max_pixels): asked.prompt(each) for each in times}
    for turn in range(ROUNDS + 1):  # the first warms up
        for config, took in times.items():
            with pruned(asked.model.model, config):
                start = time.perf_counter()
                prompt = prompts[config.max_frames, config.max_pixels]
                asked.model.model.generate(**prompt, max_new_tokens=1, do_sample=False)
                took += [time.perf_counter() - start] if turn else []
    seconds = iter([round(statistics.median(times[config]), 6) for config in reached])
    return [{**cell, "seconds": next(seconds)} if cell["status"] == "ok" else cell for cell in cells]


def at_equal_time(answers: Answers, cells: Sequence[Cell]) -> tuple[Answers, list[Cell]]:
    """Return the answers at each of ``TIME_BUDGETS`` instead of the budgets of tokens, and the cells of those.

    The two cells of a draw are the first one of a method, from many tokens to few, that takes at most the budget, and
    the one before it. The first one of all is the unpruned model. A method is out of reach where all its cells take
    longer.

    Args:
        answers: of a run whose cells were timed.
        cells: of its record.
    """
    found: dict[CellName, Answered] = defaultdict(dict)
    found.update({name: own for name, own in answers.items() if name.method in (UNPRUNED, BLANK)})
    out = [cell for cell in cells if cell["method"] in (UNPRUNED, BLANK)]
    own_cells: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell["status"] == "ok" and cell not in out:
            own_cells[cell["condition"], cell["method"]].append(cell)
    parts: dict[CellName, dict[str, Answered]] = defaultdict(lambda: defaultdict(dict))
    for name, own in answers.items():
        for question, answer in own.items():
            parts[name][question.condition][question] = answer
    whole = {cell["condition"]: cell["seconds"] for cell in cells if cell["method"] == UNPRUNED}
    for (condition, method), reached in own_cells.items():
        curve: _Curve = [(1.0, parts[CellName(UNPRUNED, None)][condition])]
        for cell in sorted(reached, key=lambda cell: -(cell["budget"] or 0.0)):
            share = cell["seconds"] / whole[condition]
            curve.append((share, parts[CellName(method, cell["budget"])][condition]))
        for budget in TIME_BUDGETS:
            why = (
                ""
                if (mixed := _draw(curve, budget))
                else (f"at its fastest it takes {percent(min(share for share, _ in curve), 1)} of the unpruned time")
            )
            status = "unreachable" if why else "ok"
            about: Cell = {"method": method, "budget": budget, "condition": condition, "config": None}
            out.append({**about, "status": status, "why": why})
            found[CellName(method, budget)].update(mixed)
    # those that are reached nowhere have no answers
    return {name: found[name] for name in sorted(found, key=lambda name: name.order) if found[name]}, out


def _draw(curve: _Curve, budget: float) -> dict[QuestionName, MeanAnswer]:
    """Mix the answers of two neighbouring cells so that the mean time is the budget; {} where all take longer."""
    for (slower, before), (share, own) in pairwise(curve):
        if share <= budget:
            weight = (budget - share) / (slower - share)
            return {question: _mixed(before[question], answer, weight) for question, answer in own.items()}
    return {}


def _mixed(before: MeanAnswer, own: MeanAnswer, weight: float) -> MeanAnswer:
    if not weight:
        return own
    figures: list[Any] = np.average([before[1:-1], own[1:-1]], axis=0, weights=[weight, 1 - weight]).tolist()
    return MeanAnswer._make([own.wording, *figures, own.random_seeds])
