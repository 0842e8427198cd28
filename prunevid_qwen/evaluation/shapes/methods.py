"""What the benchmark compares: every registered method, alone and together, and plain controls; and a run of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen.adapters import family_of
from prunevid_qwen.adapters.folder_json import read_json
from prunevid_qwen.bundled import BUNDLED, TOYS, source_of
from prunevid_qwen.config import ALL_OFF, PruneVidConfig, get_config, get_recommended_config
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.config.option_classes import names_in, options_class
from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_SEED, CALIBRATION_VIDEOS, FIRST_SEED, ShapesVideo
from prunevid_qwen.evaluation.store import plugin_options
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.moving_shapes.conditions import BY_NAME, CONDITIONS, Condition
from prunevid_qwen.reducer import registered, says

UNPRUNED = "unpruned"
BLANK = "blank"
"""The unpruned model shown a grey video."""

JUDGED = ("prunevid", "recommended")
"""Curves that are compared with every other one at their budget, question by question."""

CONTROLS = ("random", "uniform", "pool", "fewer frames", "smaller frames")
"""Curves that need no method at all: a method that ties with one of these at equal cost is not worth its code."""

BUDGETS: tuple[float, ...] = (0.50, 0.33, 0.25, 0.20, 0.16, 0.10, 0.05)
"""Layer-averaged shares of the visual tokens."""

LEAST_KEEP_RATIO = 0.2
"""Where both stages act, selection goes down to this share before merging goes below its starting ratio."""

_BEFORE = "recommended_2026_11"
_STEPS = 200  # ratios are tried in steps of 0.005, so that a fitted config reads like one that a person wrote
_DEPTH = 28  # a decoder in which every method has room for the layers of its paper
_ONE_LAYER = 0.36  # of the depth: where a selector without a layer of its own cuts, after 10 of 28 layers and 2 of 8
_SELECT_FIRST = {"cluster_ratio": 1.0}  # merges what looks alike over time alone, until selection is not enough


@dataclass(frozen=True)
class Method:
    """One curve of the plot.

    Args:
        name: as in tables and plots.
        options: `PruneVidConfig` options that differ from `base_config`.
        levers: options that are moved to reach a budget: a share, "max_frames", "max_pixels", or both ratios; None
            takes those of the enabled stages. () asks once, with no budget.

    Raises:
        ConfigError: an option that no config has.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    levers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        PruneVidConfig().replace(**self.options)

    def base_config(self, condition: Condition) -> PruneVidConfig:
        """Return the config before any lever is moved.

        ``min_cluster_tokens`` is 1: the authors' 14 is meant for frames of 140 to 196 tokens, these have 16 or 36.
        """
        config = PruneVidConfig(max_frames=condition.frames, max_pixels=condition.height * condition.width)
        config = config.replace(**self.options)
        groups = config.has("min_cluster_tokens") and "min_cluster_tokens" not in self.options
        return config.replace(min_cluster_tokens=1) if groups else config

    def settings(
        self, condition: Condition, fits: Callable[[PruneVidConfig], bool] = lambda _: True, token: int = 28
    ) -> list[dict[str, Any]]:
        """List the positions of the levers, from the lightest pruning to the hardest.

        With both ratios: merging from 1 to the config's ``cluster_ratio``, selection from 1 down to
        ``LEAST_KEEP_RATIO``, then merging down to 0.005.

        Args:
            condition: the kind of video.
            fits: whether a model has room for a config; a method that cuts late has not for every share.
            token: pixels of a visual token's side.
        """
        config, levers = self.base_config(condition), self.levers
        if levers is None:
            own = (says(config.selector, 2).lever, says(config.merger, 1).lever)
            levers = tuple(dict.fromkeys(lever for lever in own if lever is not None))

        def least(lever: str, start: int) -> int:
            steps = range(start, _STEPS)
            return next((k for k in steps if fits(config.replace(**{lever: k / _STEPS}))), _STEPS)

        if not levers:
            return [{}]
        if set(levers) == {"keep_ratio", "cluster_ratio"}:
            start, end = round(_STEPS * config.cluster_ratio), least("keep_ratio", round(_STEPS * LEAST_KEEP_RATIO))
            pairs = [(_STEPS, c) for c in range(_STEPS, start, -1)]
            pairs += [(k, start) for k in range(_STEPS, end, -1)] + [(end, c) for c in range(start, 0, -1)]
            return [{"keep_ratio": k / _STEPS, "cluster_ratio": c / _STEPS} for k, c in pairs]
        if len(levers) > 1:
            raise ConfigError(f"method {quoted(self.name)}: {' and '.join(levers)} cannot be moved together")
        if levers[0] == "max_frames":
            return [{"max_frames": count} for count in range(condition.frames, 0, -2)]
        if levers[0] == "max_pixels":
            whole = condition.height // token * token
            return [{"max_pixels": side * side} for side in range(whole, 0, -token)]
        return [{levers[0]: share / _STEPS} for share in range(_STEPS, least(levers[0], 1) - 1, -1)]


