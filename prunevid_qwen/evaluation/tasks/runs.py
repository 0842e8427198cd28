"""Runs of a benchmark and of a user's questions: what is missing is answered and stored.

Their options are what two runs must share for their answers to stand in one table, flat: a difference has a name.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import BUNDLED
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation import store
from prunevid_qwen.evaluation.datasets import Dataset, Record, read_dataset
from prunevid_qwen.evaluation.engine import storing
from prunevid_qwen.evaluation.engine.answering import Answering, NamedConfigs
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.storing import WHOLE, Progress, Shard
from prunevid_qwen.evaluation.engine.task import Line, Task, TaskQuestion, left_of, tasks_of
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, MediaWanted, ReadMedia, media_wanted
from prunevid_qwen.evaluation.protocol.prompts import subtitles_at
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol, under
from prunevid_qwen.evaluation.protocol.score_summary import Manifest
from prunevid_qwen.evaluation.tasks.batch_questions import BatchQuestion
from prunevid_qwen.loading import choose_device

TOGETHER = 32
"""Questions of a user about the same media that are one task, at most: what a kill in the middle of one costs."""

_SHARE_IT = "wait for it, or share the work between processes with --shard 0/2 and --shard 1/2"


def spread(records: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """Take ``limit`` records, equally spaced, so that a first try sees every part of a set; None takes all."""
    if limit is None or limit >= len(records):
        return records
    return [records[i * len(records) // limit] for i in range(limit)]


# ---- a benchmark


@dataclass(frozen=True)
class BenchmarkQuestion(TaskQuestion):
    """A record as a protocol asks it."""

    record: Record
    protocol: EvalProtocol

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.record.id)
        object.__setattr__(self, "media", self.record.media)

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write the question; subtitles are those at the moments of the frames taken."""
        said = None
        if self.protocol.subtitles == "frames":
            shown = zip(self.record.media, media, strict=True)
            said = [line for each, read in shown for line in subtitles_at(each.subtitles, read.timestamps)]
        return self.protocol.text.messages(items, self.record, said)

    def about(self) -> Line:
        """Return what scorers need, and every choice of the protocol."""
        record = self.record
        shown = {"id": record.id, "question": record.question, "options": list(record.options)}
        asked = {"groups": dict(record.groups), "protocol": self.protocol.to_dict()}
        return {**shown, "answer": record.answer, **asked}


@dataclass(frozen=True)
class BenchmarkRun:
    """What is asked, and who answers, as `Answering` has it; configs that read videos differently are refused."""

    dataset: str  # of `datasets.names()`
    data: Path  # its folder
    protocol: EvalProtocol
    configs: NamedConfigs
    part: str | None = None  # of the benchmark; None for its first
    limit: int | None = None  # questions, equally spaced. Not part of a run's identity: it may grow
    model_path: str = BUNDLED
    loading: dict[str, Any] = field(default_factory=dict)
    device: str | None = None  # kind that answers; None for what ``loading`` gives here
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        heeded = tuple((name, under(self.protocol, name, config)) for name, config in self.configs)
        object.__setattr__(self, "configs", heeded)
        for option in ("video_backend", "video_time_limit"):
            if len({getattr(config, option) for _, config in heeded}) > 1:
                raise ConfigError(f"configs that share decoded videos have one {option}: give all the same")

    def read(self) -> Dataset:
        """Read the questions; no video is opened."""
        folder = self.data.absolute()  # other processes have working directories of their own
        return read_dataset(self.dataset, folder, self.part, self.protocol.subtitles != "none")

    def wanted(self) -> MediaWanted:
        """Say how this model wants its media."""
        return media_wanted(self.model_path, self.loading)

    def reading(self) -> ByProtocol:
        """Say how media are read for this model."""
        config = self.configs[0][1]
        return self.wanted().by_protocol(self.protocol, config.video_backend, config.video_time_limit)

    def answering(self) -> Answering:
        """Say who answers."""
        limit = {"max_new_tokens": self.protocol.max_new_tokens}
        return Answering(self.configs, self.model_path, self.loading, limit, self.plugins)

    def options(self, data: Dataset, tell: Progress = lambda *_: None) -> dict[str, Any]:
        """Return what two runs must share. Videos count by their names: whoever adds missing ones goes on."""

        def shown(record: Record) -> dict[str, Any]:
            media = [{**asdict(each), "path": None} for each in record.media]
            return {**asdict(record), "media": media}

        identity, config = self.protocol.identity(), self.configs[0][1]
        device = self.device or choose_device(self.loading.get("device"))
        return {
            "dataset": data.name,
            "part": data.part,
            "questions": f"{len(data.records)}, {store.digest_of([*map(shown, data.records)])}",
            **{f"protocol: {name}": value for name, value in identity["protocol"].items()},
            "text of the prompt": store.digest_of(identity["prompt"]),
            "arithmetic": identity["arithmetic"],
            "video_backend": config.video_backend,
            **store.reader_options(config.video_backend),
            "vision_chunk_tokens": config.vision_chunk_tokens,
            **store.model_options(self.model_path, self.loading, device, tell),
            **store.plugin_options(self.plugins),
        }


