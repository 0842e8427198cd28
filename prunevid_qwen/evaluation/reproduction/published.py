"""What a published table is: whose figures, under which setting, how sure we are of both, and how our options answer.

Nothing here is measured by this project: a `Figure` is others', and always comes with the unpruned score of the same
table, without which it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.reproduction.budget import Depth
from prunevid_qwen.evaluation.reproduction.cost import Work

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"

ConfigOfDepth = Callable[[Depth], PruneVidConfig]
"""From the depth of the model to the config of a row."""


@dataclass(frozen=True)
class Figure:
    """A published score and the unpruned score that it stands beside, both in per cent."""

    score: float
    baseline: float

    @property
    def difference(self) -> float:
        """Points lost (below 0) or won."""
        return round(self.score - self.baseline, 6)


@dataclass(frozen=True)
class Asked:
    """One data set of a table, as it is asked.

    Args:
        name: in folders, figures and options: "mvbench", "egoschema-full".
        title: in tables.
        dataset: of `datasets.names()`.
        protocol: frames, pixels, text.
        work: how much it is, for the estimate.
        part: of the data set; None for its first.
        axis: groups that the table prints too ("duration"); figures of a group are named "videomme/short".
    """

    name: str
    title: str
    dataset: str
    protocol: Protocol
    work: Work
    part: str | None = None
    axis: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: of the method with its budget; also the config's in a run. The unpruned row is "baseline".
        config: ours, or None where the method is not implemented here: the figures are then theirs alone.
        published: name of an `Asked` (or of one of its groups) -> figures; empty where ours stands alone.
        kept: what the table says was kept, in its own words.
        note: what does not match, or is not known.
    """

    name: str
    config: ConfigOfDepth | None
    published: Mapping[str, Figure] = field(default_factory=dict)
    kept: str = ""
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """How a table was made, as far as it is known; of several candidates each is one.

    Args:
        name: of the folder, and of ``--setting``.
        frames, pixels, prompt: in words, for people.
        asked: the data sets.
        rows: the baseline first.
        unknown: what the source does not say, or where sources contradict each other.
    """

    name: str
    frames: str
    pixels: str
    prompt: str
    asked: tuple[Asked, ...]
    rows: tuple[Row, ...]
    unknown: tuple[str, ...] = ()

    def of(self, name: str) -> Asked:
        """Return the data set of a name."""
        return next(each for each in self.asked if each.name == name)


@dataclass(frozen=True)
class Timed:
    """Times, memory and FLOPs over images, instead of scores.

    Args:
        name: of the folder, and of ``--setting``.
        frames, pixels, prompt: in words.
        asked: the images.
        rows: who is measured; a config of None is the stock model without any hook.
        published: lines of others' figures.
        unknown: as in `Setting`.
        new_tokens: of every answer.
        images: how many, equally spaced.
    """

    name: str
    frames: str
    pixels: str
    prompt: str
    asked: tuple[Asked, ...]
    rows: tuple[Row, ...]
    published: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    new_tokens: int = 64
    images: int = 100


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Args:
        name: of the script and of its default folder.
        paper: authors' title, place and number.
        table: which table, and what it is about.
        source: how the figures came here, and how sure that is.
        settings: candidates for how it was made.
        model: hub id.
        glimpse: hub id of the predictor, where rows need one.
    """

    name: str
    paper: str
    table: str
    source: str
    settings: tuple[Setting | Timed, ...]
    model: str = MODEL
    glimpse: str | None = None

    def settings_called(self, names: tuple[str, ...]) -> tuple[Setting | Timed, ...]:
        """Return settings by name; all for no names.

        Raises:
            ConfigError: there is none of that name; the nearest is offered.
        """
        known = {setting.name: setting for setting in self.settings}
        for name in names:
            if name not in known:
                raise ConfigError(unknown(f"the settings of {self.name} are", name, tuple(known)))
        return tuple(setting for setting in self.settings if not names or setting.name in names)


BASELINE_ROW = "baseline"


def unpruned(figures: Mapping[str, float], note: str = "") -> Row:
    """Return the unpruned row of a table.

    Args:
        figures: name of a data set or group -> score in per cent.
        note: as in `Row`.
    """
    return Row(BASELINE_ROW, baseline, {name: Figure(each, each) for name, each in figures.items()}, "100 %", note)


def figures(scores: Mapping[str, float], base: Mapping[str, float]) -> dict[str, Figure]:
    """Pair the scores of a row with those of the unpruned row."""
    return {name: Figure(score, base[name]) for name, score in scores.items()}


def baseline(_depth: Depth) -> PruneVidConfig:
    """Return the model without pruning."""
    return get_baseline_config()
