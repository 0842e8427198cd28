"""Running a setting of a published table: every data set under its protocol, all rows on the same decoded videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import BUNDLED, is_bundled, source_of
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.datasets import Dataset, benchmark, read_dataset
from prunevid_qwen.evaluation.engine.answering import NamedConfigs
from prunevid_qwen.evaluation.engine.local import Engine
from prunevid_qwen.evaluation.engine.storing import WHOLE, Progress, Shard
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, media_wanted, read_media
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, Depth
from prunevid_qwen.evaluation.published.table import PublishedTable, SetOfTable, Setting
from prunevid_qwen.evaluation.tasks.runs import BenchmarkRun, answer_benchmark, spread
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.loading import HUB_ARGUMENTS, check_source, config_of


@dataclass(frozen=True)
class Reproduction:
    """A setting of a table, with what the user has.

    Raises:
        ConfigError: a data set that the setting does not have, or one without a folder.
    """

    table: PublishedTable
    setting: Setting  # of the table
    data: Mapping[str, Path]  # name of each data set -> its folder
    only: tuple[str, ...] = ()  # data sets to run, by name; () for all of the setting
    # choices of the protocols that are changed, for a smaller GPU or a test; the page tells of them
    changes: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None  # questions (or timed images) of a data set, equally spaced; None for the setting's
    model_path: str = BUNDLED  # or a folder, or a hub id
    glimpse_path: str | None = None  # the predictor's; None for the table's, or the bundled model's own
    loading: dict[str, Any] = field(default_factory=dict)  # arguments of `from_pretrained`; None means its default
    device: str | None = None  # kind that answers; None for what ``loading`` gives here

    def __post_init__(self) -> None:
        if self.setting.timed:
            object.__setattr__(self, "limit", min(self.setting.images, self.limit or self.setting.images))
        if self.setting.through_lmms and self.data:
            raise ConfigError(f"lmms-eval finds the data of {self.table.name} itself: leave --data out")
        data = {benchmark(name).name: folder for name, folder in self.data.items()}
        object.__setattr__(self, "data", data)
        # a name of a data set or, where it has parts in the table, of one of them
        names = (name for each in self.setting.sets for name in (each.data.dataset, each.name) if name)
        known = tuple(dict.fromkeys(names))
        for name in (*self.only, *data):
            if name not in known:
                raise ConfigError(unknown(f"the data sets of {self.table.name} are", name, known))
        missing = sorted({each.data.dataset for each in self.sets} - {*data, ""})
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
        return self.glimpse_path or (BUNDLED if is_bundled(self.model_path) else self.table.glimpse)

    def configs(self, depth: Depth) -> tuple[NamedConfigs, dict[str, str]]:
        """Return the config of each row of ours that fits the model, and of the others why they do not."""
        found, unfit = [], {}
        for name, ours in ((row.name, row.ours) for row in self.setting.rows if row.ours is not None):
            try:
                config = ours.config(depth)
            except ConfigError as error:
                unfit[name] = str(error)
                continue
            found.append((name, config.replace(glimpse_path=self._predictor) if config.has("glimpse_path") else config))
        return tuple(found), unfit

    def run(self, each: SetOfTable, configs: NamedConfigs) -> BenchmarkRun:
        """Return the run of a data set under its protocol, changes included; `ConfigError` where they do not fit."""
        name, protocol = each.data.dataset, each.protocol.replace(**self.changes)
        who = (self.model_path, self.loading, self.device)
        return BenchmarkRun(name, self.data[name], protocol, configs, each.data.part, self.limit, *who)

    def read(self) -> list[tuple[SetOfTable, Dataset]]:
        """Read the questions of every data set, no video; `ConfigError` where a folder does not hold them."""
        names = [(each, each.data.dataset) for each in self.sets]
        return [(each, read_dataset(name, self.data[name], each.data.part)) for each, name in names]


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

    Each data set has a folder in that of the setting. The rest is as in `answer_benchmark`.

    Raises:
        ConfigError: a data set is not there, its folder holds another run, or a change that the model does not heed.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    media_wanted(asked.model_path, asked.loading).check_asked(asked.changes)
    found, configs = asked.read(), asked.configs(asked.depth())[0]
    for each, data in found:

        def told(what: str, done: int, total: int, title: str = each.data.title) -> None:
            tell(f"{title}: {what}", done, total)

        answer_benchmark(folder / each.name, asked.run(each, configs), engine, shard, restart, told, command, data)


def check(asked: Reproduction) -> list[dict[str, Any]]:
    """Do everything up to the model: questions, protocols, configs, files of a local model, a first video of each set.

    Returns: what was found of each data set; "first" is None where nothing can be read.

    Raises:
        ConfigError, SetupError: what would stop the run.
    """
    files, local = check_files(asked.model_path), Path(source_of(asked.model_path)).is_dir()
    depth = asked.depth() if local else PUBLISHED_DEPTH
    configs, unfit = asked.configs(depth)
    if local:
        media_wanted(asked.model_path, asked.loading).check_asked(asked.changes)
    for _, config in configs if local else ():
        compile_plan(config, depth.layers)
    names = [name for name, _ in configs]
    if asked.setting.timed:  # the stock model takes part
        names = [row.name for row in asked.setting.rows if row.ours is None or row.name in names]
    found = []
    for each, data in asked.read():
        run = asked.run(each, configs)
        reading = run.reading() if local else ByProtocol(run.protocol, PixelOptions(), PixelOptions())
        if local:
            run.wanted().check_shown(media for record in data.records for media in record.media)
        records = spread(data.records, asked.limit)
        missing = sorted({media.path for each in records for media in each.media if not Path(media.path).exists()})
        tried = ((record.media[0].path, read_media(reading, record.media)) for record in records)
        path, first = next(((path, read) for path, read in tried if read.error is None), (None, None))
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
                "first": first
                and {
                    "path": path,
                    "frames, height, width": [list(medium.frames.shape[:3]) for medium in first.media],
                    "seconds": first.seconds,
                },
            }
        )
    return found


def depth_of(model_path: str, loading: dict[str, Any], glimpse_path: str | None = None) -> Depth:
    """Read how deep a model is, and where its predictor selects, of which a hub id is taken for a published one.

    It raises as `prunevid_qwen.loading.config_of`.
    """
    hub = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    layers = config_of(source_of(model_path), hub).get_text_config().num_hidden_layers
    if glimpse_path is None or not (glimpse_path == "bundled" or Path(glimpse_path).is_dir()):
        return Depth(layers)
    from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

    return Depth(layers, GlimpseVIP.from_pretrained(glimpse_path).facts.reduce_layer)


def check_files(model_path: str) -> str:
    """Look whether the weights of a local model are all there, and say so; `SetupError` where some are not."""
    check_source(source_of(model_path))  # before a Path drops the ./ that makes it one
    folder = Path(source_of(model_path))
    if not folder.is_dir():
        return f"{model_path}: not a folder here, so its files were not looked at"
    index, wanted = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.is_file():
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if missing:
        raise SetupError(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of weights, the first is {missing[0]}: was its "
            "download cut short?"
        )
    return f"{folder}: config and {len(wanted)} file(s) of weights are there"
