"""Configs with a name: presets, and each method alone. Published presets have the published values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prunevid_qwen.config.flat import ALL_OFF
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.config.option_classes import STAGES, classes_of
from prunevid_qwen.config.plugins import load_announced
from prunevid_qwen.config.prunevid_config import PruneVidConfig
from prunevid_qwen.errors import ConfigError


def get_paper_config() -> PruneVidConfig:
    """Return the default config: PruneVid with the values of its Qwen2.5-VL port. ``config=None`` means this one."""
    return PruneVidConfig()


def get_recommended_config() -> PruneVidConfig:
    """Return our choice by measurement (docs/search.md). It is no paper's preset.

    The merger is ``distinct``: it keeps the quarter of the tokens that are rare in their video and unlike everything
    kept near them in place and time. The selector is ``dpp``: half way through the layers it keeps half of those, which
    the question attends to and which differ from one another. All layers together see a fifth of the tokens.
    Temporal positions of a video with equal pixels are encoded once (``reuse_identical``).
    ``cluster_ratio`` sets the budget. The measurements are from the bundled toys; no real checkpoint has confirmed
    them yet.
    """
    own: dict[str, Any] = {"merger.cluster_ratio": 0.25, "selector.keep_ratio": 0.5, "reading.reuse_identical": True}
    return PruneVidConfig(merger="distinct", selector="dpp", pruning_layer=0.5, **own)


def get_recommended_2026_11_config() -> PruneVidConfig:
    """Return the `recommended` of version 0.2 until November 2026 (docs/choices.md).

    The merger is ``rlt``: each location is one token while it looks the same. The selector is ``dpp``, after a tenth of
    the layers, so that most of the saving depends on the question. All other values are the paper's. ``keep_ratio``
    sets the budget.
    """
    return PruneVidConfig(merger="rlt", selector="dpp", pruning_layer=0.1)


def get_fast_config() -> PruneVidConfig:
    """Return `get_recommended_config` with less work for the vision encoder where a camera stands still.

    A place of the picture that changes by at most 8 grey levels is not encoded again (``reuse_threshold``), and equal
    temporal positions are encoded once (``reuse_identical``). Of a camera that moves it saves nothing. 8 was chosen on
    the bundled toy and on coded footage (docs/vision.md); `prunevid tune vision` measures it on a model and its videos.
    """
    return get_recommended_config().replace(**{"reading.reuse_threshold": 8.0, "reading.reuse_identical": True})


def get_reference_config() -> PruneVidConfig:
    """Return PruneVid as in its authors' code: k 7, scores before rotary embedding, budgets and order per group."""
    return PruneVidConfig(dpc_knn_k=7, attention_source="pre_rope", selection_scope="per_group", token_order="grouped")


def get_conservative_config() -> PruneVidConfig:
    """Return a preset that prunes *less* than the paper (keep_ratio 0.6, cluster_ratio 0.75).

    The community port has a preset of the same name that prunes more.
    """
    return PruneVidConfig(keep_ratio=0.6, cluster_ratio=0.75)


def get_aggressive_config() -> PruneVidConfig:
    """Return a preset that prunes *more* than the paper (keep_ratio 0.2, cluster_ratio 0.25).

    The community port has a preset of the same name that prunes less.
    """
    return PruneVidConfig(keep_ratio=0.2, cluster_ratio=0.25)


def get_baseline_config() -> PruneVidConfig:
    """Return a config with all stages off: the stock model, with the same reading and sampling of videos."""
    return PruneVidConfig(**ALL_OFF)


def get_stage1_only_config() -> PruneVidConfig:
    """Return a config with stage 1 alone: PruneVid's merging before the decoder, without a selection."""
    return PruneVidConfig(enable_stage2=False, enable_cache_compression=False)


def get_glimpse_config() -> PruneVidConfig:
    """Return GlimpsePrune as published: no merging; its predictor chooses the tokens and their number.

    The predictor is that of the toy "bundled". For another model, name its own: ``replace(glimpse_path=...)``. The
    published figure of 92.6 % pruned tokens needs ``replace(max_keep_ratio=0.111)``.
    """
    return PruneVidConfig(enable_stage1=False, selector="glimpse")


def get_fastv_config() -> PruneVidConfig:
    """Return FastV as published (arXiv 2403.06764): no merging, and half of the tokens from layer 2 on.

    The caches of layers 0 and 1 stay whole. It prunes images and videos, and needs no training.
    """
    return PruneVidConfig(merger=None, selector="fastv", compress_cache=False)


PRESETS = {
    "paper": get_paper_config,
    "recommended": get_recommended_config,
    "recommended_2026_11": get_recommended_2026_11_config,
    "fast": get_fast_config,
    "conservative": get_conservative_config,
    "aggressive": get_aggressive_config,
    "stage1_only": get_stage1_only_config,
    "reference": get_reference_config,
    "glimpse": get_glimpse_config,
    "fastv": get_fastv_config,
    "baseline": get_baseline_config,
}


def method_config(name: str) -> PruneVidConfig | None:
    """Return the config that has one method and nothing else, with the method's defaults; None if there is no such.

    Args:
        name: of a method, which then acts at each stage that it has: "visionzip" before the decoder, "vscan" before and
            inside. "merger.vscan" and "selector.vscan" are one stage of it.
    """
    stage, _, method = name.rpartition(".")
    parts = (stage,) if stage else tuple(STAGES)
    if not set(parts) <= set(STAGES):
        return None
    if not any(method in classes_of(part) for part in parts):
        load_announced(method)
    found = {part: classes_of(part).get(method) for part in parts}
    if not any(found.values()):
        return None
    own: dict[str, Any] = {part: None if (options := found.get(part)) is None else options() for part in STAGES}
    return PruneVidConfig(**own)


def get_config(name_or_path: str) -> PruneVidConfig:
    """Return a preset by its name, a method alone by its own, or the config in a JSON file.

    Args:
        name_or_path: name of a preset; name of a method, see `method_config`; or path of a file that
            `PruneVidConfig.to_json` wrote.

    Raises:
        ConfigError: there is no such preset, method or file. The message suggests the nearest name.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]()
    if not name_or_path.endswith(".json") and (config := method_config(name_or_path)) is not None:
        return config
    if name_or_path.endswith(".json") or os.path.isfile(name_or_path):
        return PruneVidConfig.from_json(Path(name_or_path))
    known = dict.fromkeys((*PRESETS, *(name for part in STAGES for name in classes_of(part))))
    raise ConfigError(unknown("a preset or a method (or a .json file) is", name_or_path, tuple(known)))
