"""Plan: the reducers of one model, their layers, and the handling of the cache. A config is compiled to a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import NoneType
from typing import Any

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.flat import SCHEMES
from prunevid_qwen.config.method_base import check_budgets, layer_after
from prunevid_qwen.config.option_checks import check_count, unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.forward.no_reducer import no_reducer
from prunevid_qwen.reducer import ChecksPlaces, Needs, Reducer, is_reducer, made_by, merges, needs_of
from prunevid_qwen.tokens.trace import DOOR
from prunevid_qwen.vision.options import VisionOptions, vision_options

_VISION_CHUNK_TOKENS = PruneVidConfig().vision_chunk_tokens
_NOTHING = Needs()


@dataclass(frozen=True)
class Step:
    """One reduction of the visual tokens.

    Args:
        at: the layer on whose output the step acts, counted from 0. -1 is the decoder's door, before layer 0.
        by: the reducer that decides which tokens are left. Inside the decoder it may only drop tokens, unless its class
            has ``merges = True``.
        name: name of the method in receipts. By default the reducer's class name.
        options: options of the method. Receipts read the budget from them. None: they read it from ``by``.

    Raises:
        ConfigError: ``at`` is no whole number, or ``by`` is no reducer.
    """

    at: int
    by: Reducer
    name: str = ""
    options: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not is_reducer(self.by):
            raise ConfigError(f"a step's `by` is a reducer with `needs` and `plan(seen)`; got {no_reducer(self.by)}")
        if not isinstance(self.at, int) or isinstance(self.at, bool):
            raise ConfigError(
                f"a step's `at` is the layer on whose output it acts, from 0, or {DOOR} for the decoder's door; "
                f"got {quoted(self.at)}"
            )
        check_budgets(self.by)
        if not self.name:
            object.__setattr__(self, "name", type(self.by).__name__)


@dataclass(frozen=True)
class Plan:
    """The pruning of one model, step by step.

    Args:
        steps: the reductions in the order of their layers, at most one after each layer.
        compress: stage 3, cut the caches of the layers before each step to the kept tokens. Use False if a step merges
            between two layers, because the caches before it hold no merged tokens.
        position_scheme: "reference" gives the M-RoPE positions that Qwen2.5-VL was trained with. "hf" leaves those of
            the installed transformers.
        vision_chunk_tokens: visual tokens that the vision encoder takes at once. None means no limit.
        places: "kept" leaves each token its position; a merged token has that of its group's `TokenMap.rep`. "packed"
            renumbers the positions without gaps after each step, for families with one-dimensional positions (LLaVA).
        drop_empty_frames: a frame of a video that loses all its tokens loses its timestamp and brackets too, for
            families that write them (Qwen3-VL).
        vision: copies in the vision encoder, a `prunevid_qwen.vision.options.VisionOptions`.

    Raises:
        ConfigError: a field is out of its range, or an entry of ``steps`` is no `Step`.
    """

    steps: tuple[Step, ...] = ()
    compress: bool = True
    position_scheme: str = "reference"
    vision_chunk_tokens: int | None = _VISION_CHUNK_TOKENS
    places: str = "kept"
    drop_empty_frames: bool = False
    vision: VisionOptions = field(default_factory=VisionOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, (tuple, list)):
            raise ConfigError(f"a plan's steps are a tuple of Step, got {quoted(self.steps)}: put it into a tuple")
        object.__setattr__(self, "steps", tuple(self.steps))
        for step in self.steps:
            if not isinstance(step, Step):
                raise ConfigError(
                    f"a plan's steps are Step objects, got {quoted(step)}: pass Step(at=2, by=...), or a list of "
                    "methods instead of a plan"
                )
        for name in ("compress", "drop_empty_frames"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, got {quoted(getattr(self, name))}")
        if self.position_scheme not in SCHEMES:
            raise ConfigError(unknown("position_scheme is one of", self.position_scheme, SCHEMES))
        if self.vision_chunk_tokens is not None:
            check_count("vision_chunk_tokens", self.vision_chunk_tokens, 1)
        if not isinstance(self.vision, VisionOptions):
            raise ConfigError(f"a plan's vision is VisionOptions(...), got {quoted(self.vision)}")
        if self.places not in ("kept", "packed"):
            raise ConfigError(f"places is 'kept' or 'packed', got {quoted(self.places)}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Return this plan itself: it cannot change, and the copy of a cache still belongs to it."""
        return self

    @property
    def door(self) -> Step | None:
        """Stage 1: the step before the first layer."""
        return next((step for step in self.steps if step.at == DOOR), None)

    @property
    def cuts(self) -> tuple[Step, ...]:
        """Stage 2: the steps between the layers."""
        return tuple(step for step in self.steps if step.at > DOOR)

    @property
    def needs(self) -> Needs:
        """The evidence that the steps need from outside the layers: probe, vision and marks."""
        return self.needs_after(DOOR - 1)

    def needs_after(self, at: int) -> Needs:
        """Return the evidence from outside the layers for the steps after layer ``at``: probe, vision and marks."""
        later = [step.by.needs for step in self.steps if step.at > at]
        if not later:
            return _NOTHING
        probe, seen = (next(filter(None, (getattr(one, name) for one in later)), None) for name in ("probe", "vision"))
        return Needs(probe=probe, vision=seen, marks=any(each.marks for each in later))

    def places_of(self, by: Reducer) -> tuple[int, ...]:
        """Return the layers (`Step.at`) of one reducer's steps, in order."""
        return tuple(each.at for each in self.steps if each.by is by)

    def number_of(self, step: Step) -> int:
        """Return the number of a step among its reducer's steps, from 0."""
        return self.places_of(step.by).index(step.at)


