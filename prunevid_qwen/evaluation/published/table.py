"""Published tables, read from the YAML files beside this one: whose figures, under which setting, how we answer.

Nothing in them is measured by this project: a figure is others', and stands beside the unpruned score of its own
table, without which it says nothing. ``sets.yaml`` holds what the tables share, the data sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol, protocol_named
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, Depth, spending
from prunevid_qwen.evaluation.yaml_data import build, read_yaml

FOLDER = Path(__file__).parent
BASELINE_ROW = "baseline"
_SETS = "sets"


@dataclass(frozen=True)
class DataSet:
    """A data set as it is published, for estimates: counts are published, bytes are reasoned guesses."""

    title: str  # in tables
    questions: int
    videos: int
    gigabytes: float  # of the download
    why: str  # where the gigabytes come from
    dataset: str = ""  # of `datasets.names()`; "" for one that lmms-eval asks and scores
    task: str = ""  # lmms-eval's name of it
    metrics: tuple[str, ...] = ()  # lmms-eval's names of what is added up
    scale: float = 100.0  # of that sum in a table
    part: str | None = None  # of the data set; None for its first
    axis: str | None = None  # groups that tables print too ("duration"); a group's figures are named "videomme/short"

    def __post_init__(self) -> None:
        if bool(self.dataset) == bool(self.task) or bool(self.task) != bool(self.metrics):
            raise ConfigError(f"{self.title} is a dataset of ours, or a task of lmms-eval and its metrics")


@dataclass(frozen=True)
class SetOfTable:
    """A data set under a table's protocol."""

    name: str  # of ``sets.yaml``; in folders, figures and options: "mvbench", "egoschema-full"
    tokens: int  # visual ones of a prompt before pruning, guessed from frames, pixels and the usual size of its videos
    # frames, pixels, text; in YAML a `EvalProtocol` without its data set, or a ``preset`` and what differs from it;
    # None for a task of lmms-eval, which has its own
    protocol: Any = None
    answer: int = 3  # tokens

    def __post_init__(self) -> None:
        if self.name not in data_sets():
            raise ConfigError(unknown("the data sets are", self.name, data_sets()))
        if self.data.task:
            if self.protocol is not None:
                raise ConfigError(f"{self.name} is asked by lmms-eval under its own protocol: leave protocol out")
        elif not isinstance(self.protocol, EvalProtocol):
            if self.protocol is None:
                raise ConfigError(f"{self.name} needs a protocol")
            choices = {"dataset": self.data.dataset, **self.protocol}
            preset = choices.pop("preset", None)
            made = EvalProtocol.from_dict(choices) if preset is None else protocol_named(preset, **choices)
            object.__setattr__(self, "protocol", made)

    @property
    def data(self) -> DataSet:
        """The data set itself."""
        return data_sets()[self.name]


@dataclass(frozen=True)
class Ours:
    """Our config of a row; it depends on how deep the model is."""

    preset: str = "paper"
    options: Mapping[str, Any] = field(default_factory=dict)  # over the preset, by their flat names
    # the layer, from 0, after which it selects; "predictor" for the one that the model's predictor was trained for. A
    # number is of a deep model: one of fewer than 20 layers selects after its first
    after: int | Literal["predictor"] | None = None
    budget: float | None = None  # share of the visual tokens that a layer sees on average; None: as the options say

    def __post_init__(self) -> None:
        self.config(PUBLISHED_DEPTH)  # what is wrong is said with the line it stands in

    def config(self, depth: Depth) -> PruneVidConfig:
        """Return the config for a model; `ConfigError` where its first layers alone spend the budget."""
        made = get_config(self.preset).replace(**self.options)
        if self.after is not None:
            layer = depth.glimpse_layer if self.after == "predictor" else self.after if depth.layers >= 20 else 0
            made = made.replace(pruning_layer=layer)
        return made if self.budget is None else spending(made, self.budget, depth)


@dataclass(frozen=True)
class TableRow:
    """One row of a table: a method with its budget."""

    name: str  # also the config's in a run; the unpruned row is "baseline"
    theirs: Mapping[str, float] = field(default_factory=dict)  # data set, or a group of it -> score in per cent
    ours: Ours | None = None  # None where the method is not implemented here; in a timed setting: the stock model
    kept: str = ""  # in the table's own words
    note: str = ""  # what does not match, or is not known
    baseline: Mapping[str, float] | None = None  # the unpruned scores beside ``theirs``, where of another table


