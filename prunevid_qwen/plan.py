"""Plan: a config compiled for one model depth. Which reducer stands where, and what happens to the cache."""

from __future__ import annotations

from dataclasses import dataclass

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen.config import PruneVidConfig, resolve_layer
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.reducer import Reducer, made_by


@dataclass(frozen=True)
class Plan:
    """What is done to one model.

    Args:
        before: stage 1, at the decoder's door; None leaves it out.
        after: stage 2, on the output of layer ``layer`` and what that layer attended to; None leaves it out.
        layer: M, counted from 0.
        compress: stage 3, cut the cache of layers 0..M to what stage 2 kept.
        position_scheme: "reference" or "hf".
    """

    before: Reducer | None
    after: Reducer | None
    layer: int
    compress: bool
    position_scheme: str


def compile_plan(config: PruneVidConfig, layers: int) -> Plan:
    """Compile ``config`` for a decoder of ``layers`` layers.

    Raises:
        ConfigError: ``pruning_layer`` is beyond the model or not where the selector was trained to act, or ``merger``
            or ``selector`` is unknown.
    """
    after = None if config.selector is None else made_by(config.selector, config=config)
    return Plan(
        before=None if config.merger is None else made_by(config.merger, 1, config),
        after=after,
        layer=_layer(config, after, layers),
        compress=config.compress_cache and after is not None,
        position_scheme=config.position_scheme,
    )


def _layer(config: PruneVidConfig, after: Reducer | None, layers: int) -> int:
    own = None if after is None else after.needs.layer
    several = getattr(config.selector, "layers", None)
    if isinstance(several, tuple) and len(several) > 1:
        raise ConfigError(f"selector {config.selector_name!r} acts before one layer here, got layers={several}")
    if own is None:  # without stage 2 nothing happens after a layer: a layer that the model lacks does no harm
        return resolve_layer(None if after is None else config.pruning_layer, layers)
    if own >= layers:
        raise ConfigError(
            f"selector {config.selector_name!r} acts after layer {own}, where it was trained, but this model has "
            f"{layers} layers: it was made for another model"
        )
    if config.pruning_layer is not None and resolve_layer(config.pruning_layer, layers) != own:
        raise ConfigError(
            f"selector {config.selector_name!r} was trained to act after layer {own} and cannot act after "
            f"pruning_layer={config.pruning_layer}: leave pruning_layer unset"
        )
    return own
