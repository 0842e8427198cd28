"""Running a setting of a published table: every data set under its protocol, all rows on the same decoded videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.datasets import Dataset, benchmark, read_dataset
from prunevid_qwen.evaluation.engine.answering import NamedConfigs
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.reading import ByProtocol, Reading, read_media
from prunevid_qwen.evaluation.engine.storing import WHOLE, Progress, Shard
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, Depth
from prunevid_qwen.evaluation.published.table import PublishedTable, SetOfTable, Setting
from prunevid_qwen.evaluation.tasks.benchmark import BenchmarkRun, answer_run, spread
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.loading import HUB_ARGUMENTS, bundled_model, check_source, config_of

_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


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
    setting: Setting
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
        # a name of a data set or, where it has parts in the table, of one of them
        known = tuple(dict.fromkeys(name for each in self.setting.sets for name in (each.data.dataset, each.name)))
        for name in (*self.only, *data):
            if name not in known:
                raise ConfigError(unknown(f"the data sets of {self.table.name} are", name, known))
        missing = sorted({each.data.dataset for each in self.sets} - set(data))
        if missing:
            raise ConfigError(
                f"{self.table.name} needs the data of {', '.join(missing)}: pass "
                f"{' '.join(f'--data {name}=FOLDER' for name in missing)}, or name what you have with --only "
                f"({', '.join(known)}); the page then says what was left out"
            )

    @property
    def sets(self) -> tuple[SetOfTable, ...]:
        """The data sets that are run."""
        wanted = set(self.only)
        return tuple(each for each in self.setting.sets if not wanted or wanted & {each.name, each.data.dataset})

    def depth(self) -> Depth:
        """Return how deep the model is."""
        return depth_of(self.model_path, self.loading, self._predictor)

    @property
    def _predictor(self) -> str | None:
        if self.table.glimpse is None:
            return None
        return self.glimpse_path or ("bundled" if self.model_path == "bundled" else self.table.glimpse)

    def configs(self, depth: Depth) -> tuple[NamedConfigs, dict[str, str]]:
        """Return the config of each row of ours that fits the model, and of the others why they do not."""
        found, unfit = [], {}
        for row in self.setting.rows:
            if row.ours is not None:
                try:
                    found.append((row.name, self._with_predictor(row.ours.config(depth))))
                except ConfigError as error:
                    unfit[row.name] = str(error)
        return tuple(found), unfit

    def _with_predictor(self, config: PruneVidConfig) -> PruneVidConfig:
        return config.replace(glimpse_path=self._predictor) if config.has("glimpse_path") else config

    def protocol(self, each: SetOfTable) -> Protocol:
        """Return the protocol of a data set, changes included."""
        made: Protocol = each.protocol.replace(**self.changes)
        return made

    def run_of(self, each: SetOfTable, configs: NamedConfigs) -> BenchmarkRun:
        """Return the run of a data set."""
        dataset = each.data.dataset
        return BenchmarkRun(
            dataset, self.data[dataset], self.protocol(each), configs, each.data.part, self.limit, self.model_path,
            self.loading, self.device,
        )  # fmt: skip

    def read(self) -> list[tuple[SetOfTable, Dataset]]:
        """Read the questions of every data set; no video is opened.

        Raises:
            ConfigError: a folder does not hold them.
        """
        return [
            (each, read_dataset(each.data.dataset, self.data[each.data.dataset], each.data.part)) for each in self.sets
        ]


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

        def told(what: str, done: int, total: int, title: str = each.data.title) -> None:
            tell(f"{title}: {what}", done, total)

        answer_run(folder / each.name, asked.run_of(each, configs), engine, shard, restart, told, command, data)


def check(asked: Reproduction) -> list[dict[str, Any]]:
    """Do everything up to the model: questions, protocols, configs, files of a local model, a first video of each set.

    Returns: what was found of each data set.

    Raises:
        ConfigError, SetupError: what would stop the run. Of a data set of which nothing can be read "first" is None.
    """
    files, local = check_files(asked.model_path), _is_local(asked.model_path)
    timed, limit = asked.setting.timed, asked.limit
    if timed:
        limit = min(asked.setting.images, limit or asked.setting.images)
    depth = asked.depth() if local else PUBLISHED_DEPTH
    configs, unfit = asked.configs(depth)
    if local:
        for _, config in configs:
            compile_plan(config, depth.layers)
    # the stock model takes part in what is timed
    names = [row.name for row in asked.setting.rows if row.name in dict(configs) or (timed and row.ours is None)]
    found = []
    for each, data in asked.read():
        run, reader, config = asked.run_of(each, configs), MediaReader(), configs[0][1]
        reading = run.reading() if local else ByProtocol(
            run.protocol, reader.video, reader.image, config.video_backend, config.video_time_limit
        )  # fmt: skip
        records = spread(data.records, limit)
        missing = sorted(
            path for path in {media.path for each in records for media in each.media} if not Path(path).exists()
        )
        found.append(
            {
                "asked": each.name,
                "dataset": each.data.dataset,
                "folder": str(asked.data[each.data.dataset]),
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
                "first": _first_read(reading, records),
            }
        )
    return found


def _first_read(reading: Reading, records: Any) -> dict[str, Any] | None:
    for record in records:
        read = read_media(reading, record.media)
        if read.error is None:
            shapes = [list(medium.frames.shape[:3]) for medium in read.media]
            return {"path": record.media[0].path, "frames, height, width": shapes, "seconds": read.seconds}
    return None


# ---- what is known of a model that is not loaded


def depth_of(model_path: str, loading: dict[str, Any], glimpse_path: str | None = None) -> Depth:
    """Read how deep a model is, and where its predictor selects.

    Args:
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``from_pretrained``; None means its default.
        glimpse_path: of the predictor: "bundled" or a folder; a hub id is taken for a published one.

    Raises:
        ConfigError, SetupError, UnsupportedError: as in `prunevid_qwen.loading.config_of`.
    """
    hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    layers = config_of(_folder(model_path), hub).get_text_config().num_hidden_layers
    if glimpse_path is None or not (glimpse_path == "bundled" or Path(glimpse_path).is_dir()):
        return Depth(layers)
    from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

    return Depth(layers, GlimpseVIP.from_pretrained(glimpse_path).facts.reduce_layer)


def check_files(model_path: str) -> str:
    """Look whether the weights of a local model are all there; return a sentence.

    Raises:
        ConfigError: it is neither a folder of a model nor a hub id.
        SetupError: some are missing; the first is named.
    """
    check_source(_folder(model_path))  # before a Path drops the ./ that makes it one
    folder = Path(_folder(model_path))
    if not folder.is_dir():
        return f"{model_path}: not a folder here, so its files were not looked at"
    index, wanted = folder / _INDEX, [_WEIGHTS]
    if index.is_file():
        wanted = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise SetupError(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of weights, the first is {missing[0]}: was its "
            "download cut short?"
        )
    return f"{folder}: config and {len(wanted)} file(s) of weights are there"


def _folder(model_path: str) -> str:
    return bundled_model() if model_path == "bundled" else model_path


def _is_local(model_path: str) -> bool:
    return Path(_folder(model_path)).is_dir()