def _check(plan: Plan, layers: int) -> None:
    """Check the steps against a decoder of ``layers`` layers.

    Raises:
        ConfigError: the model lacks a step's layer, the steps are out of order, a step's evidence does not exist at its
            layer, or a step merges before caches that are to be cut.
    """
    for step in plan.steps:
        if not DOOR <= step.at < layers:
            raise ConfigError(
                f"step {step.name!r} acts after layer {step.at}, but this model has layers 0 to {layers - 1}: give one "
                f"of these, or {DOOR} for the decoder's door"
            )
        own = needs_of(step.by).layers
        if own is not None and step.at + 1 not in own:
            raise ConfigError(
                f"{step.name!r} was trained to act before layer {' or '.join(map(str, own))} and cannot act before "
                f"layer {step.at + 1}: give {'that layer' if len(own) == 1 else 'one of these'}"
            )
        _check_attention(step, layers)
    for one, other in pairwise(plan.steps):
        if one.at >= other.at:
            raise ConfigError(
                f"steps must be in the order of their layers, one for each layer, but {other.name!r} at {other.at} "
                f"comes after {one.name!r} at {one.at}"
            )
    _check_outside(plan)
    for step in plan.steps:
        if plan.number_of(step) == 0 and isinstance(step.by, ChecksPlaces):
            step.by.check_places(plan.places_of(step.by), layers)
    merging = [repr(step.name) for step in plan.cuts if merges(step.by)]
    if plan.compress and merging:
        raise ConfigError(
            f"{' and '.join(merging)} may merge tokens between two layers, but the caches of the layers before hold no "
            "merged tokens: leave these caches whole (compress=False, enable_cache_compression=False)"
        )


def _check_attention(step: Step, layers: int) -> None:
    query = step.by.needs.attention
    if query is None:
        return
    if query.projections == "own" and step.at == DOOR:
        raise ConfigError(
            f"{step.name!r} needs the attention of the layer before it, but no layer runs before the decoder's door: "
            'use projections="next" for the attention of layer 0, or let the step act after a layer'
        )
    if query.projections == "next" and step.at + 1 == layers:
        raise ConfigError(
            f"{step.name!r} needs the attention of the layer after layer {step.at}, which is the last layer: let it "
            f"act after layer {layers - 2} or before"
        )


