"""A benchmark run from beginning to end: read, answer what is missing, store; tables are made of the stored lines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.benchmark.question import spread, tasks_of
from prunevid_qwen.evaluation.datasets import Dataset, read_dataset
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.engine.asking import Answering, NamedConfigs
from prunevid_qwen.evaluation.engine.folder import WHOLE, Part, Shard, answered, begin
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.reading import ByProtocol, media_reader
from prunevid_qwen.evaluation.engine.tasks import without
from prunevid_qwen.evaluation.protocol.configs import under
from prunevid_qwen.evaluation.protocol.manifest import Manifest
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.store.identity import config_options, digest_of, model_options, reader_options
from prunevid_qwen.loading import choose_device

Progress = Callable[[str, int, int], None]

BASELINE = "baseline"


@dataclass(frozen=True)
class BenchmarkRun:
    """What is asked, and who answers.

    Args:
        dataset: of `datasets.names()`.
        data: its folder.
        protocol: how it is asked.
        configs: name and config of each.
        part: of the benchmark; None for its first.
        limit: questions, equally spaced; None for all. Not part of a run's identity: it may grow.
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``PruneVidQwen25VL.from_pretrained``; None means its default.
        device: kind that answers; None for what ``loading`` gives here.
    """

    dataset: str
    data: Path
    protocol: Protocol
    configs: NamedConfigs
    part: str | None = None
    limit: int | None = None
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    device: str | None = None

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
        return Answering(self.configs, self.model_path, self.loading, limit)

    def _device(self) -> str:
        return self.device or choose_device(self.loading.get("device"))

    def options(self, data: Dataset, tell: Progress = lambda *_: None) -> dict[str, Any]:
        """Return what two runs must share for their answers to stand in one table, flat: a difference has a name.

        Videos count by their names, not their bytes: whoever adds missing ones goes on with the same run.
        """
        identity = self.protocol.identity()
        config = self.configs[0][1]
        return {
            "dataset": data.name,
            "part": data.part,
            "questions": f"{len(data.records)}, {digest_of([_identity(record) for record in data.records])}",
            **{f"protocol: {name}": value for name, value in identity["protocol"].items()},
            "text of the prompt": digest_of(identity["prompt"]),
            "arithmetic": identity["arithmetic"],
            "video_backend": config.video_backend,
            **reader_options(config.video_backend),
            "vision_chunk_tokens": config.vision_chunk_tokens,
            **model_options(self.model_path, self.loading, self._device(), tell),
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
        run: what is asked.
        engine: that answers.
        shard: which part of the tasks, of how many, this process answers.
        restart: throw away what the folder holds.
        tell: told of the progress.
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
    names = [name for name, _ in run.configs]
    hashes = begin(
        folder,
        run.options(data, tell),
        {name: config_options(config) for name, config in run.configs},
        {
            "what": f"{data.title}, with and without pruning",
            "dataset": data.name,
            "part": data.part,
            "data": str(data.folder.resolve()),
            "protocol": run.protocol.to_dict(),
            "manifest": _manifest(data),
            "command": command,
        },
        restart,
    )
    asked = spread(data.records, run.limit)
    done = answered(folder, hashes)
    number, count = shard
    # what is left depends on who has answered by now, whose share it is must not
    own = list(tasks_of(asked, run.protocol, names))[number::count]
    tasks = [left for task in own if (left := without(task, done)) is not None]
    total = sum(task.answers for task in own)
    finished = total - sum(task.answers for task in tasks)
    tell("answering", finished, total)
    if not tasks:
        return
    with Part.of(folder, shard) as part, closing(engine(tasks, reading, run.answering())) as lines:
        for line in lines:
            part.add({**line, "run": hashes[line["config"]]})
            finished += 1
            tell("answering", finished, total)


def _manifest(data: Dataset) -> dict[str, Any] | None:
    if all(record.answer is None for record in data.records):
        return None  # the authors score it
    return Manifest.of(data.records, data.name, data.by, data.published).to_dict()


def _identity(record: Record) -> list[Any]:
    shown = [
        [media.kind, media.start, media.end, media.fps, [[cue.start, cue.end, cue.text] for cue in media.subtitles]]
        for media in record.media
    ]
    return [record.id, record.question, list(record.options), record.answer, sorted(record.groups.items()), shown]
