"""How our defaults are chosen, as data: for each option the values that are tried, all other options as in a base.

Every value is fitted to the same budgets as its base, by the same levers, so what differs in cost is not compared. Two
bases: the paper's defaults and `get_recommended_2026_11_config`. A value that is the base's own is listed and not run
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prunevid_qwen.config.method_base import resolve_layer
from prunevid_qwen.config.presets import get_recommended_2026_11_config
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, Method, changes
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.moving_shapes.conditions import CONDITIONS

CHOICES_SEED = FIRST_HELD_OUT_SEED + 6_000_000
"""Where the videos begin: away from training, the bundled model's accuracy, the benchmark and its calibration."""

CHOICES_BUDGETS = (0.16, 0.10)
CHOICES_VIDEOS = 88
QUICK_VIDEOS = 8
CALIBRATION = 16  # videos of each kind; a value and its base share what these get wrong

PAPER, RECOMMENDED = "paper", "recommended"
_KEEP = ("keep_ratio",)


@dataclass(frozen=True)
class Tried:
    """An option and the values that are tried for it.

    Args:
        option: its name in `PruneVidConfig`.
        values: in the order of the table; the base's own may be among them.
        also: options set together with every value but the base's.
        levers: what is moved to reach a budget, for every value; None is as for the base.
    """

    option: str
    values: tuple[Any, ...]
    also: Mapping[str, Any] = field(default_factory=dict)
    levers: tuple[str, ...] | None = None


TRIED: dict[str, tuple[Tried, ...]] = {
    PAPER: (
        Tried("merged_position", ("center", "mean", "first")),
        Tried("token_order", ("spatiotemporal", "grouped")),
        Tried("attention_source", ("post_rope", "pre_rope")),
        Tried("selection_scope", ("global", "per_group")),
        Tried("attention_aggregation", ("max", "mean")),
        Tried("question_tokens", ("all", "question", "last")),
        Tried("pruning_layer", (0, 1, 2, 3, 4)),
        Tried("tau", (0.6, 0.7, 0.8, 0.9, 0.95)),
        # how equal cost is split between merging and selection: clusters stay at this share, selection does the rest
        Tried("cluster_ratio", (0.3, 0.5, 0.75, 1.0), levers=_KEEP),
        Tried("cluster_scope", ("per_group", "video")),
        Tried("temporal_segment_ratio", (0.125, 0.25, 0.5, 1.0)),
        Tried("dpc_knn_k", (3, 5, 7, 9)),
        Tried("min_cluster_tokens", (1, 14)),
        Tried("selector", ("prunevid", "dpp", "fastv", "uniform", "random")),
        Tried("position_scheme", ("reference", "hf")),
    ),
    RECOMMENDED: (
        # PruneVid's own merging without its clusters, which keep_ratio alone cannot make up for
        Tried("merger", ("rlt", "prunevid"), also={"cluster_ratio": 1.0}),
        Tried("selector", ("dpp", "prunevid", "random")),
        Tried("pruning_layer", (0, 1, 2)),
        Tried("temporal_segment_ratio", (0.125, 0.25, 0.5)),
        Tried("tau", (0.7, 0.8, 0.9)),
        Tried("question_tokens", ("all", "question", "last")),
        Tried("attention_aggregation", ("max", "mean")),
    ),
}
"""What is tried on each base."""


@dataclass(frozen=True)
class Variant:
    """A base with one option at one of the values tried.

    Args:
        base: "paper" or "recommended".
        option: the option.
        value: what it is set to.
        method: how it is run; the base's own where ``is_base``.
        is_base: whether this value is the base's.
    """

    base: str
    option: str
    value: Any
    method: Method
    is_base: bool


def base_methods() -> dict[str, Method]:
    """Return the bases by name, as methods of the accuracy benchmark (which sets ``min_cluster_tokens=1``)."""
    recommended = changes(get_recommended_2026_11_config())  # of the time when the values were tried
    return {PAPER: Method(PAPER), RECOMMENDED: Method(RECOMMENDED, recommended, levers=_KEEP)}


def list_variants(layers: int) -> list[Variant]:
    """List every value tried, those of the bases among them, in the order of ``TRIED``.

    Args:
        layers: decoder layers of the model: which index of ``pruning_layer`` is the base's depends on it.
    """
    bases = base_methods()
    return [
        _variant(bases[name], tried, value, layers)
        for name, all_tried in TRIED.items()
        for tried in all_tried
        for value in tried.values
    ]


def methods_to_run(variants: Sequence[Variant]) -> tuple[Method, ...]:
    """Return the bases and what differs from them, each once."""
    return (*base_methods().values(), *(variant.method for variant in variants if not variant.is_base))


def choices_run(
    layers: int,
    videos: int = CHOICES_VIDEOS,
    first_seed: int = CHOICES_SEED,
    model: str = "bundled",
    quick: bool = False,
) -> AccuracyRun:
    """Return the run that asks about every variant.

    Args:
        layers: decoder layers of the model.
        videos: how many, conditions taking turns.
        first_seed: the first video's.
        model: "bundled" or the folder of an exported model.
        quick: calibrate on fewer videos and draw what is random once.
    """
    methods = methods_to_run(list_variants(layers))
    run = AccuracyRun(
        methods,
        CHOICES_BUDGETS,
        videos=videos,
        first_seed=first_seed,
        model=model,
        calibration_videos=CALIBRATION,
    )
    return replace(run, calibration_videos=4, random_seeds=1) if quick else run


def _variant(base: Method, tried: Tried, value: Any, layers: int) -> Variant:
    config = base.base_config(next(iter(CONDITIONS.values())))  # the conditions differ in frames and pixels alone
    now = config.flat()[tried.option]
    if tried.option == "pruning_layer":
        now = resolve_layer(now, layers)
    levers = base.levers if tried.levers is None else tried.levers
    if value == now and levers == base.levers:
        return Variant(base.name, tried.option, value, base, True)
    also = dict(tried.also) if value != now else {}
    if tried.option == "selector":  # at the base's layer and budget, whatever their papers say
        also |= {"pruning_layer": config.pruning_layer, "keep_ratio": config.keep_ratio}
    name = f"{base.name}, {tried.option} {value}"
    method = Method(name, {**base.options, **also, tried.option: value}, levers)
    return Variant(base.name, tried.option, value, method, False)