@dataclass(frozen=True)
class Setting:
    """How a table was made, as far as it is known; of several candidates each is one."""

    name: str  # of the folder, and of ``--setting``
    frames: str  # these three in words, for people
    pixels: str
    prompt: str
    sets: tuple[SetOfTable, ...]
    rows: tuple[TableRow, ...]  # the baseline first; of a timed setting, who is measured, in the order of their turns
    unknown: tuple[str, ...] = ()  # what the source does not say, or where sources contradict each other
    images: int = 0  # how many, equally spaced, are timed instead of scored; 0 where nothing is timed
    new_tokens: int = 0  # of every timed answer
    figures: tuple[str, ...] = ()  # lines of others' figures of times

    def __post_init__(self) -> None:
        if self.timed and (len(self.sets) != 1 or self.new_tokens < 2):
            raise ConfigError(
                f"times are of one data set and answers of at least 2 new_tokens; got {len(self.sets)} sets and "
                f"new_tokens {self.new_tokens}"
            )
        first = self.rows[0].name if self.rows else "no row"
        if not self.timed and first != BASELINE_ROW:
            raise ConfigError(f"the first row is {BASELINE_ROW}, got {first}")
        through = [bool(each.data.task) for each in self.sets]
        if any(through) and (not all(through) or self.timed):
            raise ConfigError("lmms-eval scores all data sets of a setting or none, and times nothing")
        for row in self.rows if self.through_lmms else ():
            if row.ours is not None and (row.ours.after, row.ours.budget) != (None, None):
                raise ConfigError(
                    f"{row.name!r}: after and budget depend on a model, which lmms-eval loads: say options"
                )

    @property
    def through_lmms(self) -> bool:
        """Whether lmms-eval asks and scores, with our model in it."""
        return any(each.data.task for each in self.sets)

    @property
    def timed(self) -> bool:
        """Whether times are measured instead of scores."""
        return self.images > 0

    def base(self, row: TableRow) -> Mapping[str, float]:
        """Return the unpruned scores that stand beside a row's."""
        return self.rows[0].theirs if row.baseline is None else row.baseline

    def published(self, row: TableRow, name: str) -> dict[str, float] | None:
        """Return a published score, the unpruned one and their difference in points; None where the row has none."""
        if name not in row.theirs:
            return None
        score, base = row.theirs[name], self.base(row)[name]
        return {"score": score, "baseline": base, "difference": round(score - base, 6)}

    def groups(self, name: str) -> list[str]:
        """Return the groups of a data set that the table prints."""
        return [each.removeprefix(f"{name}/") for each in self.rows[0].theirs if each.startswith(f"{name}/")]


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper."""

    paper: str  # authors' title, place and number
    table: str  # which one, and what it is about
    source: str  # how the figures came here, and how sure that is
    model: str  # hub id
    settings: tuple[Setting, ...]  # candidates for how it was made
    glimpse: str | None = None  # hub id of the predictor, where rows need one
    name: str = ""  # of its file, and of its default folder

    def settings_called(self, names: tuple[str, ...]) -> tuple[Setting, ...]:
        """Return settings by name, all for no names; `ConfigError` where there is none of that name."""
        known = tuple(setting.name for setting in self.settings)
        for name in names:
            if name not in known:
                raise ConfigError(unknown(f"the settings of {self.name} are", name, known))
        return tuple(setting for setting in self.settings if not names or setting.name in names)


def table_names() -> tuple[str, ...]:
    """Return the names of the tables; none is read."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != _SETS))


@cache
def published_table(name: str) -> PublishedTable:
    """Return a table by name; `ConfigError` where there is none, or with file and line where its file is wrong."""
    if name not in table_names():
        raise ConfigError(unknown("the published tables are", name, table_names()))
    return read_table(FOLDER / f"{name}.yaml")


def read_table(path: Path) -> PublishedTable:
    """Read the file of a table.

    Raises:
        ConfigError: it does not hold what `PublishedTable` lists, or figures of a data set that its setting lacks.
    """
    found = read_yaml(path)
    table = dataclasses.replace(build(found, PublishedTable), name=path.stem)
    for setting, read in zip(table.settings, found.value["settings"].value, strict=True):
        sets = {each.name for each in setting.sets}
        for row, place in zip(setting.rows, read.value["rows"].value, strict=True):
            base = setting.base(row)
            for name in row.theirs:
                if name.partition("/")[0] not in sets or name not in base:
                    said = unknown(f"figures of {row.name!r} are of", name, [each for each in base if each in sets])
                    raise place.value["theirs"].value[name].error(said)
    return table


@cache
def data_sets() -> Mapping[str, DataSet]:
    """Return the data sets of the tables by name; `ConfigError` with the line where ``sets.yaml`` is wrong."""
    return build(read_yaml(FOLDER / f"{_SETS}.yaml"), Mapping[str, DataSet])  # type: ignore[type-abstract]