def answer_benchmark(
    folder: Path,
    run: BenchmarkRun,
    engine: Engine,
    shard: Shard = WHOLE,
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
    data: Dataset | None = None,
) -> None:
    """Answer what the folder does not hold yet, or a shard's part of it; ``restart`` throws away what it holds.

    ``command`` is what was typed, for the record; ``data`` are the questions, where they have been read.

    Raises:
        ConfigError: the folder is another run's, or a share is to restart.
        PruningNotApplied: pruning was asked for and did not happen.
        UnsupportedError: the model's family is not known, or is not shown such media.
    """
    number, count = shard
    if restart and count > 1:
        raise ConfigError(
            f"restart throws away the answers of all {count} shares, whoever else is at theirs: delete {folder} "
            "before the first of them starts, or pass another folder"
        )
    wanted, reading = run.wanted(), run.reading()
    data = data or run.read()
    wanted.check_shown(media for record in data.records for media in record.media)  # before a file is touched
    options, configs = run.options(data, tell), {name: store.config_options(config) for name, config in run.configs}
    scored = any(record.answer is not None for record in data.records)  # else the authors score it
    about = {
        "what": f"{data.title}, with and without pruning",
        "dataset": data.name,
        "part": data.part,
        "data": str(data.folder.resolve()),
        "protocol": run.protocol.to_dict(),
        **wanted.facts,
        "manifest": asdict(Manifest.of(data.records, data.name, data.by, data.published)) if scored else None,
        "command": command,
    }
    storing.run_folder(folder).begin(options, about, restart, configs=configs)
    hashes = {name: store.run_hash(options, config) for name, config in configs.items()}
    done = storing.answered(folder, hashes)
    # what is left depends on who has answered by now, whose share it is must not
    questions = [BenchmarkQuestion(record, run.protocol) for record in spread(data.records, run.limit)]
    own = list(tasks_of(questions, list(configs)))[number::count]
    tasks = left_of(own, done)

    def stored(line: Line) -> Line:
        return {**line, "run": hashes[line["config"]]}

    total, path = sum(task.answers for task in own), storing.answers_of(folder, shard)
    answers = functools.partial(engine, tasks, reading, run.answering())
    storing.store_answers(path, tasks, answers, total, tell, stored, _SHARE_IT)


# ---- questions of a user


@dataclass(frozen=True)
class BatchRun:
    """What is asked, and who answers; ``model_path``, ``loading`` and ``plugins`` are those of `Answering`."""

    questions: tuple[BatchQuestion, ...]  # with different ids
    config: tuple[str, PruneVidConfig]  # its name and itself; it also says how media are read, as for ``prunevid ask``
    system: str | None = None  # the message of the system that the questions were read with
    max_new_tokens: int = 512
    model_path: str = BUNDLED
    loading: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def tasks(self, done: Collection[str] = ()) -> list[Task]:
        """Return what is left to ask, without the ids in ``done``."""
        left = [question for question in self.questions if question.id not in done]
        return list(tasks_of(left, [self.config[0]], TOGETHER))

    def options(self, device: str) -> dict[str, Any]:
        """Return what two runs must share, beside the question: each answer's line has a hash of its own."""
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
    """Answer what the file ``out`` does not hold yet; what failed before is asked again, and its line replaced.

    A folder ``.run`` beside it says of what run its lines are. The rest is as in `answer_benchmark`.

    Returns: how many questions there are, have an answer, have none; the run's hash; seconds.
    """
    began, (name, config) = time.perf_counter(), run.config
    wanted, limit = media_wanted(run.model_path, run.loading), {"max_new_tokens": run.max_new_tokens}
    wanted.check_shown(media for question in run.questions for media in question.media)
    reading = wanted.by_config(config)
    answering = Answering((run.config,), run.model_path, run.loading, limit, run.plugins)
    options, configs = run.options(device), {name: store.config_options(config)}
    about = {"what": "questions of a user", "command": command}
    store.RunFolder(out.with_name(f"{out.name}.run"), shown=out).begin(options, about, restart, configs=configs)
    own, asked = store.run_hash(options, configs[name]), {question.id: question.asked for question in run.questions}

    def answered() -> set[str]:
        found = set()
        for where, line in storing.own_lines(out, lambda _: own, "another file"):
            if asked.get(str(line["id"]), line["asked"]) != line["asked"]:
                raise ConfigError(
                    f"{where} answers another question of id {quoted(line['id'])} ({quoted(line['question'], 60)}): "
                    "give the new one an id of its own, or pass --restart or another file"
                )
            if line["error"] is None:
                found.add(str(line["id"]))
        return found & asked.keys()

    def stored(line: Line) -> Line:
        answer = None if line["error"] is not None else line["raw"].strip()
        first = {"id": line["id"], "question": line["question"], "answer": answer, "error": line["error"]}
        rest = {each: line.get(each) for each in ("tokens", "kept_ratio", "seconds", "media")}
        return {**first, "config": name, "run": own, "asked": line["asked"], **rest, "extra": line["extra"]}

    total, tasks, otherwise = len(asked), run.tasks(answered()), "wait for it, or pass another file"
    store.keep_lines(out, lambda line: line["error"] is None)
    storing.store_answers(out, tasks, lambda: engine(tasks, reading, answering), total, tell, stored, otherwise)
    done, seconds = len(answered()), time.perf_counter() - began
    said = {"out": str(out), "questions": total, "answered": done, "failed": total - done}
    return {**said, "run": own, "seconds": seconds}
