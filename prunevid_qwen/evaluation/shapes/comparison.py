"""Is a run better than another, by how much, and is it noise? Cell by cell, over the questions that both were asked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report.intervals import excludes_zero, paired_difference, to_dict
from prunevid_qwen.evaluation.report.page import Table, page
from prunevid_qwen.evaluation.shapes.accuracy_summary import summarise
from prunevid_qwen.evaluation.shapes.answer_columns import Answers, Column, read_answers, read_run

BETTER, WORSE, NOISE = "better", "worse", "within noise"
COST_MARGIN = 0.05
"""Relative difference in layer-averaged tokens from which two cells no longer cost the same."""


@dataclass(frozen=True)
class CellComparison:
    """A cell of the new run against the same cell of the baseline, over ``n`` questions that both were asked.

    Args:
        budget: the share asked for; None where nothing was asked for, and where all budgets are taken together.
        together: whether this takes all budgets of the method.
        difference: new accuracy less the baseline's, in [-1, 1].
        interval: 95 %, over videos; None with fewer than two of them.
        tokens: mean layer-averaged share over the compared questions, (new, baseline).
    """

    method: str
    budget: float | None
    together: bool
    difference: float
    interval: list[float] | None
    n: int
    tokens: tuple[float, float]

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``within noise``; without an interval nothing can be told from noise."""
        if not excludes_zero(self.interval):
            return NOISE
        return BETTER if self.difference > 0 else WORSE

    @property
    def same_cost(self) -> bool:
        """Whether both kept the same share of tokens, to within ``COST_MARGIN``."""
        return abs(self.tokens[0] - self.tokens[1]) <= COST_MARGIN * self.tokens[1]


def compare(new: Answers, baseline: Answers) -> list[CellComparison]:
    """Compare every cell that both runs have, over the questions that both were asked.

    Returns: by method, first over all its budgets together (the sharpest verdict), then each, large ones first; cells
        without a common question are left out.

    Raises:
        ConfigError: the runs share no question, or word one differently: they say nothing about each other.
    """
    common = sorted(set(new.names) & set(baseline.names))
    if not common:
        raise ConfigError(
            "the two runs were asked no common question (other seeds or conditions): "
            "give both the same --first-seed and --videos"
        )
    places = [{name: k for k, name in enumerate(answers.names)} for answers in (new, baseline)]
    here, there = (np.array([place[name] for name in common]) for place in places)
    for name, i, j in zip(common, here, there, strict=True):
        if new.questions[i] != baseline.questions[j]:
            raise ConfigError(
                f"{name} is another question in each run: give both the same --questions; if they have it, the scenes "
                "or questions changed in between, so run the baseline again"
            )

    def pair(ours: Column, theirs: Column) -> list[npt.NDArray[Any]]:
        """What both were asked: right or not and tokens, new and old, and the video of each question."""
        both = ours.asked[here] & theirs.asked[there]
        i, j = here[both], there[both]
        return [ours.correct[i], theirs.correct[j], ours.layer_average[i], theirs.layer_average[j], new.videos[i]]

    compared = []
    shared = sorted(new.columns.keys() & baseline.columns.keys(), key=lambda cell: cell.order)
    for method, cells in groupby(shared, key=lambda cell: cell.method):
        pairs = [(cell.budget, False, pair(new.columns[cell], baseline.columns[cell])) for cell in cells]
        known = [each for each in pairs if each[2][0].size]
        if len(known) > 1:
            all_budgets = zip(*(parts for *_, parts in known), strict=True)
            known.insert(0, (None, True, [np.concatenate(parts) for parts in all_budgets]))
        for budget, together, (right, before, ours, theirs, videos) in known:
            row = to_dict(difference=paired_difference(right, before, videos))
            found = (row["difference"], row["difference_interval"], row["n"])
            tokens = (float(ours.mean()), float(theirs.mean()))
            compared.append(CellComparison(method, budget, together, *found, tokens))
    return compared


def compare_folders(new: Path, baseline: Path) -> str:
    """Compare the runs in two folders: a page on what became better or worse, by how much, and what is noise.

    Raises:
        ConfigError: a folder holds no complete run, or the two were not asked the same questions.
    """
    ours, theirs = read_answers(new), read_answers(baseline)
    run, run_before = read_run(new), read_run(baseline)
    summarise(ours, run), summarise(theirs, run_before)  # refuses what is not complete
    rows = compare(ours, theirs)
    head = ("method", "budget", "tokens, new", "tokens, baseline", "points", "interval", "questions", "verdict")
    only = {new: ours.columns.keys() - theirs.columns, baseline: theirs.columns.keys() - ours.columns}
    return page(
        f"# {new.name} against {baseline.name}",
        _headline([row for row in rows if not row.together]),
        *_what_differs(run, run_before),
        "Points are new less baseline, paired over the questions that both were asked; intervals are 95 %, bootstrap\n"
        "over videos. A row with budget `all` takes a method's budgets together: a question counts once for each.",
        Table(head, [_cells(row) for row in rows]).markdown("---"),
        [f"- only in {side.name}: {', '.join(sorted(map(str, names)))}" for side, names in only.items() if names],
    )


def _headline(rows: list[CellComparison]) -> str:
    better, worse = (sum(row.verdict == verdict for row in rows) for verdict in (BETTER, WORSE))
    by_chance = f"about {max(1, round(0.05 * len(rows)))} would stand out by chance alone"
    noise = len(rows) - better - worse
    verdict = f"Of {len(rows)} cells {better} are {BETTER}, {worse} {WORSE}, {noise} {NOISE} ({by_chance})."
    costly = sum(not row.same_cost for row in rows)
    if costly:
        verdict += f" {costly} do not cost the same in both runs (marked *): their points are not at equal cost."
    return verdict


def _what_differs(new: dict[str, Any], old: dict[str, Any]) -> list[str | list[str]]:
    lines = []
    for name in ("commit", "versions", "options", "machine"):
        ours, theirs = new.get(name), old.get(name)
        if ours == theirs:
            continue
        parts = {"": (ours, theirs)}
        if isinstance(ours, dict) and isinstance(theirs, dict):
            both = sorted(ours.keys() | theirs.keys())
            parts = {f"{key} ": (ours.get(key), theirs.get(key)) for key in both if ours.get(key) != theirs.get(key)}
        lines.append(f"- {name}: " + ", ".join(f"{key}{now} (baseline {then})" for key, (now, then) in parts.items()))
    return ["What differs between the runs:", lines] if lines else ["Same commit, versions and options."]


def _cells(row: CellComparison) -> list[str]:
    new, old = (percent(share, 1) for share in row.tokens)
    return [
        row.method,
        "all" if row.together else "" if row.budget is None else f"{100 * row.budget:g} %",
        new,
        old if row.same_cost else f"{old} *",
        f"{100 * row.difference:+.1f}",
        "one video" if row.interval is None else "{:+.1f} to {:+.1f}".format(*(100 * end for end in row.interval)),
        str(row.n),
        row.verdict if row.verdict == NOISE else f"**{row.verdict}**",
    ]
