"""The raw answers of a run, read back: a row for a question, a column for a method and its budget."""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.store import RunFolder

Floats = npt.NDArray[np.float64]
COMMAND = "prunevid bench accuracy"
_MEASURED, _MAY_LACK = ("correct", "layer_average"), ("retained", "evidence_kept", "kept")
_AGAIN = f"run `{COMMAND}` again, it goes on where it was"


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
    """Tells one question from all others."""

    condition: str
    seed: int
    question: int


class AskedQuestion(NamedTuple):
    """A question as it was asked, the same for every method; ``type`` is one of ``moving_shapes.QUESTION_TYPES``."""

    type: str
    multiple_choice: bool
    text: str
    expected: str


_Given = dict[QuestionName, dict[int | None, list[float]]]  # the figures of each question under each random seed


@dataclass(frozen=True)
class Column:
    """All answers of one method at one budget, ``[questions]`` each, means over the random seeds; NaN: not asked.

    Args:
        correct: share of the answers that were right, in [0, 1].
        layer_average: tokens over all layers against those of the whole video, above 0.
        retained: tokens after stage 2 against tokens in: the paper's ratio.
        evidence_kept: share of the tokens on the asked-about objects that survive, in [0, 1]; NaN also where there are
            none or the video was made smaller beforehand.
        kept: tokens left after the last stage against all of the video, merged ones counted once.
        random_seeds: how many; at least 1.
    """

    correct: Floats
    layer_average: Floats
    retained: Floats
    evidence_kept: Floats
    kept: Floats
    random_seeds: int

    @property
    def asked(self) -> npt.NDArray[np.bool_]:
        """Which questions were asked, ``[questions]``."""
        return ~np.isnan(self.correct)


@dataclass(frozen=True)
class Answers:
    """The answers of a run; the questions are sorted by name, and ``names`` and ``questions`` in one order."""

    names: tuple[QuestionName, ...]
    questions: tuple[AskedQuestion, ...]
    columns: dict[CellName, Column]

    @cached_property
    def conditions(self) -> npt.NDArray[np.str_]:
        """The condition of each question, ``[questions]``."""
        return np.array([name.condition for name in self.names])

    @cached_property
    def videos(self) -> npt.NDArray[np.int_]:
        """The video of each question, ``[questions]``, counted from 0: what the bootstrap draws."""
        place = {video: number for number, video in enumerate(sorted({name[:2] for name in self.names}))}
        return np.array([place[name[:2]] for name in self.names])


def read_run(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` says of a run: its command, options, versions and cells.

    Raises:
        ConfigError: there is none, or it is not JSON.
    """
    return RunFolder(folder).record(COMMAND)


def read_answers(folder: Path) -> Answers:
    """Read every answer of a run, from ``answers.jsonl`` or ``answers.jsonl.xz``; the lines' order does not matter.

    Raises:
        ConfigError: no file, a line that is no answer, an answer given twice, a question worded in two ways, or a
            method that left out questions of a video that it was asked about.
    """
    path = next((folder / name for name in ("answers.jsonl", "answers.jsonl.xz") if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"no answers.jsonl or answers.jsonl.xz in {folder}: run `{COMMAND}` first")
    questions: dict[QuestionName, AskedQuestion] = {}
    given: dict[CellName, _Given] = defaultdict(lambda: defaultdict(dict))
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            name = QuestionName(str(row["condition"]), int(row["seed"]), int(row["question"]))
            question = AskedQuestion(row["type"], bool(row["multiple_choice"]), row["text"], row["expected"])
            cell = CellName(row["method"], None if row["budget"] is None else float(row["budget"]))
            figures = [float(row[figure]) for figure in _MEASURED]
            figures += [np.nan if row[figure] is None else float(row[figure]) for figure in _MAY_LACK]
            random_seed = row.get("random_seed")
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{where} is no answer ({type(error).__name__}: {error}): {_AGAIN}") from None
        if questions.setdefault(name, question) != question:
            raise ConfigError(f"{where}: {name} was worded otherwise before: two runs are mixed")
        if random_seed in given[cell][name]:
            raise ConfigError(f"{where}: {cell} answers {name} a second time; take one of the lines out")
        given[cell][name][random_seed] = figures
    if not questions:
        raise ConfigError(f"{path} is empty: {_AGAIN}")
    names = tuple(sorted(questions))
    columns = {cell: _column(cell, given[cell], names) for cell in sorted(given, key=lambda cell: cell.order)}
    return Answers(names, tuple(questions[name] for name in names), columns)


def _column(cell: CellName, given: _Given, names: tuple[QuestionName, ...]) -> Column:
    """Average the random seeds; a video is answered whole or not at all, under every seed."""
    seeds = {frozenset(by_seed) for by_seed in given.values()}
    if len(seeds) > 1:
        raise ConfigError(f"{cell} was asked some questions under other random seeds than others: run it again")
    videos = {name[:2] for name in given}
    missing = [name for name in names if name[:2] in videos and name not in given]
    if missing:
        raise ConfigError(f"{cell} has no answer to {missing[0]} ({len(missing)} missing): run it again, it goes on")
    figures = np.full((len(_MEASURED) + len(_MAY_LACK), len(names)), np.nan)
    for place, name in enumerate(names):
        if name in given:
            figures[:, place] = np.mean(list(given[name].values()), axis=0)
    correct, layer_average, retained, evidence_kept, kept = figures
    return Column(correct, layer_average, retained, evidence_kept, kept, len(next(iter(seeds))))
