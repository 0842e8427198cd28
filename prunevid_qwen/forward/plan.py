"""Plan: which reducers act on one model, where, and what happens to the cache; a config is compiled to one."""

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
from prunevid_qwen.reducer import (
    ChecksPlaces,
    Needs,
    Reducer,
    is_reducer,
    made_by,
    merges,
    needs_of,
    reducer_class,
    registered_as,
)
from prunevid_qwen.tokens.trace import DOOR

_VISION_CHUNK_TOKENS = PruneVidConfig().vision_chunk_tokens
_NOTHING = Needs()


@dataclass(frozen=True)
class Step:
    """One reduction.

    Args:
        at: the layer on whose output it acts, counted from 0; `DOOR` (-1) is the decoder's door, before layer 0.
        by: decides what is left; inside the decoder one that does not declare ``merges = True`` may only drop.
        name: of its method, for receipts; its class's where it is left out.
        options: that ``by`` was made from, for receipts, which read budgets there; None: ``by`` itself is read.

    Raises:
        ConfigError: ``at`` is no whole number, or ``by`` is no reducer.
    """

    at: int
    by: Reducer
    name: str = ""
    options: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not is_reducer(self.by):
            raise ConfigError(f"a step is by a reducer, which has `needs` and `plan(seen)`; got {_no_reducer(self.by)}")
        if not isinstance(self.at, int) or isinstance(self.at, bool):
            raise ConfigError(
                f"a step's `at` is the layer on whose output it acts, from 0, or {DOOR} for the decoder's door; "
                f"got {quoted(self.at)}"
            )
        check_budgets(self.by)
        if not self.name:
            object.__setattr__(self, "name", type(self.by).__name__)


def _no_reducer(by: Any) -> str:
    """Name what was given instead of a reducer, and what to pass if it is a method's class or options."""
    if isinstance(by, type) and hasattr(by, "plan"):
        return f"the class {by.__name__}: make one of it"
    known = registered_as(by if isinstance(by, type) else type(by))
    if known is None:
        return f"the class {by.__name__}" if isinstance(by, type) else f"a {type(by).__name__}"
    method = reducer_class(known[1], known[0]).__name__
    options = by.__name__ if isinstance(by, type) else type(by).__name__
    return f"{options}, the options of {known[1]!r}: pass its reducer, {method}(...)"


