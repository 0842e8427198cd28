"""Presets: configs with a name. Those of the paper and of its authors stay theirs; ours say what they are for."""

from __future__ import annotations

import os
from pathlib import Path

from prunevid_qwen.config.flat import ALL_OFF
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.config.prunevid_config import PruneVidConfig
from prunevid_qwen.errors import ConfigError


def get_paper_config() -> PruneVidConfig:
    """Return the defaults: the paper's method as the Qwen2.5-VL port sets it. What ``config=None`` means."""
    return PruneVidConfig()


def get_recommended_config() -> PruneVidConfig:
    """Return what we would use, chosen by measurement (docs/choices.md); no paper's preset.

    Stage 1 is ``rlt`` (each location is one token while it looks the same), and ``dpp`` selects after a tenth of the
    layers, so that most of the saving is decided with the question in view. Everything else is the paper's;
    ``keep_ratio`` sets the budget. Measured on the bundled toy: what it says of `pruning_layer` and of the attention
    of early layers need not hold for a large model.
    """
    return PruneVidConfig(merger="rlt", selector="dpp", pruning_layer=0.1)


def get_reference_config() -> PruneVidConfig:
    """Return exactly what the authors' code does: k 7, scores before rotary embedding, budgets and order per group."""
    return PruneVidConfig(dpc_knn_k=7, attention_source="pre_rope", selection_scope="per_group", token_order="grouped")


def get_conservative_config() -> PruneVidConfig:
    """Return a preset that prunes *less* than the paper (keep 0.6, clusters 0.75).

    The community port's README describes "conservative" as high compression: here the word means what it says.
    """
    return PruneVidConfig(keep_ratio=0.6, cluster_ratio=0.75)


def get_aggressive_config() -> PruneVidConfig:
    """Return a preset that prunes *more* than the paper (keep 0.2, clusters 0.25).

    The community port's README describes "aggressive" as low compression: here the word means what it says.
    """
    return PruneVidConfig(keep_ratio=0.2, cluster_ratio=0.25)


def get_baseline_config() -> PruneVidConfig:
    """Return all stages off: the stock model, read and sampled in the same way."""
    return PruneVidConfig(**ALL_OFF)


def get_stage1_only_config() -> PruneVidConfig:
    """Return stage 1 alone: merging before the decoder, no selection by the question."""
    return PruneVidConfig(enable_stage2=False, enable_cache_compression=False)


def get_glimpse_config() -> PruneVidConfig:
    """Return GlimpsePrune as published: no merging, and as many tokens as its predictor takes for needed.

    The predictor is the bundled model's; for another model name its own: ``replace(glimpse_path=...)``. The published
    figures of 92.6 % pruned are those of ``replace(max_keep_ratio=0.111)``.
    """
    return PruneVidConfig(enable_stage1=False, selector="glimpse")


def get_fastv_config() -> PruneVidConfig:
    """Return FastV as published (arXiv 2403.06764): no merging, and half of the tokens from layer 2 on.

    The caches of the layers before stay whole. It acts on images and videos alike, and needs no training.
    """
    return PruneVidConfig(merger=None, selector="fastv", compress_cache=False)


PRESETS = {
    "paper": get_paper_config,
    "recommended": get_recommended_config,
    "conservative": get_conservative_config,
    "aggressive": get_aggressive_config,
    "stage1_only": get_stage1_only_config,
    "reference": get_reference_config,
    "glimpse": get_glimpse_config,
    "fastv": get_fastv_config,
    "baseline": get_baseline_config,
}


def get_config(name_or_path: str) -> PruneVidConfig:
    """Return a preset by name, or the config in a JSON file.

    Raises:
        ConfigError: neither a preset nor a file; the nearest preset is offered.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]()
    if name_or_path.endswith(".json") or os.path.isfile(name_or_path):
        return PruneVidConfig.from_json(Path(name_or_path))
    raise ConfigError(unknown("a preset (or a .json file) is", name_or_path, tuple(PRESETS)))