def changes(config: PruneVidConfig) -> dict[str, Any]:
    """Return the options that differ from `PruneVidConfig`'s defaults."""
    defaults = PruneVidConfig().flat()
    return {name: value for name, value in config.flat().items() if name not in defaults or value != defaults[name]}


def uses_chance(config: PruneVidConfig) -> bool:
    """Tell whether ``random_seed`` changes what this config keeps."""
    return says(config.merger, 1).chance or says(config.selector, 2).chance


def _at_one_layer(own: Any) -> dict[str, Any]:
    """Return the option that lets a selector cut where all others do; one that cuts more often keeps its own cuts."""
    if "layers" not in names_in(type(own)):
        return {}
    layers = replace(own, layers=None).layers_for(_DEPTH) if hasattr(own, "layers_for") else None
    return {"pruning_layer": _ONE_LAYER if layers is not None and len(layers) == 1 else None}


def standard_methods() -> list[Method]:
    """List the curves that are compared by default; a registered method appears by itself."""
    paper, alone = PruneVidConfig(), {"enable_stage1": False}
    merges = {"enable_stage2": False, "enable_cache_compression": False}
    others, published = {}, {}
    for name in registered(2):
        options = options_class("selector", name)
        said = says(options(), 2)
        if name != paper.selector_name and not said.told:
            # all cut once at one layer, whatever their papers say: what is compared is the choice of tokens
            at_one = _at_one_layer(options())
            others[name] = {"selector": name, **at_one, **said.lever_needs}
            if getattr(options(), "layers", None) is not None or at_one.get("pruning_layer") is not None:
                published[name] = {"selector": name, **said.lever_needs}
    mergers = {}
    for name in registered(1):
        if name != paper.merger_name:
            mergers[name] = {"merger": name, **says(options_class("merger", name)(), 1).lever_needs}
    papers = {(row["stage"], row["name"]) for row in method_rows() if row["paper"]}
    pairs = [name for name in mergers if {(1, name), (2, name)} <= papers]
    return [
        Method(UNPRUNED, ALL_OFF, levers=()),
        Method(BLANK, ALL_OFF, levers=()),
        Method("prunevid", _SELECT_FIRST),
        Method("prunevid published"),
        Method("stage 1", merges),
        Method("stage 2", alone),
        *(Method(f"stage 2 {name}", {**alone, **options}) for name, options in others.items()),
        *(Method(f"stage 1 + {name}", {**_SELECT_FIRST, **options}) for name, options in others.items()),
        *(Method(f"{name} published", {**alone, **options}) for name, options in published.items()),
        *(Method(name, {**merges, **options}) for name, options in mergers.items()),
        *(Method(f"{name} pair", {**mergers[name], "selector": name}) for name in pairs),
        Method("fewer frames", ALL_OFF, levers=("max_frames",)),
        Method("smaller frames", ALL_OFF, levers=("max_pixels",)),
        # what the door and the cut do to each other is part of the recommendation
        Method("recommended", changes(get_recommended_config()), levers=("cluster_ratio",)),
        Method(_BEFORE, changes(get_config(_BEFORE)), levers=("keep_ratio",)),
    ]


def methods_called(names: list[str]) -> list[Method]:
    """Return the standard methods of these names, in the standard order; all for no names.

    Raises:
        ConfigError: an unknown name.
    """
    known = {method.name: method for method in standard_methods()}
    if wrong := [name for name in names if name not in known]:
        raise ConfigError(unknown("the methods are", wrong[0], known))
    return [method for name, method in known.items() if not names or name in names]


