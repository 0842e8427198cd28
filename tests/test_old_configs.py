"""Files of configs without a format come to what 3a0e2fd made of them: data/plans_of_3a0e2fd.json, which it wrote.

For each preset, each merger with each selector and some files of options: the methods with all their options, the
layer, the cache and the positions, for models of 6 and 28 layers. Equal methods at equal places keep equal tokens.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import PRESETS, FlatOptions, PruneVidConfig, get_config, method_options
from prunevid_qwen.config.flat import READING
from prunevid_qwen.config.methods import FastVOptions
from prunevid_qwen.errors import ConfigError, UnknownOption
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.reducer import registered

OLD: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "plans_of_3a0e2fd.json").read_text(encoding="utf-8"))
NEWER_PRESETS = ("fastv", "fast", "recommended")
NAMED_ANEW = {"recommended_2026_11": "recommended"}
NEW_NAME = {"seed": "random_seed"}


def facts(method: Any, then: dict[str, Any] | None) -> dict[str, Any] | None:
    """Class and options of a method, by the names that it had then."""
    if method is None:
        return None
    values = {name: getattr(method, NEW_NAME.get(name, name)) for name in then or {} if name != "class"}
    later = {"keep_tokens"}  # options that came after it, and are off
    plain = {name: _without(dataclasses.asdict(v), later) if name == "budget" else v for name, v in values.items()}
    return {"class": type(method).__name__, **plain}


def _without(options: dict[str, Any], names: set[str]) -> dict[str, Any]:
    assert all(options[name] is None for name in names)
    return {name: value for name, value in options.items() if name not in names}


@pytest.mark.parametrize("name", OLD)
def test_a_file_without_a_format_is_planned_as_then(name: str) -> None:
    config = PruneVidConfig.from_json(json.dumps(OLD[name]["file"]))
    assert {flat: getattr(config.reading, now) for flat, now in READING.items()} == OLD[name]["reading"]
    for layers, then in OLD[name]["plans"].items():
        plan = compile_plan(config, int(layers))
        before, (after, layer) = plan.door, next(((cut.by, cut.at) for cut in plan.cuts), (None, None))
        assert facts(None if before is None else before.by, then["before"]) == then["before"]
        assert facts(after, then["after"]) == then["after"]
        assert plan.position_scheme == then["position_scheme"]
        assert after is None or (layer, plan.compress) == (then["layer"], then["compress"])


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in NEWER_PRESETS])
def test_records_of_runs_hold_what_they_held_then(name: str) -> None:
    """A run's identity holds `flat`: one that an earlier version began is known again."""
    assert get_config(name).flat() == OLD[NAMED_ANEW.get(name, name)]["file"]


def test_every_pair_of_methods_is_among_them() -> None:
    mergers, selectors = set(registered(1)) - set(method_options.MERGERS), set(registered(2))
    selectors -= {"pyramiddrop", "sparsevlm", *method_options.SELECTORS}  # came after that version
    assert {f"{merger} x {selector}" for merger in mergers for selector in selectors} <= set(OLD)


@pytest.mark.parametrize("name", OLD)
def test_flat_options_and_files_of_today_come_to_the_same_config(name: str) -> None:
    config = PruneVidConfig.from_dict(OLD[name]["file"])
    for again in (
        PruneVidConfig.from_dict(config.flat()), PruneVidConfig.from_record(config.flat()),
        PruneVidConfig.from_dict(config.to_dict()), PruneVidConfig.from_json(config.to_json()), config.replace(),
    ):  # fmt: skip
        assert again == config and hash(again) == hash(config)


def test_fastv_is_fastv_except_in_files_without_a_format() -> None:
    assert PruneVidConfig(selector="fastv").selector == FastVOptions(keep_ratio=0.5, layers=(2,))
    assert PruneVidConfig().replace(selector="fastv").pruning_layer == 1  # the layer before the one that first sees it
    assert PruneVidConfig.from_dict({"selector": "fastv"}).selector == FastVOptions(keep_ratio=0.4, layers=None)
    assert PruneVidConfig.from_dict({"format": 2, "selector": {"name": "fastv"}}).selector == FastVOptions()


@pytest.mark.parametrize(("options", "name"), [
    ({"selector": "uniform", "attention_source": "pre_rope"}, "attention_source"),
    ({"merger": "rlt", "cluster_ratio": 0.25}, "cluster_ratio"),
    ({"random_seed": 3}, "random_seed"),
    ({"selector": "fastv", "keep_threshold": 0.25}, "keep_threshold"),
], ids=str)  # fmt: skip
def test_an_option_that_nobody_would_read_is_refused_unless_it_is_the_default(
    options: dict[str, Any], name: str
) -> None:
    with pytest.raises(UnknownOption, match=name):
        PruneVidConfig.from_dict(options)
    plain = {**options, name: getattr(FlatOptions(), name)}
    assert PruneVidConfig.from_dict(plain) == PruneVidConfig.from_record(options)


@pytest.mark.parametrize("options", [
    {"enable_stage1": False, "random_seed": 3}, {"enable_stage2": False, "random_seed": 3},
    {"enable_stage1": False, "merger": "somebody_elses", "cluster_ratio": 0.1},
    {"enable_stage2": False, "selector": "glimpse", "attention_source": "pre_rope"},
], ids=str)  # fmt: skip
def test_options_of_a_stage_that_is_off_are_passed_over(options: dict[str, Any]) -> None:
    switches = {name: value for name, value in options.items() if name.startswith("enable")}
    assert PruneVidConfig.from_dict(options) == PruneVidConfig(**switches)


@pytest.mark.parametrize("options", [
    {"format": 3}, {"format": 2, "keep_ratio": 0.2}, {"format": 2, "selector": {"keep_ratio": 0.2}},
    {"format": 2, "selector": "fastv"}, {"format": 2, "selector": {"name": "fastv", "tau": 0.2}},
    {"format": 2, "merger": {"name": "prunevid", "tau": 2}}, {"format": 2, "reading": {"frames": 3}},
    {"format": 2, "reading": None}, {"format": 2, "selector": {"name": "fastv", "layers": [1, 2]}},
    {"format": 2, "selector": {"name": "fastv", "layers": [0]}}, {"format": 2, "compress_cache": 1},
], ids=str)  # fmt: skip
def test_what_is_wrong_in_a_file_of_today_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PruneVidConfig.from_dict(options)
