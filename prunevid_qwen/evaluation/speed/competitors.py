"""Who competes: the stock model, keep-everything, the configs asked for, and controls at equal tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.errors import ConfigError

STOCK, KEEP_EVERYTHING = "stock", "keep everything"
CONTROLS = ("random", "uniform")

# the vision tower takes all at once, as the stock model's does: other chunks, other roundings, and perhaps other tokens
KEEPS_ALL = PruneVidConfig(
    tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, min_cluster_tokens=0, position_scheme="hf", vision_chunk_tokens=None
)
"""All three stages on and nothing to drop, with the library's own positions: its tokens must be the stock model's."""


@dataclass(frozen=True)
class Competitor:
    """One of those that are measured in turns.

    Args:
        name: as in tables and plots.
        config: what is pruned; None is the stock model without any hook.
        follows: the competitor whose token counts a control takes; None for all others.
    """

    name: str
    config: PruneVidConfig | None
    follows: str | None = None


def competitors(presets: Sequence[str]) -> list[Competitor]:
    """List what every measurement takes in turns, in this order; the controls follow the first preset.

    Args:
        presets: names or JSON files of configs, at least one.

    Raises:
        ConfigError: none, one twice, an unknown one, or a first one whose share the controls cannot take.
    """
    if not presets:
        raise ConfigError("name at least one preset to measure: --configs paper")
    if len(set(presets)) < len(presets):
        raise ConfigError(f"a preset is named twice: {', '.join(presets)}")
    configs = {name: named_configs(name)[0][1] for name in presets}
    for name in (STOCK, KEEP_EVERYTHING, *CONTROLS):
        if name in configs:
            raise ConfigError(f"{name!r} is the name of a competitor that always runs: rename the file")
    first = presets[0]
    if configs[first].fixed_keep_ratio is None:
        raise ConfigError(
            f"controls keep the share of the first preset, and {first!r} has no fixed one: it decides anew for "
            "each prompt, keeps a number of tokens, or cuts several times; name one with a keep_ratio of one cut, "
            "or a JSON file with keep_threshold null"
        )
    return [
        Competitor(STOCK, None),
        Competitor(KEEP_EVERYTHING, KEEPS_ALL),
        *(Competitor(name, config) for name, config in configs.items()),
        *(Competitor(name, PruneVidConfig(), first) for name in CONTROLS),
    ]


def control_config(name: str, leader: PruneVidConfig, given: int, after_stage1: float) -> PruneVidConfig:
    """Return the config of a control that keeps as many tokens as its leader did, at the same places of the model.

    Args:
        name: "random" or "uniform".
        leader: the config that it follows.
        given: visual tokens of a row.
        after_stage1: what the leader's stage 1 left of them, averaged over the rows.
    """
    changes: dict[str, Any] = {}
    if leader.enable_stage1:  # a half more: the share is rounded down
        changes |= {"merger": name, "cluster_ratio": min(1.0, (after_stage1 + 0.5) / given)}
    if leader.enable_stage2:
        changes |= {"selector": name, "keep_ratio": leader.keep_ratio, "pruning_layer": leader.pruning_layer}
    return leader.replace(**changes)
