"""From raw answers to ``summary.json``: every figure that the report and the plots show, and nothing that they do not.

The same answers give the same bytes, whatever the order or number of workers that gave them: sorted, rounded, no times.
What a run says of itself (command, commit, versions) stands apart, under ``run``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_answers import (
    BLANK,
    UNPRUNED,
    Answers,
    CellName,
    Column,
    Floats,
    read_answers,
    read_run,
)
from prunevid_qwen.evaluation.statistics import Estimate, clustered_mean, paired_difference

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int_]

JUDGED = ("prunevid", "recommended")
"""What is set against every other method at its budget, question by question."""

SCHEMA = 1
_OF_THE_RUN = ("command", "commit", "uncommitted_changes", "versions", "machine", "options", "conditions", "seeds")
_ROUND = 4


def write_summary(folder: Path) -> Path:
    """Summarise the run in ``folder`` and write ``summary.json`` beside its answers.

    Raises:
        ConfigError: the folder holds no complete run, and what to do about it.
    """
    path = folder / "summary.json"
    summary = summarise(read_answers(folder), read_run(folder))
    path.write_text(json.dumps(summary, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return path


def summarise(answers: Answers, run: dict[str, Any]) -> dict[str, Any]:
    """Return every figure of a run.

    Args:
        answers: of all methods, the unpruned model's among them.
        run: what ``run.json`` says.

    Returns:
        ``run``: what it was; ``figures``: "unpruned", "blank" (the question alone, of a grey video; None if that was
        not asked) and "cells" (accuracy, paired difference to unpruned on the same questions, each with n, videos and
        interval, as a whole and by condition, type and way of asking; tokens; evidence recall), "pairs" (the judged
        methods against all others at their budget) and "unreachable". Shares lie in [0, 1], differences in [-1, 1]; an
        interval is null with fewer than two videos.

    Raises:
        ConfigError: the unpruned answers are missing, or those of a cell that the run calls reached.
    """
    if CellName(UNPRUNED, None) not in answers.columns:
        raise ConfigError("no unpruned answers to compare with: run with `unpruned` among --methods")
    said = _said_by_cell(run)
    _refuse_gaps(answers, said)
    conditions, videos = answers.conditions, answers.videos
    cells = [
        _cell(answers, name, column, said[name])
        for name, column in sorted(answers.columns.items(), key=lambda item: _order(item[0]))
    ]
    return {
        "schema": SCHEMA,
        "run": {key: run[key] for key in _OF_THE_RUN if key in run},
        "figures": {
            "questions": len(answers.names),
            "videos": len(set(videos)),
            "conditions": {
                str(name): {
                    "questions": int((conditions == name).sum()),
                    "videos": len(set(videos[conditions == name])),
                }
                for name in np.unique(conditions)
            },
            "unpruned": next(cell for cell in cells if cell["method"] == UNPRUNED),
            "blank": next((cell for cell in cells if cell["method"] == BLANK), None),
            "cells": [cell for cell in cells if cell["method"] not in (UNPRUNED, BLANK)],
            "pairs": _pairs(answers),
            "unreachable": _unreachable(said),
        },
    }


def written(**estimates: Estimate) -> dict[str, Any]:
    """Return estimates over the same rows as they are written: n, videos, and of each its value and interval.

    Rounded to 4 places, so that an end that rounds to 0 counts as 0.

    Args:
        estimates: by the name that they get; the interval's is ``<name>_interval``.
    """
    first = next(iter(estimates.values()))
    row: dict[str, Any] = {"n": first.n, "videos": first.videos}
    for name, estimate in estimates.items():
        row[name] = _rounded(estimate.value)
        row[f"{name}_interval"] = None if estimate.interval is None else [_rounded(end) for end in estimate.interval]
    return row


def _rounded(value: float) -> float:
    return round(float(value), _ROUND) + 0.0  # never -0.0


def _order(cell: CellName) -> tuple[str, float]:
    return cell.method, 2.0 if cell.budget is None else -cell.budget


Said = dict[CellName, dict[str, dict[str, Any]]]  # what run.json says of each cell, by condition


def _said_by_cell(run: dict[str, Any]) -> Said:
    said: Said = defaultdict(dict)
    for cell in run.get("cells", []):
        budget = None if cell["budget"] is None else float(cell["budget"])
        said[CellName(cell["method"], budget)][cell["condition"]] = cell
    return said


def _refuse_gaps(answers: Answers, said: Said) -> None:
    """What the run calls reached must have been answered wherever the unpruned model was asked."""
    conditions = answers.conditions
    whole = answers.columns[CellName(UNPRUNED, None)].asked
    for name, by_condition in said.items():
        asked = answers.columns[name].asked if name in answers.columns else np.zeros_like(whole)
        for condition, cell in by_condition.items():
            missing = int((whole & ~asked & (conditions == condition)).sum())
            if cell["status"] == "ok" and missing:
                raise ConfigError(
                    f"{name} has no answer to {missing} questions in {condition}: the run is not complete. "
                    "Run `prunevid bench accuracy` again with the same options, it goes on where it was"
                )
    if not whole.all():
        raise ConfigError(
            f"{int((~whole).sum())} questions have no unpruned answer: run again, it goes on where it was"
        )


def _cell(answers: Answers, name: CellName, column: Column, said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    asked = column.asked
    types = np.array([question.type for question in answers.questions])
    ways = np.array(["multiple choice" if question.multiple_choice else "one word" for question in answers.questions])
    conditions = answers.conditions
    unpruned = answers.columns[CellName(UNPRUNED, None)]

    def figures(chosen: Mask) -> dict[str, Any]:
        clusters = answers.videos[chosen]
        right, before = column.correct[chosen], unpruned.correct[chosen]
        difference = paired_difference(right, before, clusters)
        return written(accuracy=clustered_mean(right, clusters), difference=difference)

    def by(labels: npt.NDArray[np.str_]) -> dict[str, Any]:
        return {str(label): figures(asked & (labels == label)) for label in np.unique(labels[asked])}

    return {
        "method": name.method,
        "budget": name.budget,
        "achieved": _mean_over_videos(column.layer_average, answers.videos),
        "retained": _mean_over_videos(column.retained, answers.videos),
        "random_seeds": column.random_seeds,
        **figures(asked),
        "evidence": _evidence(column, answers.videos),
        "by_condition": by(conditions),
        "by_type": by(types),
        "by_way": by(ways),
        "config": {condition: cell.get("config") for condition, cell in sorted(said.items()) if cell["status"] == "ok"},
        "unreached": {
            condition: cell.get("why", "") for condition, cell in sorted(said.items()) if cell["status"] != "ok"
        },
    }


def _mean_over_videos(values: Floats, videos: Places) -> float | None:
    known = ~np.isnan(values)
    if not known.any():
        return None
    sizes = np.bincount(videos[known])
    means = np.bincount(videos[known], weights=values[known])[sizes > 0] / sizes[sizes > 0]
    return _rounded(float(means.mean()))


def _evidence(column: Column, videos: Places) -> dict[str, Any] | None:
    """Recall of the tokens on the asked-about objects, and the share of all tokens kept for the same questions."""
    known = ~np.isnan(column.evidence_kept) & ~np.isnan(column.kept)
    if not known.any():
        return None
    recall = clustered_mean(column.evidence_kept[known], videos[known])
    return written(recall=recall, kept=clustered_mean(column.kept[known], videos[known]))


def _pairs(answers: Answers) -> list[dict[str, Any]]:
    """The judged methods less every other method at the same budget, over the questions that both were asked."""
    pairs = []
    for name, column in sorted(answers.columns.items(), key=lambda item: _order(item[0])):
        for other, theirs in sorted(answers.columns.items(), key=lambda item: _order(item[0])):
            both = column.asked & theirs.asked
            if name.method not in JUDGED or name.budget != other.budget or name == other or not both.any():
                continue
            difference = paired_difference(column.correct[both], theirs.correct[both], answers.videos[both])
            conditions = sorted({str(condition) for condition in answers.conditions[both]})
            pair = {"method": name.method, "against": other.method, "budget": name.budget, "conditions": conditions}
            pairs.append(pair | written(difference=difference))
    return pairs


def _unreachable(said: Said) -> list[dict[str, Any]]:
    return [
        {"method": name.method, "budget": name.budget, "condition": condition, "why": cell.get("why", "")}
        for name, by_condition in sorted(said.items(), key=lambda item: _order(item[0]))
        for condition, cell in sorted(by_condition.items())
        if cell["status"] != "ok"
    ]
