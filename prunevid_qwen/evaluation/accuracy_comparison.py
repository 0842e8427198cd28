"""Is a run better than another, by how much, and is it noise? Cell by cell, over the questions that both were asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_answers import (
    Answers,
    Column,
    Floats,
    answers_file,
    read_answers,
    read_run,
)
from prunevid_qwen.evaluation.accuracy_summary import summarise, written
from prunevid_qwen.evaluation.statistics import paired_difference

Places = npt.NDArray[np.int_]

BETTER, WORSE, NOISE = "better", "worse", "within noise"
COST_MARGIN = 0.05
"""Relative difference in layer-averaged tokens from which two cells no longer cost the same."""


@dataclass(frozen=True)
class CellComparison:
    """A cell of the new run against the same cell of the baseline.

    Args:
        method: its name.
        budget: the share asked for; None where nothing was asked for, and where all budgets are taken together.
        difference: new accuracy less the baseline's, in [-1, 1].
        interval: 95 %, over videos; None with fewer than two of them.
        n: questions compared.
        videos: videos compared.
        tokens: mean layer-averaged share over the compared questions, (new, baseline).
        together: whether this takes all budgets of the method.
    """

    method: str
    budget: float | None
    difference: float
    interval: tuple[float, float] | None
    n: int
    videos: int
    tokens: tuple[float, float]
    together: bool = False

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``within noise``; without an interval nothing can be told from noise."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return NOISE
        return BETTER if self.difference > 0 else WORSE

    @property
    def same_cost(self) -> bool:
        """Whether both kept the same share of tokens, to within ``COST_MARGIN``."""
        return abs(self.tokens[0] - self.tokens[1]) <= COST_MARGIN * self.tokens[1]


def compare(new: Answers, baseline: Answers) -> list[CellComparison]:
    """Compare every cell that both runs have, over the questions that both were asked.

    Args:
        new: answers of the change.
        baseline: answers of what it is compared with.

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
    videos = new.videos[here]
    compared = []
    for method in sorted({cell.method for cell in new.columns}):
        cells = sorted(
            (cell for cell in new.columns.keys() & baseline.columns.keys() if cell.method == method),
            key=lambda cell: -(cell.budget or 2.0),
        )
        pairs = [_pair(new.columns[cell], here, baseline.columns[cell], there, videos) for cell in cells]
        known = [(cell, pair) for cell, pair in zip(cells, pairs, strict=True) if pair[0].size]
        if len(known) > 1:
            together = [np.concatenate(parts) for parts in zip(*(pair for _, pair in known), strict=True)]
            compared.append(replace(_compare_pair(method, None, *together), together=True))
        compared += [_compare_pair(method, cell.budget, *pair) for cell, pair in known]
    return compared


def _pair(new: Column, here: Places, old: Column, there: Places, videos: Places) -> tuple[Any, ...]:
    """What both were asked: right or not and tokens, new and old, and the video of each question."""
    both = new.asked[here] & old.asked[there]
    here, there = here[both], there[both]
    tokens = (new.layer_average[here], old.layer_average[there])
    return new.correct[here], old.correct[there], *tokens, videos[both]


def _compare_pair(
    method: str, budget: float | None, new: Floats, old: Floats, new_tokens: Floats, old_tokens: Floats, videos: Any
) -> CellComparison:
    row = written(difference=paired_difference(new, old, videos))
    ends = row["difference_interval"]
    interval = (ends[0], ends[1]) if ends else None
    tokens = (float(new_tokens.mean()), float(old_tokens.mean()))
    return CellComparison(method, budget, row["difference"], interval, row["n"], row["videos"], tokens)


def compare_folders(new: Path, baseline: Path) -> str:
    """Compare two runs and say in markdown what became better or worse, by how much, and what is noise.

    Args:
        new: folder of the change: ``run.json`` and ``answers.jsonl`` (or ``.xz``).
        baseline: folder of what it is compared with, the same.

    Raises:
        ConfigError: a folder holds no complete run, or the two were not asked the same questions.
    """
    for folder in (new, baseline):
        if answers_file(folder) is None:
            raise ConfigError(
                f"no answers.jsonl or answers.jsonl.xz in {folder}: without raw answers there are no pairs"
            )
    ours, theirs = read_answers(new), read_answers(baseline)
    said, said_before = read_run(new), read_run(baseline)
    summarise(ours, said), summarise(theirs, said_before)  # refuses what is not complete
    rows = compare(ours, theirs)
    lines = [
        f"# {new.name} against {baseline.name}",
        "",
        _headline([row for row in rows if not row.together]),
        "",
        *_what_differs(said, said_before),
        "Points are new less baseline, paired over the questions that both were asked; intervals are 95 %, bootstrap",
        "over videos. A row with budget `all` takes a method's budgets together: a question counts once for each.",
        "",
        "| method | budget | tokens, new | tokens, baseline | points | interval | questions | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    only = [
        f"- only in {side.name}: {', '.join(map(str, sorted(names, key=str)))}"
        for side, names in (
            (new, set(ours.columns) - set(theirs.columns)),
            (baseline, set(theirs.columns) - set(ours.columns)),
        )
        if names
    ]
    return "\n".join([*lines, "", *only]).rstrip() + "\n"


def _headline(rows: list[CellComparison]) -> str:
    better, worse = (sum(row.verdict == verdict for row in rows) for verdict in (BETTER, WORSE))
    by_chance = f"about {max(1, round(0.05 * len(rows)))} would stand out by chance alone"
    noise = len(rows) - better - worse
    verdict = f"Of {len(rows)} cells {better} are {BETTER}, {worse} {WORSE}, {noise} {NOISE} ({by_chance})."
    costly = [row for row in rows if not row.same_cost]
    if costly:
        verdict += f" {len(costly)} do not cost the same in both runs (marked *): their points are not at equal cost."
    return verdict


def _what_differs(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    lines = []
    for key in ("commit", "versions", "options", "machine"):
        if new.get(key) != old.get(key):
            lines.append(f"- {key}: {_differing(new.get(key), old.get(key))}")
    return ["What differs between the runs:", "", *lines, ""] if lines else ["Same commit, versions and options.", ""]


def _differing(new: object, old: object) -> str:
    if isinstance(new, dict) and isinstance(old, dict):
        keys = sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))
        return ", ".join(f"{key} {new.get(key)} (baseline {old.get(key)})" for key in keys)
    return f"{new} (baseline {old})"


def _line(row: CellComparison) -> str:
    budget = "all" if row.together else "" if row.budget is None else f"{100 * row.budget:g} %"
    tokens = " | ".join(percent(share, 1) for share in row.tokens)
    interval = (
        "one video" if row.interval is None else "{:+.1f} to {:+.1f}".format(*(100 * end for end in row.interval))
    )
    verdict = row.verdict if row.verdict == NOISE else f"**{row.verdict}**"
    star = "" if row.same_cost else " *"
    points = f"{100 * row.difference:+.1f}"
    return f"| {row.method} | {budget} | {tokens}{star} | {points} | {interval} | {row.n} | {verdict} |"
