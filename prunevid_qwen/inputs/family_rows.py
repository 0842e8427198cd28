"""What is true of each family of models: for `prunevid models` and the table of the documentation.

Facts are asked of the family's adapter, on a tiny random model of its architecture, and of its frontend.
"""

from __future__ import annotations

from typing import Any

from prunevid_qwen.adapters import Adapter, adapter_for, families, family_of
from prunevid_qwen.adapters.tiny import FAMILIES, installed_families, tiny_inputs, tiny_model
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.presets import PRESETS
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import attached
from prunevid_qwen.forward.layer_kinds import mixed
from prunevid_qwen.inputs.frontends import frontend_for
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor

LAYERS = 8  # enough for the layers of a published model to be of its kinds
EVERY, FULL = "every layer", "layers of full attention"


def family_rows() -> list[dict[str, Any]]:
    """Return what is true of each registered family.

    Returns:
        Of each ``name``, ``model_type``, ``checkpoints`` (a hub id with ``*``), ``accepts`` (kinds of media),
        ``preprocessing`` ("this package" or "transformers"), ``needs_torchvision``, ``transformers`` (the oldest
        release) and ``installed`` (whether this one has the family). All that follows is None where it has not:
        ``stages``, ``merged`` (kinds of media that stage 1 merges without ``merge_images``), ``positions`` ("order" or
        "time and place"), ``cuts`` (the layers after which tokens may be dropped), ``cache_cut`` (the layers whose
        cache stage 3 cuts), ``trained_selector`` (kinds of media that GlimpsePrune selects from) and ``presets`` (of
        each name None, or why it is refused).
    """
    import torch

    rows = []
    for model_type in families():
        family, frontend = family_of(model_type), frontend_for(model_type)
        known = FAMILIES.get(model_type)
        row: dict[str, Any] = {
            "name": family.name, "model_type": model_type, "checkpoints": family.checkpoints,
            "accepts": list(frontend.reads_of(model_type)),
            "preprocessing": "this package" if issubclass(frontend, Preprocessor) else "transformers",
            "needs_torchvision": frontend.needs_torchvision,
            "transformers": known.since if known else None, "installed": model_type in installed_families(),
        }  # fmt: skip
        facts = dict.fromkeys(
            ("stages", "merged", "positions", "cuts", "cache_cut", "trained_selector", "presets"), None
        )
        if row["installed"]:
            with torch.random.fork_rng(devices=[]):
                facts = _facts(adapter_for(tiny_model(model_type, LAYERS)), row["accepts"])
        rows.append({**row, **facts})
    return rows


HEAD = ("family", "model_type", "accepts", "inputs by", "merges", "positions", "cuts after", "cache cut", "glimpse")
"""Columns of a table of families."""


def family_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of `family_rows` as cells below `HEAD`."""
    first = (row["name"], row["model_type"], _listed(row["accepts"]), row["preprocessing"])
    if not row["installed"]:
        return (*first, "", f"transformers {row['transformers']}", "", "", "")
    layers = (row[name].removeprefix("layers of ") for name in ("cuts", "cache_cut"))
    trained = _listed(row["trained_selector"]) or "no"
    return (*first, _listed(row["merged"]) or "merge_images", row["positions"], *layers, trained)


def _listed(kinds: list[str]) -> str:
    return ", ".join(f"{kind}s" for kind in kinds)


def _facts(adapter: Adapter, accepts: list[str]) -> dict[str, Any]:
    layers, towers = FULL if mixed(adapter) else EVERY, adapter.parts.towers
    return {
        "stages": [1, 2, 3],
        "merged": [kind for kind in towers if kind == "video"],
        "positions": "time and place" if adapter.spatial else "order",
        "cuts": layers,
        "cache_cut": layers,
        # frames of a video may be images to the model
        "trained_selector": [kind for kind in accepts if (kind if kind in towers else "image") in _placed(adapter)],
        "presets": {name: _why_not(adapter, name) for name in PRESETS},
    }


def _placed(adapter: Adapter) -> set[str]:
    """Kinds of media that GlimpsePrune reads: all their tokens have a row and a column, and all layers hold keys."""
    if mixed(adapter):
        return set()
    inputs = tiny_inputs(FAMILIES[adapter.family].shown.rows, family=adapter.family)
    with attached(adapter, PruneVidConfig(enable_stage1=False)) as trace:
        adapter.parts.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    blocks = [block for sample in trace.samples for block in sample.blocks]
    return {block.kind for block in blocks} - {block.kind for block in blocks if block.unplaced}


def _why_not(adapter: Adapter, preset: str) -> str | None:
    config = PRESETS[preset]()
    if config.has("glimpse_path") and not mixed(adapter):
        return None  # with a predictor of its own, which the tiny model has none of
    try:
        with attached(adapter, config):
            return None
    except ConfigError as error:
        return str(error)
