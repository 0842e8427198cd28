"""Answering a file of questions: one fsynced line an answer, in the order in which they come; a kill costs time alone.

Answers stand in the file that was asked for; beside it a folder of the same name with ``.run`` behind says of what run
they are.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.accuracy_folder import RECORD
from prunevid_qwen.evaluation.bulk_questions import BulkQuestion
from prunevid_qwen.evaluation.engine.asking import Answering
from prunevid_qwen.evaluation.engine.folder import Part, begin, whole_lines
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.reading import ByConfig, media_reader
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.evaluation.store.identity import config_options, model_options, reader_options
from prunevid_qwen.evaluation.visual_cot.folder import replace

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""

MAX_NEW_TOKENS = 512

TOGETHER = 32
"""Questions about the same media that are one task, at most: what a kill in the middle of one costs."""

_OF_ANSWERS = ("tokens", "kept_ratio", "seconds", "media")


@dataclass(frozen=True)
class BulkRun:
    """What is asked, and who answers.

    Args:
        questions: with different ids.
        config: its name and itself; it also says how media are read, as for ``prunevid ask``.
        system: the message of the system that the questions were read with.
        max_new_tokens: of the longest answer.
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``PruneVidQwen25VL.from_pretrained``; None means its default.
    """

    questions: tuple[BulkQuestion, ...]
    config: tuple[str, PruneVidConfig]
    system: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)

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
        return Answering((self.config,), self.model_path, self.loading, {"max_new_tokens": self.max_new_tokens})

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
        }


def answer_bulk(
    out: Path,
    run: BulkRun,
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
    with _alone(out) as folder:
        if restart:
            out.unlink(missing_ok=True)
        elif out.exists() and out.stat().st_size and not (folder / RECORD).exists():
            raise ConfigError(
                f"{out} exists, and no {folder / RECORD} says of what run: pass --restart or another --out"
            )
        about = {"what": "questions of a user", "command": command}
        hashes = begin(folder, run.options(device), {name: config_options(config)}, about, restart)
        done = _answered(out, run.questions, hashes[name])
        tasks = run.tasks(done)
        tell("answering", len(done), total)
        if tasks:
            with Part(out) as part, closing(engine(tasks, reading, run.answering())) as lines:
                for number, line in enumerate(lines, len(done) + 1):
                    part.add(_stored(line, hashes[name]))
                    tell("answering", number, total)
        found = _answered(out, run.questions, hashes[name], keep_failed=True)
    return {
        "out": str(out),
        "questions": total,
        "answered": len(found),
        "failed": total - len(found),
        "run": hashes[name],
        "seconds": time.perf_counter() - began,
    }


def _stored(line: Line, run: str) -> Line:
    answer = None if line["error"] is not None else line["raw"].strip()
    first = {"id": line["id"], "question": line["question"], "answer": answer, "error": line["error"]}
    rest = {name: line.get(name) for name in _OF_ANSWERS}
    return {**first, "config": line["config"], "run": run, "asked": line["asked"], **rest, "extra": line["extra"]}


def _answered(out: Path, questions: Sequence[BulkQuestion], run: str, keep_failed: bool = False) -> set[str]:
    """Return the ids of questions that have an answer, and take lines without one out of the file, to be made anew."""
    if not out.exists():
        return set()
    asked = {question.id: question.asked for question in questions}
    lines = whole_lines(out)
    for number, line in enumerate(lines, 1):
        where, otherwise = f"{out}:{number}", "pass --restart or another --out"
        if not isinstance(line, dict) or not {"id", "asked", "run", "error"} <= line.keys():
            raise ConfigError(f"{where} is no answer of a run: take the line out, or {otherwise}")
        if line["run"] != run:
            raise ConfigError(f"{where} is of another run (hash {line['run']:.12}, now {run:.12}): {otherwise}")
        if asked.get(str(line["id"]), line["asked"]) != line["asked"]:
            raise ConfigError(
                f"{where} answers another question of id {quoted(line['id'])} "
                f"({quoted(line['question'], 60)}): give the new one an id of its own, or {otherwise}"
            )
    good = [line for line in lines if line["error"] is None]
    if len(good) < len(lines) and not keep_failed:
        replace(out, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in good))
    return {str(line["id"]) for line in good} & asked.keys()


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """Make the folder beside a file of answers, and see to it that one process at a time is at them."""
    folder = out.with_name(f"{out.name}.run")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "batch.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"another process is writing {out}: wait for it, or pass another --out") from None
    try:
        yield folder
    except ConfigError as error:
        if str(folder) not in str(error):
            raise
        # what is said of the folder of a run holds for a file of answers
        raise ConfigError(
            str(error).replace(str(folder), str(out)).replace("another folder", "another --out")
        ) from error
    finally:
        lock.release()
