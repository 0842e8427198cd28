"""Both toys' accuracy side by side: ``python -m research.toys``, after ``prunevid bench accuracy`` of both.

Reads eval/results/moving_shapes and moving_shapes_qwen3vl and writes eval/results/toys: summary.json, and a plot for
light and for dark pages. Then ``python tools/fill_pages.py`` writes the tables of docs/toys.md.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import typer

from prunevid_qwen.cli import run_script
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.shapes.accuracy_summary import Answered, Answers, CellName, clusters, read_answers
from prunevid_qwen.evaluation.shapes.methods import BLANK, UNPRUNED
from research.shapes_run import RESULTS, write_summary

FOLDERS = ("moving_shapes", "moving_shapes_qwen3vl")
"""Of the runs of both toys, below eval/results."""


def compare_toys(first: Answers, second: Answers) -> dict[str, Any]:
    """Compare the order of methods on two models that were asked the same questions.

    Args:
        first: answers of one model.
        second: answers of the other one.

    Returns:
        "losses": by method and budget, each model's difference to itself unpruned and the difference between these
            (second less first), each paired and with its 95 % interval by video, over the questions that both models
            answered in that cell.
        "pairs": by budget, how many pairs of methods were compared, and of those the "same" (both models put the same
            one clearly ahead), "opposite", "first" or "second" (that model alone decides) and "neither". Clearly: the
            interval of the paired difference leaves out 0.
        "swaps": the opposite pairs: method, other, budget, difference and interval on each model, n, conditions.

    Raises:
        ValueError: the models share no question, or one is worded in two ways.
    """
    unpruned = CellName(UNPRUNED, None)
    asked = [question for question in first[unpruned] if question in second[unpruned]]
    if not asked or any(first[unpruned][each].wording != second[unpruned][each].wording for each in asked):
        raise ValueError("the two models were not asked the same questions: run both with the same options")
    cells = [cell for cell in first if cell in second and cell.method not in (UNPRUNED, BLANK)]
    budgets = sorted({cell.budget for cell in cells if cell.budget is not None}, reverse=True)
    losses, pairs, swaps = [], [], []
    for cell in cells:
        both = [question for question in asked if question in first[cell] and question in second[cell]]
        if both:
            losses.append({"method": cell.method, "budget": cell.budget, **_losses(cell, both, first, second)})
    for budget in budgets:
        counts: Counter[str] = Counter()
        for one, other in combinations([cell for cell in cells if cell.budget == budget], 2):
            held = (first[one], first[other], second[one], second[other])
            both = [question for question in asked if all(question in each for each in held)]
            if not both:
                continue
            found = [_difference(answers[one], answers[other], both) for answers in (first, second)]
            verdict = _verdict(*found)
            counts[verdict] += 1
            if verdict == "opposite":
                ahead = (one, other) if found[0].value > 0 else (other, one)
                rows = [_difference(answers[ahead[0]], answers[ahead[1]], both) for answers in (first, second)]
                swaps.append(
                    {
                        "budget": budget,
                        "method": ahead[0].method,
                        "other": ahead[1].method,
                        **intervals.to_dict(first=rows[0], second=rows[1]),
                        "conditions": sorted({question.condition for question in both}),
                    }
                )
        kinds = ("same", "opposite", "first", "second", "neither")
        pairs.append({"budget": budget, "compared": counts.total(), **{kind: counts[kind] for kind in kinds}})
    return {"losses": losses, "pairs": pairs, "swaps": swaps}


def _difference(ours: Answered, theirs: Answered, questions: list[Any]) -> intervals.Estimate:
    right, before = ([each[question].correct for question in questions] for each in (ours, theirs))
    return intervals.paired_difference(right, before, clusters(questions))


def _losses(cell: CellName, questions: list[Any], first: Answers, second: Answers) -> dict[str, Any]:
    unpruned = CellName(UNPRUNED, None)
    own = [
        np.array([answers[cell][each].correct - answers[unpruned][each].correct for each in questions])
        for answers in (first, second)
    ]
    videos = clusters(questions)
    one, other = (intervals.clustered_mean(each, videos) for each in own)
    between = intervals.paired_difference(own[1], own[0], videos)
    tokens = [
        round(float(np.mean([answers[cell][each].layer_average for each in questions])), 4)
        for answers in (first, second)
    ]
    return {**intervals.to_dict(first=one, second=other, between=between), "tokens": tokens}


def _verdict(one: intervals.Estimate, other: intervals.Estimate) -> str:
    decides = [intervals.excludes_zero(each.interval) for each in (one, other)]
    if all(decides):
        return "same" if (one.value > 0) == (other.value > 0) else "opposite"
    return "first" if decides[0] else "second" if decides[1] else "neither"


def summaries(results: Path) -> list[Path]:
    """Return where the summaries of both runs lie."""
    return [results / name / "summary.json" for name in FOLDERS]


def main() -> None:
    """Compare the committed runs of both toys, and draw them."""
    from research.toys_plots import draw_toys

    folder = RESULTS / "toys"
    folder.mkdir(exist_ok=True)
    answers = [read_answers(RESULTS / name) for name in FOLDERS]
    typer.echo(f"summary: {write_summary(folder, {'schema': 1, 'figures': compare_toys(*answers)})}")
    for path in draw_toys(RESULTS, folder):
        typer.echo(f"plot: {path}")


if __name__ == "__main__":
    run_script(main)
