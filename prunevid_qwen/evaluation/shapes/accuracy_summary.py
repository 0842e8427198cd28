"""From raw answers to ``summary.json``: every figure that the report and the plots show, and nothing that they do not.

The same answers give the same bytes, whatever the order or number of workers that gave them: sorted, rounded, no times.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report.intervals import (
    clustered_mean,
    mean_of_strata,
    paired_difference,
    rounded,
    to_dict,
)
from prunevid_qwen.evaluation.report.page import Row, json_text
from prunevid_qwen.evaluation.shapes.answer_columns import (
    COMMAND,
    Answers,
    CellName,
    Column,
    Floats,
    read_answers,
    read_run,
)
from prunevid_qwen.evaluation.shapes.methods import BLANK, JUDGED, UNPRUNED
from prunevid_qwen.evaluation.store import replace

SUMMARY = "summary.json"
SCHEMA = 1
_OF_THE_RUN = ("command", "commit", "uncommitted_changes", "versions", "machine", "options", "conditions", "seeds")

Stored = dict[CellName, dict[str, Row]]  # the cells of run.json, by condition


def write_summary(folder: Path) -> Path:
    """Summarise the run in ``folder`` and write ``summary.json`` beside its answers.

    Raises:
        ConfigError: the folder holds no complete run, and what to do about it.
    """
    path = folder / SUMMARY
    replace(path, json_text(summarise(read_answers(folder), read_run(folder)), True, True).encode())
    return path


def summarise(answers: Answers, run: Row) -> Row:
    """Return every figure of a run.

    Args:
        answers: of all methods, the unpruned model's among them.
        run: the record, ``run.json``.

    Returns:
        ``run``: of the record; ``figures``: "unpruned", "blank" (the question alone, of a grey video; None if that was
        not asked) and "cells" (accuracy, paired difference to unpruned on the same questions, each with n, videos and
        interval, as a whole and by condition, type and way of asking; tokens; evidence recall), "pairs" (the judged
        methods against all others at their budget) and "unreachable". Shares lie in [0, 1], differences in [-1, 1]; an
        interval is null with fewer than two videos.

    Raises:
        ConfigError: the unpruned answers are missing, or those of a cell that the run calls reached.
    """
    if CellName(UNPRUNED, None) not in answers.columns:
        raise ConfigError("no unpruned answers to compare with: run with `unpruned` among --methods")
    stored: Stored = defaultdict(dict)
    for cell in run.get("cells", []):
        budget = None if cell["budget"] is None else float(cell["budget"])
        stored[CellName(cell["method"], budget)][cell["condition"]] = cell
    _refuse_gaps(answers, stored)
    conditions, videos = answers.conditions, answers.videos
    columns = sorted(answers.columns.items(), key=lambda item: item[0].order)
    cells = [_cell(answers, name, column, stored[name]) for name, column in columns]
    return {
        "schema": SCHEMA,
        "run": {key: run[key] for key in _OF_THE_RUN if key in run},
        "figures": {
            "questions": len(answers.names),
            "videos": len(set(videos)),
            "conditions": {
                str(name): {"questions": int(own.sum()), "videos": len(set(videos[own]))}
                for name in np.unique(conditions)
                for own in [conditions == name]
            },
            "unpruned": next(cell for cell in cells if cell["method"] == UNPRUNED),
            "blank": next((cell for cell in cells if cell["method"] == BLANK), None),
            "cells": [cell for cell in cells if cell["method"] not in (UNPRUNED, BLANK)],
            "pairs": [
                pair
                for name, column in columns
                if name.method in JUDGED
                for other, theirs in columns
                if name.budget == other.budget and name != other
                if (pair := _pair(answers, name, column, other, theirs))
            ],
            "unreachable": [
                {"method": name.method, "budget": name.budget, "condition": condition, "why": cell.get("why", "")}
                for name, of_condition in sorted(stored.items(), key=lambda item: item[0].order)
                for condition, cell in sorted(of_condition.items())
                if cell["status"] != "ok"
            ],
        },
    }


def _refuse_gaps(answers: Answers, stored: Stored) -> None:
    """Refuse a run without an answer where the unpruned model was asked and the record says the budget is reached."""
    whole = answers.columns[CellName(UNPRUNED, None)].asked
    for name, of_condition in stored.items():
        asked = answers.columns[name].asked if name in answers.columns else np.zeros_like(whole)
        for condition, cell in of_condition.items():
            missing = int((whole & ~asked & (answers.conditions == condition)).sum())
            if cell["status"] == "ok" and missing:
                raise ConfigError(
                    f"{name} has no answer to {missing} questions in {condition}: the run is not complete. "
                    f"Run `{COMMAND}` again with the same options, it goes on where it was"
                )
    if not whole.all():
        raise ConfigError(
            f"{int((~whole).sum())} questions have no unpruned answer: run again, it goes on where it was"
        )


def _cell(answers: Answers, name: CellName, column: Column, stored: dict[str, Row]) -> Row:
    asked, videos = column.asked, answers.videos
    before = answers.columns[CellName(UNPRUNED, None)].correct
    types = np.array([question.type for question in answers.questions])
    ways = np.array(["multiple choice" if question.multiple_choice else "one word" for question in answers.questions])

    def figures(chosen: npt.NDArray[np.bool_]) -> Row:
        right, clusters = column.correct[chosen], videos[chosen]
        difference = paired_difference(right, before[chosen], clusters)
        return to_dict(accuracy=clustered_mean(right, clusters), difference=difference)

    def by(labels: npt.NDArray[np.str_]) -> Row:
        return {str(label): figures(asked & (labels == label)) for label in np.unique(labels[asked])}

    def mean_over_videos(values: Floats) -> float | None:
        known = ~np.isnan(values)
        return rounded(mean_of_strata(values[known], videos[known], videos[known]).value) if known.any() else None

    known = ~np.isnan(column.evidence_kept) & ~np.isnan(column.kept)
    evidence = None  # recall of the tokens on the asked-about objects, share of all tokens kept for the same questions
    if known.any():
        recall, kept = (clustered_mean(share[known], videos[known]) for share in (column.evidence_kept, column.kept))
        evidence = to_dict(recall=recall, kept=kept)
    in_order = sorted(stored.items())
    return {
        "method": name.method,
        "budget": name.budget,
        "achieved": mean_over_videos(column.layer_average),
        "retained": mean_over_videos(column.retained),
        "random_seeds": column.random_seeds,
        **figures(asked),
        "evidence": evidence,
        "by_condition": by(answers.conditions),
        "by_type": by(types),
        "by_way": by(ways),
        "config": {condition: cell.get("config") for condition, cell in in_order if cell["status"] == "ok"},
        "unreached": {condition: cell.get("why", "") for condition, cell in in_order if cell["status"] != "ok"},
    }


def _pair(answers: Answers, name: CellName, column: Column, other: CellName, theirs: Column) -> Row | None:
    """A judged method against another over the questions that both were asked; None where there are none."""
    both = column.asked & theirs.asked
    if not both.any():
        return None
    return {
        "method": name.method,
        "against": other.method,
        "budget": name.budget,
        "conditions": sorted({str(condition) for condition in answers.conditions[both]}),
        **to_dict(difference=paired_difference(column.correct[both], theirs.correct[both], answers.videos[both])),
    }
