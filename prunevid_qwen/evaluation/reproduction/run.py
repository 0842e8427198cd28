"""Running a setting of a published table: every data set under its protocol, all rows on the same decoded videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.benchmark.question import spread
from prunevid_qwen.evaluation.benchmark.run import BenchmarkRun, Progress, answer_run
from prunevid_qwen.evaluation.datasets import Dataset, benchmark, read_dataset
from prunevid_qwen.evaluation.engine.asking import NamedConfigs
from prunevid_qwen.evaluation.engine.folder import WHOLE, Shard
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.reading import ByProtocol, read_media
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.reproduction.budget import PUBLISHED_DEPTH, Depth
from prunevid_qwen.evaluation.reproduction.model_files import check_files, depth_of, folder_of
from prunevid_qwen.evaluation.reproduction.published import Asked, PublishedTable, Setting, Timed
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.inputs.qwen.media import MediaReader


@dataclass(frozen=True)
class Reproduction:
    """A setting of a table, with what the user has.

    Args:
        table, setting: which; the setting is one of the table's.
        data: folder of each data set, by its name.
        only: data sets to run, by name; () for all of the setting.
        changes: choices of the protocols that are changed, for a smaller GPU or a test; the page tells of them.
        limit: questions a data set, equally spaced; None for all.
        model_path: "bundled", a folder or a hub id.
        glimpse_path: the predictor's; None for the table's, or the bundled model's own.
        loading: arguments of ``PruneVidQwen25VL.from_pretrained``; None means its default.
        device: kind that answers; None for what ``loading`` gives here.

    Raises:
        ConfigError: a data set that the setting does not have, or one without a folder.
    """

    table: PublishedTable
    setting: Setting | Timed
    data: Mapping[str, Path]
    only: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    model_path: str = "bundled"
    glimpse_path: str | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    device: str | None = None

    def __post_init__(self) -> None:
        data = {benchmark(name).name: folder for name, folder in self.data.items()}
        object.__setattr__(self, "data", data)
        # a name of a data set or, where it is asked in parts, of one of them
        known = tuple(dict.fromkeys(name for each in self.setting.asked for name in (each.dataset, each.name)))
        for name in (*self.only, *data):
            if name not in known:
                raise ConfigError(unknown(f"the data sets of {self.table.name} are", name, known))
        missing = sorted({each.dataset for each in self.asked} - set(data))
        if missing:
            raise ConfigError(
                f"{self.table.name} needs the data of {', '.join(missing)}: pass "
                f"{' '.join(f'--data {name}=FOLDER' for name in missing)}, or name what you have with --only "
                f"({', '.join(known)}); the page then says what was left out"
            )

    @property
    def asked(self) -> tuple[Asked, ...]:
        """The data sets that are run."""
        return tuple(
            each for each in self.setting.asked if not self.only or each.name in self.only or each.dataset in self.only
        )

    @property
    def predictor(self) -> str | None:
        """Where the glimpse predictor lies; None where no row has one."""
        if self.table.glimpse is None:
            return None
        return self.glimpse_path or ("bundled" if self.model_path == "bundled" else self.table.glimpse)

    def depth(self) -> Depth:
        """Return how deep the model is."""
        return depth_of(self.model_path, self.loading, self.predictor)

    def configs(self, depth: Depth) -> tuple[NamedConfigs, dict[str, str]]:
        """Return the config of each row of ours that fits the model, and of the others why they do not."""
        found, unfit = [], {}
        for row in self.setting.rows:
            if row.config is None:
                continue
            try:
                found.append((row.name, self._with_predictor(row.config(depth))))
            except ConfigError as error:
                unfit[row.name] = str(error)
        return tuple(found), unfit

    def _with_predictor(self, config: PruneVidConfig) -> PruneVidConfig:
        return config.replace(glimpse_path=self.predictor) if config.has("glimpse_path") else config

    def protocol(self, asked: Asked) -> Protocol:
        """Return how a data set is asked, changes included."""
        return asked.protocol.replace(**self.changes)

    def run_of(self, asked: Asked, configs: NamedConfigs) -> BenchmarkRun:
        """Return the run of a data set."""
        return BenchmarkRun(
            asked.dataset, self.data[asked.dataset], self.protocol(asked), configs, asked.part, self.limit,
            self.model_path, self.loading, self.device,
        )  # fmt: skip

    def read(self) -> list[tuple[Asked, Dataset]]:
        """Read the questions of every data set; no video is opened.

        Raises:
            ConfigError: a folder does not hold them.
        """
        return [(each, read_dataset(each.dataset, self.data[each.dataset], each.part)) for each in self.asked]


def reproduce(
    asked: Reproduction,
    folder: Path,
    engine: Engine,
    shard: Shard = WHOLE,
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
) -> None:
    """Answer what the folder does not hold yet; every data set is read before the first is answered.

    Args:
        asked: what is run.
        folder: of the setting; each data set has one in it.
        engine, shard, restart, tell, command: as in `answer_run`.

    Raises:
        ConfigError: a data set is not there, or its folder holds another run.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    found = asked.read()
    configs, _ = asked.configs(asked.depth())
    for each, data in found:

        def told(what: str, done: int, total: int, title: str = each.title) -> None:
            tell(f"{title}: {what}", done, total)

        answer_run(folder / each.name, asked.run_of(each, configs), engine, shard, restart, told, command, data)


def check(asked: Reproduction) -> list[dict[str, Any]]:
    """Do everything up to the model: questions, protocols, configs, files of a local model, a first video of each set.

    Returns: what was found of each data set.

    Raises:
        ConfigError, SetupError: what would stop the run. Of a data set of which nothing can be read "first" is None.
    """
    files = check_files(asked.model_path)
    local = folder_of(asked.model_path) is not None
    timed, limit = isinstance(asked.setting, Timed), asked.limit
    if isinstance(asked.setting, Timed):
        limit = min(asked.setting.images, limit or asked.setting.images)
    depth = asked.depth() if local else PUBLISHED_DEPTH
    configs, unfit = asked.configs(depth)
    for _, config in configs:
        if local:
            compile_plan(config, depth.layers)
    # of a `Timed` the stock model takes part too
    names = [row.name for row in asked.setting.rows if row.name in dict(configs) or (timed and row.config is None)]
    found = []
    for each, data in asked.read():
        run = asked.run_of(each, configs)
        reader = MediaReader()
        config = run.configs[0][1]
        reading = run.reading() if local else ByProtocol(
            run.protocol, reader.video, reader.image, config.video_backend, config.video_time_limit
        )  # fmt: skip
        records = spread(data.records, limit)
        paths = {media.path for record in records for media in record.media}
        missing = sorted(path for path in paths if not Path(path).exists())
        first: dict[str, Any] | None = None
        for record in records:
            read = read_media(reading, record.media)
            if read.error is None:
                shapes = [list(medium.frames.shape[:3]) for medium in read.media]
                first = {"path": record.media[0].path, "frames, height, width": shapes, "seconds": read.seconds}
                break
        found.append(
            {
                "asked": each.name,
                "dataset": each.dataset,
                "folder": str(asked.data[each.dataset]),
                "title": f"{data.title} ({data.part})",
                "questions": len(records),
                "of": len(data.records),
                "published": data.published,
                "answers": len(records) * len(names),
                "missing": len(missing),
                "first missing": missing[0] if missing else None,
                "protocol": run.protocol.to_dict(),
                "configs": names,
                "not on this model": unfit,
                "model": files,
                "first": first,
            }
        )
    return found