@dataclass(frozen=True)
class Plan:
    """What is done to one model.

    Args:
        steps: the reductions, in the order in which they act; at most one at a place.
        compress: stage 3, cut the cache of the layers before each step to what it kept. Where a step merges between two
            layers that cannot be: the layers before it hold no row that stands for a group.
        position_scheme: "reference" or "hf".
        vision_chunk_tokens: visual tokens that the vision encoder takes at once, None for no limit.
        places: "kept": every token keeps its position, a merged one that of its group's `rep`. "packed": after each
            step positions are counted anew without gaps, and while decoding from there on; for families whose
            positions count tokens, not for those whose positions tell time, height and width.

    Raises:
        ConfigError: a field is out of its range, or ``steps`` are no steps.
    """

    steps: tuple[Step, ...] = ()
    compress: bool = True
    position_scheme: str = "reference"
    vision_chunk_tokens: int | None = _VISION_CHUNK_TOKENS
    places: str = "kept"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, (tuple, list)):
            raise ConfigError(f"a plan's steps are a tuple of Step, got {quoted(self.steps)}: put it into a tuple")
        object.__setattr__(self, "steps", tuple(self.steps))
        for step in self.steps:
            if not isinstance(step, Step):
                raise ConfigError(
                    f"a plan's steps are Steps, got {quoted(step)}: say where it acts, Step(at=2, by=...), or pass a "
                    "list of methods instead of a plan"
                )
        if not isinstance(self.compress, bool):
            raise ConfigError(f"compress is True or False, got {quoted(self.compress)}")
        if self.position_scheme not in SCHEMES:
            raise ConfigError(unknown("position_scheme is one of", self.position_scheme, SCHEMES))
        if self.vision_chunk_tokens is not None:
            check_count("vision_chunk_tokens", self.vision_chunk_tokens, 1)
        if self.places not in ("kept", "packed"):
            raise ConfigError(f"places is 'kept' or 'packed', got {quoted(self.places)}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Return itself: nothing in it changes, and a copied cache is still of this plan."""
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
        """Evidence from outside the layers that the plan's steps ask for: probe, vision and marks."""
        return self.needs_after(DOOR - 1)

    def needs_after(self, at: int) -> Needs:
        """Say what is gathered from outside the layers for the steps after a place: probe, vision and marks."""
        later = [step.by.needs for step in self.steps if step.at > at]
        if not later:
            return _NOTHING
        probe, seen = (next(filter(None, (getattr(one, name) for one in later)), None) for name in ("probe", "vision"))
        return Needs(probe=probe, vision=seen, marks=any(each.marks for each in later))

    def places_of(self, by: Reducer) -> tuple[int, ...]:
        """Say where the steps of one reducer stand, in order."""
        return tuple(each.at for each in self.steps if each.by is by)

    def number_of(self, step: Step) -> int:
        """Say which of its reducer's steps in this plan a step is, from 0."""
        return self.places_of(step.by).index(step.at)


def _check(plan: Plan, layers: int) -> None:
    """Refuse a step at no place of the model, out of order, where its evidence is not to be had, or that cannot merge.

    Raises:
        ConfigError: so it is.
    """
    for step in plan.steps:
        if not DOOR <= step.at < layers:
            raise ConfigError(
                f"step {step.name!r} acts after layer {step.at}, and this model has layers 0 to {layers - 1}: give one "
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
                f"steps act in order, one at a place; {other.name!r} at {other.at} comes after {one.name!r} at {one.at}"
            )
    _check_outside(plan)
    for step in plan.steps:
        if plan.number_of(step) == 0 and isinstance(step.by, ChecksPlaces):
            step.by.check_places(plan.places_of(step.by), layers)
    merging = [repr(step.name) for step in plan.cuts if merges(step.by)]
    if plan.compress and merging:
        raise ConfigError(
            f"{' and '.join(merging)} may merge tokens between two layers, and the caches of the layers before it hold "
            "no row that stands for several: leave these caches whole (compress=False, enable_cache_compression=False)"
        )


def _check_attention(step: Step, layers: int) -> None:
    query = step.by.needs.attention
    if query is None:
        return
    if query.projections == "own" and step.at == DOOR:
        raise ConfigError(
            f"{step.name!r} asks for the attention of the layer that has run, and none has at the decoder's door: ask "
            'with projections="next" for that of layer 0 on the embeddings, or let it act after a layer'
        )
    if query.projections == "next" and step.at + 1 == layers:
        raise ConfigError(
            f"{step.name!r} asks for the attention of the layer after layer {step.at}, and that is the last one: let "
            f"it act after layer {layers - 2} at the latest"
        )


def _check_outside(plan: Plan) -> None:
    """A probe is sent for one step and looks before anything is cut; the vision tower is looked into in one way."""
    queries = {step.by.needs.vision: repr(step.name) for step in plan.steps if step.by.needs.vision is not None}
    if len(queries) > 1:
        raise ConfigError(
            f"{' and '.join(queries.values())} ask for different things of the vision tower, which is looked into in "
            "one way a plan: let them ask for the same, or leave one out"
        )
    asking = [step for step in plan.steps if step.by.needs.probe is not None]
    if not asking:
        return
    if len(asking) > 1:
        raise ConfigError(
            f"{' and '.join(repr(step.name) for step in asking)} send a probe along, which is done for one step of a "
            "plan: leave the others out"
        )
    (step,) = asking
    if step.at == DOOR:
        raise ConfigError(
            f"the probe of {step.name!r} goes through layers, and none has run at the decoder's door: let it act after "
            "a layer"
        )
    last = step.by.needs.probe.layers[-1]  # type: ignore[union-attr]
    if last > plan.cuts[0].at:
        raise ConfigError(
            f"the probe of {step.name!r} looks at the whole prompt until layer {last}, and {plan.cuts[0].name!r} cuts "
            f"it after layer {plan.cuts[0].at}: let no step act before the probe has looked"
        )


def compile_plan(what: PruneVidConfig | Plan, layers: int) -> Plan:
    """Compile ``what`` for a decoder of ``layers`` layers; a plan stays as it is.

    A config becomes at most one step at the door and, for each layer of its selector, one between the layers: the same
    reducer stands in all of these.

    Raises:
        ConfigError: ``pruning_layer`` is beyond the model or not where the selector was trained to act, ``merger`` or
            ``selector`` is unknown, or the plan cannot be carried out.
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
    return Plan(tuple(steps), config.compress_cache, config.position_scheme, config.vision_chunk_tokens)


def _places(config: PruneVidConfig, selector: Reducer, layers: int) -> tuple[int, ...]:
    """Say after which layers a config's selector acts; a float is a share of the depth."""
    own = config.selector
    before = own.layers_for(layers) if hasattr(own, "layers_for") else getattr(own, "layers", None)
    before = before if isinstance(before, (tuple, list, NoneType)) else (before,)
    if before is not None and len(before) > 1 and not getattr(selector, "several", False):
        raise ConfigError(
            f"selector {config.selector_name!r} acts before one layer, got layers={tuple(before)}: a method that acts "
            "several times says `several = True`"
        )
    trained = needs_of(selector).layers
    if trained is None or (before is not None and len(before) > 1):
        asked = (None,) if before is None else before
        return tuple(layer_after(each, layers) for each in asked)
    at = trained[0] - 1
    if at >= layers:
        raise ConfigError(
            f"selector {config.selector_name!r} acts after layer {at}, where it was trained, but this model has "
            f"{layers} layers: it was made for another model"
        )
    if before is not None and layer_after(before[0], layers) != at:
        raise ConfigError(
            f"selector {config.selector_name!r} was trained to act after layer {at} and cannot act after "
            f"pruning_layer={config.pruning_layer} (layers={getattr(own, 'layers', None)}): leave these unset"
        )
    return (at,)
