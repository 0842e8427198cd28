"""Answering a file of questions: a line an answer, in a file; beside it a folder ``.run`` says of what run they are."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation import store
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.storing import Progress, own_lines, store_answers
from prunevid_qwen.evaluation.engine.task import Line, Task, tasks_of
from prunevid_qwen.evaluation.engine.task_media import ByConfig, media_reader
from prunevid_qwen.evaluation.tasks.batch_questions import BatchQuestion

MAX_NEW_TOKENS = 512

TOGETHER = 32
"""Questions about the same media that are one task, at most: what a kill in the middle of one costs."""

_OF_ANSWERS = ("tokens", "kept_ratio", "seconds", "media")


@dataclass(frozen=True)
class BatchRun:
    """What is asked, and who answers; ``model_path``, ``loading`` and ``plugins`` are those of `Answering`."""

    questions: tuple[BatchQuestion, ...]  # with different ids
    config: tuple[str, PruneVidConfig]  # its name and itself; it also says how media are read, as for ``prunevid ask``
    system: str | None = None  # the message of the system that the questions were read with
    max_new_tokens: int = MAX_NEW_TOKENS
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def tasks(self, done: Collection[str] = ()) -> list[Task]:
        """Return what is left to ask, without the ids in ``done``."""
        left = [question for question in self.questions if question.id not in done]
        return list(tasks_of(left, [self.config[0]], TOGETHER))

    def options(self, device: str) -> dict[str, Any]:
        """Return what could change an answer, beside the question: each answer's line has a hash of its own."""
        name, config = self.config
        return {
            "config": name,
            "max_new_tokens": self.max_new_tokens,
            "system": self.system,
            **store.config_options(config),
            **store.reader_options(config.video_backend),
            **store.model_options(self.model_path, self.loading, device),
            **store.plugin_options(self.plugins),
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
        device: that the engine answers on, as `model_options` wants it.
        restart: throw away what the file holds.
        command: what was typed, for the record.

    Returns: how many questions there are, have an answer, have none; the run's hash; seconds.

    Raises:
        ConfigError: the file holds the answers of another run, or to other questions.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    began, total, (name, config) = time.perf_counter(), len(run.questions), run.config
    media = media_reader(run.model_path, run.loading)  # one that it cannot be done for, before a file is touched
    reading, limit = ByConfig(config, media.video, media.image), {"max_new_tokens": run.max_new_tokens}
    answering = Answering((run.config,), run.model_path, run.loading, limit, run.plugins)
    options, configs = run.options(device), {name: store.config_options(config)}
    about = {"what": "questions of a user", "command": command}
    store.RunFolder(out.with_name(f"{out.name}.run"), shown=out).begin(options, about, restart, configs=configs)
    own = store.run_hash(options, configs[name])
    tasks = run.tasks(_answered(out, run.questions, own))
    store.keep_lines(out, lambda line: line["error"] is None)
    store_answers(
        out,
        tasks,
        lambda: engine(tasks, reading, answering),
        total,
        tell,
        lambda line: _stored(line, own),
        "wait for it, or pass another file",
    )
    answered = len(_answered(out, run.questions, own))
    return {
        "out": str(out),
        "questions": total,
        "answered": answered,
        "failed": total - answered,
        "run": own,
        "seconds": time.perf_counter() - began,
    }


def _stored(line: Line, run: str) -> Line:
    answer = None if line["error"] is not None else line["raw"].strip()
    first = {"id": line["id"], "question": line["question"], "answer": answer, "error": line["error"]}
    rest = {name: line.get(name) for name in _OF_ANSWERS}
    return {**first, "config": line["config"], "run": run, "asked": line["asked"], **rest, "extra": line["extra"]}


def _answered(out: Path, questions: Sequence[BatchQuestion], run: str) -> set[str]:
    """Return the ids of questions that have an answer."""
    asked = {question.id: question.asked for question in questions}
    found = set()
    for where, line in own_lines(out, lambda _: run, "another file"):
        if asked.get(str(line["id"]), line["asked"]) != line["asked"]:
            raise ConfigError(
                f"{where} answers another question of id {quoted(line['id'])} ({quoted(line['question'], 60)}): give "
                "the new one an id of its own, or pass --restart or another file"
            )
        if line["error"] is None:
            found.add(str(line["id"]))
    return found & asked.keys()
