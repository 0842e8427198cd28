"""Answering a file of questions: one fsynced line an answer, in the order in which they come; a kill costs time alone.

Answers stand in the file that was asked for; beside it a folder of the same name with ``.run`` behind says of what run
they are.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.reading import ByConfig, media_reader
from prunevid_qwen.evaluation.engine.storing import Progress, store_answers
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.evaluation.store import (
    RunFolder,
    config_options,
    keep_lines,
    model_options,
    plugin_options,
    read_lines,
    reader_options,
    run_hash,
)
from prunevid_qwen.evaluation.tasks.batch_questions import BatchQuestion

MAX_NEW_TOKENS = 512

TOGETHER = 32
"""Questions about the same media that are one task, at most: what a kill in the middle of one costs."""

_OF_ANSWERS = ("tokens", "kept_ratio", "seconds", "media")


@dataclass(frozen=True)
class BatchRun:
    """What is asked, and who answers.

    Args:
        questions: with different ids.
        config: its name and itself; it also says how media are read, as for ``prunevid ask``.
        system: the message of the system that the questions were read with.
        max_new_tokens: of the longest answer.
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``PruneVidQwen25VL.from_pretrained``; None means its default.
        plugins: see `Answering`.
    """

    questions: tuple[BatchQuestion, ...]
    config: tuple[str, PruneVidConfig]
    system: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def tasks(self, done: Iterable[str] = ()) -> list[Task]:
        """Return what is left to ask: neighbours about the same media share a task, which reads and encodes them once.

        Args:
            done: ids of what is answered.
        """
        answered, name = set(done), self.config[0]
        left = [question for question in self.questions if question.id not in answered]
        tasks = []
        for media, group in itertools.groupby(left, key=lambda question: question.media):
            asked = [(question, (name,)) for question in group]
            tasks += [Task(media, tuple(asked[at : at + TOGETHER])) for at in range(0, len(asked), TOGETHER)]
        return tasks

    def reading(self) -> ByConfig:
        """Say how media are read for this model."""
        media = media_reader(self.model_path, self.loading)
        return ByConfig(self.config[1], media.video, media.image)

    def answering(self) -> Answering:
        """Say who answers."""
        limit = {"max_new_tokens": self.max_new_tokens}
        return Answering((self.config,), self.model_path, self.loading, limit, self.plugins)

    def options(self, device: str) -> dict[str, Any]:
        """Return what could change an answer, beside the question: each answer's line has a hash of its own."""
        name, config = self.config
        return {
            "config": name,
            "max_new_tokens": self.max_new_tokens,
            "system": self.system,
            **config_options(config),
            **reader_options(config.video_backend),
            **model_options(self.model_path, self.loading, device),
            **plugin_options(self.plugins),
        }


def answer_batch(
    out: Path,
    run: BatchRun,
    engine: Engine,
    device: str,
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
) -> dict[str, Any]:
    """Answer what a file does not hold yet; what failed before is asked again, and its line replaced.

    Args:
        out: the file of answers.
        run: what is asked.
        engine: that answers.
        device: on which, as `model_options` wants it.
        restart: throw away what the file holds.
        tell: told of the progress.
        command: what was typed, for the record.

    Returns: how many questions there are, have an answer, have none; the run's hash; seconds.

    Raises:
        ConfigError: the file holds the answers of another run, or to other questions.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    began, total, (name, config) = time.perf_counter(), len(run.questions), run.config
    reading = run.reading()  # a model that it cannot be done for is refused before a file is touched
    options, configs = run.options(device), {name: config_options(config)}
    about = {"what": "questions of a user", "command": command}
    RunFolder(out.with_name(f"{out.name}.run"), shown=out).begin(options, about, restart, configs=configs)
    own = run_hash(options, configs[name])
    tasks = run.tasks(_answered(out, run.questions, own))
    keep_lines(out, lambda line: line["error"] is None)
    store_answers(
        out,
        tasks,
        lambda: engine(tasks, reading, run.answering()),
        total,
        tell,
        lambda line: _stored(line, own),
        "wait for it, or pass another file",
    )
    found = _answered(out, run.questions, own)
    return {
        "out": str(out),
        "questions": total,
        "answered": len(found),
        "failed": total - len(found),
        "run": own,
        "seconds": time.perf_counter() - began,
    }


def _stored(line: Line, run: str) -> Line:
    answer = None if line["error"] is not None else line["raw"].strip()
    first = {"id": line["id"], "question": line["question"], "answer": answer, "error": line["error"]}
    rest = {name: line.get(name) for name in _OF_ANSWERS}
    return {**first, "config": line["config"], "run": run, "asked": line["asked"], **rest, "extra": line["extra"]}


def _answered(out: Path, questions: Sequence[BatchQuestion], run: str) -> set[str]:
    """Return the ids of questions that have an answer.

    Raises:
        ConfigError: a line is of another run, or answers another question of the same id.
    """
    asked = {question.id: question.asked for question in questions}
    found = set()
    for number, line in enumerate(read_lines(out), 1):
        where, otherwise = f"{out}:{number}", "pass --restart or another file"
        if not {"id", "asked", "run", "error"} <= line.keys():
            raise ConfigError(f"{where} is no answer of a run: take the line out, or {otherwise}")
        if line["run"] != run:
            raise ConfigError(f"{where} is of another run (hash {line['run']:.12}, now {run:.12}): {otherwise}")
        if asked.get(str(line["id"]), line["asked"]) != line["asked"]:
            raise ConfigError(
                f"{where} answers another question of id {quoted(line['id'])} "
                f"({quoted(line['question'], 60)}): give the new one an id of its own, or {otherwise}"
            )
        if line["error"] is None:
            found.add(str(line["id"]))
    return found & asked.keys()
