"""What may be given as what to prune: a config, a plan, or a list of methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_base import checked_layers, layer_after
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.reducer import is_reducer, merges, needs_of, registered_as
from prunevid_qwen.tokens.trace import DOOR

Pruning = PruneVidConfig | Plan | Sequence[Any]
"""All that says what to prune: options, a plan, or a list of methods, see `plan_of`."""

_KINDS = "what to prune is a PruneVidConfig, a Plan, or a list of methods (their options, reducers with layers, Steps)"


def plan_of(what: Pruning, layers: int) -> Plan:
    """Compile ``what`` for a decoder of ``layers`` layers.

    A list or tuple holds methods, in any order; they act where each stands, from the decoder's door on:

    - options of a registered method (``FastVOptions(keep_ratio=0.3)``): a merger's at the door, a selector's at its
      ``layers``;
    - a reducer that has ``layers`` (before which layer, or layers, it acts; None: where it was trained to, else the
      depth's default), or whose class is registered as a merger: at the door;
    - a `Step`, which says it for any reducer.

    A list is all that is done: without a merger in it there is no stage 1, which a `PruneVidConfig` has by default.
    Such a plan has a plan's defaults, and leaves caches whole where one of its methods may merge between two layers.

    Raises:
        ConfigError: it is none of these, or cannot be carried out; see `compile_plan`.
    """
    check_kinds(what)
    if isinstance(what, (PruneVidConfig, Plan)):
        return compile_plan(what, layers)
    steps = sorted((step for each in what for step in _steps_of(each, layers)), key=lambda step: step.at)
    whole = any(merges(step.by) for step in steps if step.at > DOOR)
    return compile_plan(Plan(tuple(steps), compress=not whole), layers)


def _said(what: object) -> str:
    return f"the class {what.__name__}: make one of it" if isinstance(what, type) else f"a {type(what).__name__}"


def alike(one: Plan | None, other: Plan | None) -> bool:
    """Tell whether two plans do the same: equal options at the same places, or the same reducers."""
    if one is None or other is None:
        return one is other
    if replace(one, steps=()) != replace(other, steps=()) or len(one.steps) != len(other.steps):
        return False
    pairs = zip(one.steps, other.steps, strict=True)
    return all(a.at == b.at and (a.by is b.by or (a.options is not None and a.options == b.options)) for a, b in pairs)


def check_kinds(what: object) -> None:
    """Refuse what does not say what to prune: neither a config nor a plan nor a list of methods.

    Raises:
        ConfigError: so it is; it names what came.
    """
    if isinstance(what, (PruneVidConfig, Plan)):
        return
    if not isinstance(what, (list, tuple)):
        raise ConfigError(f"{_KINDS}; got {_said(what)}")
    for each in what:
        if not isinstance(each, Step) and not is_reducer(each) and registered_as(type(each)) is None:
            raise ConfigError(f"{_KINDS}; the list holds {_said(each)}")


def _steps_of(method: Any, layers: int) -> tuple[Step, ...]:
    """Return the steps of one method of a list."""
    if isinstance(method, Step):
        return (method,)
    stage, name = registered_as(type(method)) or (2, "")
    if is_reducer(method):
        places = (DOOR,) if stage == 1 else _places(method, layers)
        return tuple(Step(at, method, name) for at in places)
    part = "merger" if stage == 1 else "selector"
    own: dict[str, Any] = {"merger": None, "selector": None, "compress_cache": False, part: method}
    return compile_plan(PruneVidConfig(**own), layers).steps


def _places(reducer: Any, layers: int) -> tuple[int, ...]:
    trained = needs_of(reducer).layers
    if not hasattr(reducer, "layers") and trained is None:
        raise ConfigError(
            f"{_said(reducer)} does not say where it acts: give it `layers` (3: layer 3 sees what is left first), "
            "or put it into a Step(at=2, by=...)"
        )
    given = reducer.layers_for(layers) if hasattr(reducer, "layers_for") else getattr(reducer, "layers", None)
    own = checked_layers(given, most=None)
    if own is None:
        return (trained[0] - 1,) if trained else (layer_after(None, layers),)
    return tuple(layer_after(each, layers) for each in own)
