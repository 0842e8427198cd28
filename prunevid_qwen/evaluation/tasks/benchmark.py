"""A benchmark run from beginning to end: read, answer what is missing, store; tables are made of the stored lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation import store
from prunevid_qwen.evaluation.datasets import Dataset, read_dataset
from prunevid_qwen.evaluation.datasets.record import Media, Record
from prunevid_qwen.evaluation.engine import storing
from prunevid_qwen.evaluation.engine.answering import Answering, NamedConfigs
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.storing import WHOLE, Progress, Shard
from prunevid_qwen.evaluation.engine.task import Line, TaskQuestion, tasks_of, without
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, ReadMedia, media_reader
from prunevid_qwen.evaluation.protocol.prompts import subtitles_at
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol, under
from prunevid_qwen.evaluation.protocol.score_summary import Manifest
from prunevid_qwen.loading import choose_device

BASELINE = "baseline"
_SHARE_IT = "wait for it, or share the work between processes with --shard 0/2 and --shard 1/2"


@dataclass(frozen=True)
class BenchmarkQuestion(TaskQuestion):
    """A record as a protocol asks it."""

    record: Record
    protocol: EvalProtocol

    @property
    def id(self) -> str:  # type: ignore[override]
        """That of the record."""
        return self.record.id

    @property
    def media(self) -> tuple[Media, ...]:  # type: ignore[override]
        """Those of the record."""
        return self.record.media

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write the question; subtitles are those at the moments of the frames taken."""
        said = None
        if self.protocol.subtitles == "frames":
            shown = zip(self.record.media, media, strict=True)
            said = [line for each, read in shown for line in subtitles_at(each.subtitles, read.timestamps)]
        return self.protocol.text.messages(items, self.record, said)

    def about(self) -> Line:
        """Return what scorers need, and every choice of the protocol."""
        return {
            "id": self.record.id,
            "question": self.record.question,
            "options": list(self.record.options),
            "answer": self.record.answer,
            "groups": dict(self.record.groups),
            "protocol": self.protocol.to_dict(),
        }


def spread(records: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """Take ``limit`` records, equally spaced, so that a first try sees every part of a set; None takes all."""
    if limit is None or limit >= len(records):
        return records
    return [records[i * len(records) // limit] for i in range(limit)]


@dataclass(frozen=True)
class BenchmarkRun:
    """What is asked, and who answers; ``model_path``, ``loading`` and ``plugins`` are those of `Answering`.

    Raises:
        ConfigError: configs read videos in different ways.
    """

    dataset: str  # of `datasets.names()`
    data: Path  # its folder
    protocol: EvalProtocol
    configs: NamedConfigs
    part: str | None = None  # of the benchmark; None for its first
    limit: int | None = None  # questions, equally spaced. Not part of a run's identity: it may grow
    model_path: str = "bundled"
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

    def reading(self) -> ByProtocol:
        """Say how media are read for this model."""
        media, config = media_reader(self.model_path, self.loading), self.configs[0][1]
        return ByProtocol(self.protocol, media.video, media.image, config.video_backend, config.video_time_limit)

    def answering(self) -> Answering:
        """Say who answers."""
        limit = {"max_new_tokens": self.protocol.max_new_tokens}
        return Answering(self.configs, self.model_path, self.loading, limit, self.plugins)

    def options(self, data: Dataset, tell: Progress = lambda *_: None) -> dict[str, Any]:
        """Return what two runs must share for their answers to stand in one table, flat: a difference has a name.

        Videos count by their names, not their bytes: whoever adds missing ones goes on with the same run.
        """
        identity, config = self.protocol.identity(), self.configs[0][1]
        device = self.device or choose_device(self.loading.get("device"))
        return {
            "dataset": data.name,
            "part": data.part,
            "questions": f"{len(data.records)}, {store.digest_of([_identity(record) for record in data.records])}",
            **{f"protocol: {name}": value for name, value in identity["protocol"].items()},
            "text of the prompt": store.digest_of(identity["prompt"]),
            "arithmetic": identity["arithmetic"],
            "video_backend": config.video_backend,
            **store.reader_options(config.video_backend),
            "vision_chunk_tokens": config.vision_chunk_tokens,
            **store.model_options(self.model_path, self.loading, device, tell),
            **store.plugin_options(self.plugins),
        }


def answer_run(
    folder: Path,
    run: BenchmarkRun,
    engine: Engine,
    shard: Shard = WHOLE,
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
    data: Dataset | None = None,
) -> None:
    """Answer what the folder does not hold yet.

    Args:
        folder: of the results; made if missing.
        shard: the part of the tasks that this process answers.
        restart: throw away what the folder holds.
        command: what was typed, for the record.
        data: the questions, where they have been read.

    Raises:
        ConfigError: the folder is another run's, or a share is to restart.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    if restart and shard[1] > 1:
        raise ConfigError(
            f"restart throws away the answers of all {shard[1]} shares, whoever else is at theirs: delete {folder} "
            "before the first of them starts, or pass another folder"
        )
    reading = run.reading()  # a model that it cannot be done for is refused before a file is touched
    data = data or run.read()
    options = run.options(data, tell)
    configs = {name: store.config_options(config) for name, config in run.configs}
    about = {
        "what": f"{data.title}, with and without pruning",
        "dataset": data.name,
        "part": data.part,
        "data": str(data.folder.resolve()),
        "protocol": run.protocol.to_dict(),
        "manifest": _manifest(data),
        "command": command,
    }
    storing.run_folder(folder).begin(options, about, restart, configs=configs)
    hashes = {name: store.run_hash(options, config) for name, config in configs.items()}
    done = storing.answered(folder, hashes)
    number, count = shard
    # what is left depends on who has answered by now, whose share it is must not
    questions = [BenchmarkQuestion(record, run.protocol) for record in spread(data.records, run.limit)]
    own = list(tasks_of(questions, list(configs)))[number::count]
    storing.store_answers(
        storing.answers_of(folder, shard),
        tasks := [left for task in own if (left := without(task, done)) is not None],
        lambda: engine(tasks, reading, run.answering()),
        sum(task.answers for task in own),
        tell,
        lambda line: {**line, "run": hashes[line["config"]]},
        _SHARE_IT,
    )


def _manifest(data: Dataset) -> dict[str, Any] | None:
    if all(record.answer is None for record in data.records):
        return None  # the authors score it
    return asdict(Manifest.of(data.records, data.name, data.by, data.published))


def _identity(record: Record) -> list[Any]:
    shown = [
        [media.kind, media.start, media.end, media.fps, [[cue.start, cue.end, cue.text] for cue in media.subtitles]]
        for media in record.media
    ]
    return [record.id, record.question, list(record.options), record.answer, sorted(record.groups.items()), shown]
