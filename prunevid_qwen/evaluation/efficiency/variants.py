"""Who competes: the stock model, keep-everything, the configs asked for, and controls at equal tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.errors import ConfigError

STOCK, KEEP_EVERYTHING = "stock", "keep everything"
CONTROLS = ("random", "uniform")

# the vision tower takes all at once, as the stock model's does: other chunks, other roundings, and perhaps other tokens
_KEEP = PruneVidConfig(
    tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, min_cluster_tokens=0, position_scheme="hf", vision_chunk_tokens=None
)


@dataclass(frozen=True)
class Variant:
    """One competitor.

    Args:
        name: as in tables and plots.
        config: what is pruned; None is the stock model without any hook.
        follows: the variant whose token counts a control takes; None for all others.
    """

    name: str
    config: PruneVidConfig | None
    follows: str | None = None


def competitors(presets: Sequence[str]) -> list[Variant]:
    """List what every measurement takes in turns, in this order.

    "keep everything" has all three stages on and nothing to drop, and the library's own positions: its tokens must be
    the stock model's. The controls follow the first preset.

    Args:
        presets: names or JSON files of configs, at least one.

    Raises:
        ConfigError: none, one twice, or an unknown one.
    """
    if not presets:
        raise ConfigError("name at least one preset to measure: --preset paper")
    if len(set(presets)) < len(presets):
        raise ConfigError(f"a preset is named twice: {', '.join(presets)}")
    asked = [Variant(name, get_config(name)) for name in presets]
    for variant in asked:
        if variant.name in (STOCK, KEEP_EVERYTHING, *CONTROLS):
            raise ConfigError(f"{variant.name!r} is the name of a competitor that always runs: rename the file")
    if asked[0].config is not None and asked[0].config.fixed_keep_ratio is None:
        raise ConfigError(
            f"controls keep the share of the first preset, and {asked[0].name!r} has no fixed one: it decides anew for "
            "each prompt, keeps a number of tokens, or cuts several times; name one with a keep_ratio of one cut, "
            "or a JSON file with keep_threshold null"
        )
    controls = [Variant(name, PruneVidConfig(), asked[0].name) for name in CONTROLS]
    return [Variant(STOCK, None), Variant(KEEP_EVERYTHING, _KEEP), *asked, *controls]


def control_config(name: str, leader: PruneVidConfig, given: int, after_stage1: float) -> PruneVidConfig:
    """Return the config of a control that keeps as many tokens as its leader did, at the same places of the model.

    Args:
        name: "random" or "uniform".
        leader: the config that it follows.
        given: visual tokens of a row.
        after_stage1: what the leader's stage 1 left of them, averaged over the rows.
    """
    ratio = min(1.0, (after_stage1 + 0.5) / given)  # a half more: the share is rounded down
    changes: dict[str, Any] = {}
    if leader.enable_stage1:
        changes |= {"merger": name, "cluster_ratio": ratio}
    if leader.enable_stage2:
        changes |= {"selector": name, "keep_ratio": leader.keep_ratio, "pruning_layer": leader.pruning_layer}
    return leader.replace(**changes)
