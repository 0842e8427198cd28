"""Decoders whose layers are of several kinds: a step may act only where a layer attends to tokens one by one.

A layer of linear attention (Qwen3.5) holds a state in which every token so far is mixed. It has no keys to score or to
cut, and a token that it has seen stays in its state.
"""

from __future__ import annotations

from dataclasses import replace

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.tokens.trace import DOOR


def mixed(adapter: Adapter) -> bool:
    """Tell whether some of the decoder's layers attend otherwise, so that each layer is given a mask of its own."""
    return len(adapter.attending) < len(adapter.parts.layers)


def on_attending_layers(plan: Plan, adapter: Adapter) -> Plan:
    """Move steps whose layers nobody named to the nearest layer that attends, and check all others.

    A layer is named by its number. A share of the depth, or None, names none.

    Raises:
        ConfigError: a step stands after another layer, asks for attention that does not exist, or meets another one.
    """
    if not mixed(adapter):
        return plan
    attending = adapter.attending
    steps = tuple(
        step if step.at in (DOOR, *attending) or _named(step) else replace(step, at=_nearest(step.at, attending))
        for step in plan.steps
    )
    for step in steps:
        _check(step, adapter)
    if len({step.at for step in steps}) < len(steps):
        places = [step.at for step in plan.steps]
        raise ConfigError(
            f"steps after layers {places} fall on the same layers of this {adapter.family}, whose attention is in "
            f"layers {_listed(attending)}: name as many of these"
        )
    return replace(plan, steps=steps)


def _named(step: Step) -> bool:
    layers = getattr(step.by if step.options is None else step.options, "layers", None)
    layers = layers if isinstance(layers, (tuple, list)) else (layers,)
    return step.options is None or any(isinstance(each, int) and each == step.at + 1 for each in layers)


def _nearest(at: int, attending: tuple[int, ...]) -> int:
    return min(attending, key=lambda layer: (abs(layer - at), layer))


def _listed(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers))


def _check(step: Step, adapter: Adapter) -> None:
    attending, needs = adapter.attending, step.by.needs
    if step.at not in (DOOR, *attending):
        raise ConfigError(
            f"step {step.name!r} acts after layer {step.at}, which in a {adapter.family} is one of linear attention: "
            f"give pruning_layer={_nearest(step.at, attending)} (layers={_nearest(step.at, attending) + 1}); steps may "
            f"act after layers {_listed(attending)}"
        )
    asked = needs.attention is not None and needs.attention.projections == "next"
    if (asked or (needs.keys and step.at == DOOR)) and step.at + 1 not in attending:
        raise ConfigError(
            f"{step.name!r} needs {'the attention' if asked else 'the keys'} of layer {step.at + 1}, which in a "
            f"{adapter.family} is one of linear attention and has none: use a method that reads the attention of the "
            'layer before it (projections="own"), or none'
        )
    if needs.probe is not None:
        raise ConfigError(
            f"the probe of {step.name!r} attends in every layer, but a {adapter.family} has layers of linear "
            "attention: use another selector"
        )
