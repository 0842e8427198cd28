"""From raw answers to figures: of one run (``summary.json``), and of a run against another.

The same answers give the same bytes, whatever the order or number of workers that gave them: sorted, rounded, no times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report import intervals
from prunevid_qwen.evaluation.report.page import Row, json_text
from prunevid_qwen.evaluation.shapes.accuracy_answers import AGAIN, Answered
from prunevid_qwen.evaluation.shapes.accuracy_answers import Answers as Answers
from prunevid_qwen.evaluation.shapes.accuracy_answers import CellName as CellName
from prunevid_qwen.evaluation.shapes.accuracy_answers import MeanAnswer as MeanAnswer
from prunevid_qwen.evaluation.shapes.accuracy_answers import QuestionName as QuestionName
from prunevid_qwen.evaluation.shapes.accuracy_answers import read_answers as read_answers
from prunevid_qwen.evaluation.shapes.accuracy_answers import read_run as read_run
from prunevid_qwen.evaluation.shapes.budgets import LEFT_OUT
from prunevid_qwen.evaluation.shapes.equal_time import at_equal_time
from prunevid_qwen.evaluation.shapes.methods import BLANK, JUDGED, UNPRUNED
from prunevid_qwen.evaluation.store import replace

BETTER, WORSE, NOISE = "better", "worse", "within noise"
COST_MARGIN = 0.05
"""Relative difference in layer-averaged tokens from which two cells no longer cost the same."""

_OF_THE_RUN = (
    "family", "command", "commit", "uncommitted_changes", "versions", "machine", "options", "conditions", "seeds",
)  # fmt: skip


def paired(ours: Mapping[Any, MeanAnswer], theirs: Mapping[Any, MeanAnswer]) -> Row | None:
    """Compare two cells, of one run or two, over the questions that both answer; None where there is none.

    Returns: n, videos, our accuracy and its difference to theirs, with intervals, and "tokens": the mean layer-averaged
        share of both.
    """
    both = [question for question in ours if question in theirs]
    if not both:
        return None
    right, before = ([each[question].correct for question in both] for each in (ours, theirs))
    videos = clusters(both)
    difference = intervals.paired_difference(right, before, videos)
    row = intervals.to_dict(accuracy=intervals.clustered_mean(right, videos), difference=difference)
    tokens = (np.mean([each[question].layer_average for question in both]) for each in (ours, theirs))
    return {**row, "tokens": tuple(map(float, tokens))}


def clusters(questions: Iterable[Any]) -> list[int]:
    """Return the video of each question, counted from 0: what the bootstrap draws."""
    names = [question[:2] for question in questions]
    place = {name: number for number, name in enumerate(sorted(set(names)))}
    return [place[name] for name in names]


def summarise(answers: Answers, run: Row) -> Row:
    """Return every figure of a run, by its answers and its record (``run.json``).

    Returns:
        ``run``: of the record; ``figures``: of each cell at a budget of tokens; ``by_time``: the same at budgets of
        time, if the cells were timed.

    Raises:
        ConfigError: the unpruned answers are missing, or those of a cell that the run calls reached.
    """
    cells: list[Row] = run.get("cells", [])
    timed = any("seconds" in cell for cell in cells)
    return {
        "schema": 1,
        "run": {key: run[key] for key in _OF_THE_RUN if key in run},
        "figures": figures_of(answers, cells),
        **({"by_time": figures_of(*at_equal_time(answers, cells))} if timed else {}),
    }


def figures_of(answers: Answers, of_the_run: Sequence[Row]) -> Row:
    """Return the figures of answers to the cells of a run.

    Returns:
        "unpruned", "blank" (of a grey video; None if that was not asked), "cells"
        (`paired` with unpruned, as a whole and by condition, type and way of asking; tokens; evidence recall), "pairs"
        (the judged methods against all others at their budget), "unreachable", and "left_out" if the model cannot be
        pruned by every method. Shares lie in [0, 1], differences in [-1, 1].

    Raises:
        ConfigError: the unpruned answers are missing, or those of a cell that the run calls reached.
    """
    unpruned = answers.get(CellName(UNPRUNED, None), {})
    if not unpruned or any(own.keys() - unpruned.keys() for own in answers.values()):
        raise ConfigError(f"no unpruned answers to compare with, or not to all questions: {AGAIN}")
    stored: dict[CellName, dict[str, Row]] = defaultdict(dict)  # the cells of run.json, by condition
    for cell in sorted(of_the_run, key=lambda cell: str(cell["condition"])):
        name, condition = CellName(cell["method"], cell["budget"]), cell["condition"]
        stored[name][condition] = cell
        asked = [question for question in unpruned if question.condition == condition]
        missing = len(asked) - len(answers.get(name, {}).keys() & asked)
        if cell["status"] == "ok" and missing:
            raise ConfigError(f"{name} has no answer to {missing} questions in {condition}: {AGAIN}")
    cells = [_cell(name, own, unpruned, stored[name]) for name, own in answers.items()]
    pairs = [
        {"method": name.method, "against": other.method, "budget": name.budget}
        | {"conditions": sorted({question.condition for question in own.keys() & theirs.keys()})}
        | {figure: found[figure] for figure in ("n", "videos", "difference", "difference_interval")}
        for name, own in answers.items()
        for other, theirs in answers.items()
        if name.method in JUDGED and name.budget == other.budget and name != other
        if (found := paired(own, theirs))
    ]
    unreachable = [
        {"method": name.method, "budget": name.budget, "condition": condition, "why": cell.get("why", "")}
        for name in sorted(stored, key=lambda name: name.order)
        for condition, cell in stored[name].items()
        if cell["status"] not in ("ok", LEFT_OUT)
    ]
    left_out = {cell["method"]: cell["why"] for cell in of_the_run if cell["status"] == LEFT_OUT}
    conditions = {
        condition: {"questions": len(own), "videos": len({question.seed for question in own})}
        for condition, own in _split(unpruned, lambda question, _: question.condition).items()
    }
    return {
        "questions": len(unpruned),
        "videos": len(set(clusters(unpruned))),
        "conditions": conditions,
        "unpruned": next(cell for cell in cells if cell["method"] == UNPRUNED),
        "blank": next((cell for cell in cells if cell["method"] == BLANK), None),
        "cells": [cell for cell in cells if cell["method"] not in (UNPRUNED, BLANK)],
        "pairs": pairs,
        "unreachable": unreachable,
        **({"left_out": left_out} if left_out else {}),
    }


def write_summary(folder: Path) -> Path:
    """Summarise the run in ``folder`` and write ``summary.json`` beside its answers; raises as `summarise`."""
    path = folder / "summary.json"
    replace(path, json_text(summarise(read_answers(folder), read_run(folder)), True, True).encode())
    return path


def _split(own: Answered, label: Callable[[QuestionName, MeanAnswer], str]) -> dict[str, Answered]:
    parts: dict[str, Answered] = defaultdict(dict)
    for question, answer in own.items():
        parts[label(question, answer)][question] = answer
    return dict(sorted(parts.items()))


_GROUPS: dict[str, Callable[[QuestionName, MeanAnswer], str]] = {
    "by_condition": lambda question, _: question.condition,
    "by_type": lambda _, answer: answer.wording[0],
    "by_way": lambda _, answer: "multiple choice" if answer.wording[1] else "one word",
}


def _cell(name: CellName, own: Answered, unpruned: Answered, stored: dict[str, Row]) -> Row:
    def against_unpruned(part: Answered) -> Row:
        found = paired(part, unpruned) or {}
        found.pop("tokens", None)
        return found

    def mean_over_videos(figure: str) -> float | None:
        known = {question: share for question, each in own.items() if not np.isnan(share := getattr(each, figure))}
        if not known:
            return None
        videos = clusters(known)
        return intervals.rounded(intervals.mean_of_strata(list(known.values()), videos, videos).value)

    shown = {question: each for question, each in own.items() if not np.isnan(each.evidence_kept + each.kept)}
    evidence = None  # recall of the tokens on the asked-about objects, share of all tokens kept for the same questions
    if shown:
        figures = {"recall": "evidence_kept", "kept": "kept"}
        shares = {name: [getattr(each, figure) for each in shown.values()] for name, figure in figures.items()}
        means = {name: intervals.clustered_mean(values, clusters(shown)) for name, values in shares.items()}
        evidence = intervals.to_dict(**means)
    seconds = {condition: cell["seconds"] for condition, cell in stored.items() if "seconds" in cell}
    return {
        "method": name.method,
        "budget": name.budget,
        "achieved": mean_over_videos("layer_average"),
        "retained": mean_over_videos("retained"),
        "random_seeds": next(iter(own.values())).random_seeds,
        "evidence": evidence,
        **({"seconds": seconds} if seconds else {}),
        "config": {condition: cell.get("config") for condition, cell in stored.items() if cell["status"] == "ok"},
        "unreached": {condition: cell.get("why", "") for condition, cell in stored.items() if cell["status"] != "ok"},
        **against_unpruned(own),
        **{
            group: {part: against_unpruned(of_part) for part, of_part in _split(own, label).items()}
            for group, label in _GROUPS.items()
        },
    }


def compare(new: Answers, baseline: Answers) -> list[Row]:
    """Compare every cell that both runs have, over the questions that both were asked.

    Returns: by method, first over all its budgets together ("all", the sharpest verdict), then each, large ones first:
        method, budget, `paired`, "same_cost" and "verdict", which without an interval is noise.

    Raises:
        ConfigError: the runs share no question, or word one differently: they say nothing about each other.
    """
    ours, theirs = (run[CellName(UNPRUNED, None)] for run in (new, baseline))
    common = ours.keys() & theirs.keys()
    if not common:
        raise ConfigError(
            "the two runs were asked no common question (other seeds or conditions): "
            "give both the same --first-seed and --videos"
        )
    if other := [name for name in common if ours[name].wording != theirs[name].wording]:
        raise ConfigError(
            f"{min(other)} is another question in each run: give both the same --questions; if they have it, the "
            "scenes or questions changed in between, so run the baseline again"
        )
    rows = []
    for method, cells in groupby((cell for cell in new if cell in baseline), key=lambda cell: cell.method):
        pairs: dict[Any, Any] = {cell.budget: (new[cell], baseline[cell]) for cell in cells}
        if len(pairs) > 1:  # a question counts once for each budget
            sides = zip(*pairs.values(), strict=True)
            merged = [{(*name, k): each for k, own in enumerate(side) for name, each in own.items()} for side in sides]
            pairs = {"all": merged, **pairs}
        for budget, pair in pairs.items():
            if row := paired(*pair):
                now, then = row["tokens"]
                row |= {"method": method, "budget": budget, "same_cost": abs(now - then) <= COST_MARGIN * then}
                stands_out = intervals.excludes_zero(row["difference_interval"])
                row["verdict"] = (BETTER if row["difference"] > 0 else WORSE) if stands_out else NOISE
                rows.append(row)
    return rows