def _check_outside(plan: Plan) -> None:
    """Check for at most one probe, before the first cut, and for a single query of the vision tower."""
    queries = {step.by.needs.vision: repr(step.name) for step in plan.steps if step.by.needs.vision is not None}
    if len(queries) > 1:
        raise ConfigError(
            f"{' and '.join(queries.values())} have different queries of the vision tower, but a plan can have one: "
            "give both the same VisionQuery, or leave one out"
        )
    asking = [step for step in plan.steps if step.by.needs.probe is not None]
    if not asking:
        return
    if len(asking) > 1:
        raise ConfigError(
            f"{' and '.join(repr(step.name) for step in asking)} each need a probe, but a plan can have one: leave the "
            "others out"
        )
    (step,) = asking
    if step.at == DOOR:
        raise ConfigError(
            f"the probe of {step.name!r} runs through layers, but no layer runs before the decoder's door: let the "
            "step act after a layer"
        )
    last = step.by.needs.probe.layers[-1]  # type: ignore[union-attr]
    if last > plan.cuts[0].at:
        raise ConfigError(
            f"the probe of {step.name!r} needs the whole prompt until layer {last}, but {plan.cuts[0].name!r} cuts it "
            f"after layer {plan.cuts[0].at}: move that step after layer {last}"
        )


def compile_plan(what: PruneVidConfig | Plan, layers: int) -> Plan:
    """Compile a config for a decoder of ``layers`` layers; a plan is checked and returned.

    A config becomes at most one step at the decoder's door, and one step for each layer of its selector. These share
    one reducer.

    Raises:
        ConfigError: the model lacks the layer ``pruning_layer``, the selector was trained for another layer, ``merger``
            or ``selector`` is unknown, or the steps do not fit the model.
    """
    plan = what if isinstance(what, Plan) else _of_config(what, layers)
    _check(plan, layers)
    return plan


def _of_config(config: PruneVidConfig, layers: int) -> Plan:
    steps = []
    if config.merger is not None:
        steps.append(Step(DOOR, made_by(config.merger, 1, config), config.merger_name or "", config.merger))
    if config.selector is not None:
        selector = made_by(config.selector, config=config)
        name, own = config.selector_name or "", config.selector
        steps += [Step(at, selector, name, own) for at in _places(config, selector, layers)]
    return Plan(
        tuple(steps), config.compress_cache, config.position_scheme, config.vision_chunk_tokens,
        drop_empty_frames=config.reading.drop_empty_frames, vision=vision_options(config.reading),
    )  # fmt: skip


def _places(config: PruneVidConfig, selector: Reducer, layers: int) -> tuple[int, ...]:
    """Return the layers after which a config's selector acts."""
    own = config.selector
    before = own.layers_for(layers) if hasattr(own, "layers_for") else getattr(own, "layers", None)
    before = before if isinstance(before, (tuple, list, NoneType)) else (before,)
    if before is not None and len(before) > 1 and not getattr(selector, "several", False):
        raise ConfigError(
            f"selector {config.selector_name!r} acts once, got layers={tuple(before)}: give one layer. A method of "
            "your own that acts several times needs `several = True` in its class"
        )
    trained = needs_of(selector).layers
    if trained is None or (before is not None and len(before) > 1):
        asked = (None,) if before is None else before
        return tuple(layer_after(each, layers) for each in asked)
    at = trained[0] - 1
    if at >= layers:
        raise ConfigError(
            f"selector {config.selector_name!r} was trained to act after layer {at}, but this model has {layers} "
            "layers: use a predictor that was trained for this model"
        )
    if before is not None and layer_after(before[0], layers) != at:
        raise ConfigError(
            f"selector {config.selector_name!r} was trained to act after layer {at} and cannot act after "
            f"pruning_layer={config.pruning_layer} (layers={getattr(own, 'layers', None)}): leave these unset"
        )
    return (at,)