@dataclass(frozen=True)
class AccuracyRun:
    """What a run asks; methods are compared each under its own name, and the unpruned model is always asked.

    Raises:
        ConfigError: an option out of its range or given twice, two methods of one name, or an unknown condition.
    """

    methods: tuple[Method, ...]
    budgets: tuple[float, ...] = BUDGETS  # layer-averaged shares of the visual tokens, in (0, 1)
    conditions: tuple[str, ...] = ()  # names of kinds of video; () is all of CONDITIONS
    videos: int = 100  # at least 1, conditions taking turns; the one option that may grow when a run goes on
    first_seed: int = FIRST_SEED
    model: str = BUNDLED  # or another toy, or the folder of an exported model that knows moving shapes
    questions: int = 12  # about each video, at most: simple scenes hold fewer facts
    random_seeds: int = 2  # how often a method that draws by chance is asked
    by: str = "tokens"  # "time" also times every cell, and compares methods at equal time to the first token
    through_files: bool = False  # read real mp4 files instead of the drawn frames
    calibration_videos: int = CALIBRATION_VIDEOS  # of each kind, 1 to 48
    plugins: tuple[str, ...] = ()  # register methods; every process loads them, and their code is part of the run

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for given in (names, self.budgets, self.conditions):
            if twice := [each for each, count in Counter[Any](given).items() if count > 1]:
                raise ConfigError(f"{twice[0]} is given twice: its questions would be answered twice. Name it once")
        for budget in self.budgets:
            if not 0 < budget < 1:
                raise ConfigError(f"a budget is a share of the tokens in (0, 1), got {budget}")
        for name in ("videos", "questions", "random_seeds", "calibration_videos"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, got {getattr(self, name)}")
        if self.by not in ("tokens", "time"):
            raise ConfigError(f"methods are compared by tokens or by time, got by={quoted(self.by)}")
        if self.calibration_videos > CALIBRATION_VIDEOS:
            raise ConfigError(f"there are {CALIBRATION_VIDEOS} calibration videos of a kind")
        if UNPRUNED not in names:
            object.__setattr__(self, "methods", (*methods_called([UNPRUNED]), *self.methods))
        object.__setattr__(self, "conditions", self.conditions or tuple(CONDITIONS))
        if wrong := [name for name in self.conditions if name not in BY_NAME]:
            raise ConfigError(unknown("the conditions are", wrong[0], BY_NAME))
        last, fitted_on = self.first_seed + self.videos - 1, CALIBRATION_SEED + CALIBRATION_VIDEOS - 1
        if self.first_seed < FIRST_HELD_OUT_SEED or (self.first_seed <= fitted_on and last >= CALIBRATION_SEED):
            raise ConfigError(
                f"seeds {self.first_seed} to {last} meet those of training (below {FIRST_HELD_OUT_SEED}) or of the "
                f"calibration ({CALIBRATION_SEED} to {fitted_on}): choose another first_seed"
            )

    def list_videos(self) -> list[ShapesVideo]:
        """List the videos in the order of their seeds, conditions taking turns."""
        kinds = [BY_NAME[name] for name in self.conditions]
        return [ShapesVideo(kinds[k % len(kinds)], self.first_seed + k) for k in range(self.videos)]

    @property
    def family(self) -> str:
        """What people call the family of the model, such as "Qwen2.5-VL"."""
        return family_of(read_json(source_of(self.model), "config.json", {}).get("model_type"), self.model).name

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON: what two runs must share for their answers to belong together.

        Raises:
            ConfigError: there is no such model.
        """
        model = Path(source_of(self.model)) / "model.safetensors"
        if not model.is_file():
            raise ConfigError(f"no weights at {model}: the model is {', '.join(TOYS)} or the folder of an exported one")
        options = json.loads(json.dumps(asdict(self)))  # lists, as a record that is read back has them
        for method in options["methods"]:
            method["least_keep_ratio"] = LEAST_KEEP_RATIO
        del options["plugins"]
        if self.by == "tokens":  # as it was before there was a choice: an older run goes on
            del options["by"]
        sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
        return {**options, "model_sha256": sha256, **plugin_options(self.plugins)}
