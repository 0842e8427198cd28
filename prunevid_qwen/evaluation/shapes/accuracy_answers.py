"""The answers of a run of the accuracy benchmark: read from its folder, each named by its cell and its question."""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.store import RunFolder

_COMMAND = "prunevid bench accuracy"
AGAIN = f"run `{_COMMAND}` again with the same options, it goes on where it was"


class CellName(NamedTuple):
    """A method at a budget: the share of layer-averaged tokens asked for, None where nothing was asked for."""

    method: str
    budget: float | None

    def __str__(self) -> str:
        return self.method if self.budget is None else f"{self.method} at {self.budget:.0%}"

    @property
    def order(self) -> tuple[str, float]:
        """Sorts by method, then from no budget to small ones."""
        return self.method, -2.0 if self.budget is None else -self.budget


class QuestionName(NamedTuple):
    """Tells a question from all others; the first two are its video."""

    condition: str
    seed: int
    question: int


class MeanAnswer(NamedTuple):
    """How a question was answered in a cell: means over the random seeds; NaN for what a line does not know."""

    wording: tuple[str, bool, str, str]  # type, whether it is multiple choice, text, and the right answer
    correct: float  # share of the answers that were right
    layer_average: float  # tokens over all layers against those of the whole video
    retained: float  # tokens after stage 2 against tokens in: the paper's ratio
    evidence_kept: float  # share of the tokens on the asked-about objects that survive; NaN also without such tokens
    kept: float  # tokens left after the last stage against all of the video, merged ones counted once
    random_seeds: int


Answered = dict[QuestionName, MeanAnswer]
Answers = dict[CellName, Answered]
"""Every answer of a run, sorted."""


def read_run(folder: Path) -> Row:
    """Return what ``run.json`` says of a run (command, options, versions, cells); without one a `ConfigError`."""
    return RunFolder(folder).record(_COMMAND)


def read_answers(folder: Path) -> Answers:
    """Read every answer of a run, from ``answers.jsonl`` or ``answers.jsonl.xz``; the lines' order does not matter.

    Raises:
        ConfigError: no file, a line that is no answer, an answer given twice, a question worded in two ways, or a
            method that left out questions of a video that it was asked about.
    """
    path = next((folder / name for name in ("answers.jsonl", "answers.jsonl.xz") if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"no answers.jsonl or answers.jsonl.xz in {folder}: run `{_COMMAND}` first")
    wordings: dict[QuestionName, Any] = {}
    given: dict[CellName, dict[tuple[QuestionName, Any], list[float]]] = defaultdict(dict)  # under each random seed
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            question = QuestionName(row["condition"], row["seed"], row["question"])
            wording = row["type"], row["multiple_choice"], row["text"], row["expected"]
            own, draw = given[CellName(row["method"], row["budget"])], (question, row.get("random_seed"))
            figures = [np.nan if row[name] is None else float(row[name]) for name in MeanAnswer._fields[1:-1]]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{where} is no answer ({type(error).__name__}: {error}): {AGAIN}") from None
        if wordings.setdefault(question, wording) != wording:
            raise ConfigError(f"{where}: {question} was worded otherwise before: two runs are mixed")
        if draw in own:
            raise ConfigError(f"{where}: {question} is answered a second time; take one of the lines out")
        own[draw] = figures
    answers: Answers = {}
    for cell in sorted(given, key=lambda cell: cell.order):
        own, seeds = given[cell], list(dict.fromkeys(seed for _, seed in given[cell]))
        videos = {question[:2] for question, _ in own}  # each is answered whole, under every seed, or not at all
        asked = sorted(question for question in wordings if question[:2] in videos)
        if missing := [(question, seed) for question in asked for seed in seeds if (question, seed) not in own]:
            raise ConfigError(f"{cell} has no answer to {missing[0]} ({len(missing)} missing): {AGAIN}")
        answers[cell] = {}
        for question in asked:
            means = np.mean([own[question, seed] for seed in seeds], axis=0).tolist()
            answers[cell][question] = MeanAnswer._make([wordings[question], *means, len(seeds)])
    return answers
