"""PruneVidConfig: defaults, presets, JSON, and every refusal with its hint."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import (
    PRESETS,
    PruneVidConfig,
    get_aggressive_config,
    get_baseline_config,
    get_config,
    get_conservative_config,
    get_fast_config,
    get_paper_config,
    get_recommended_config,
    get_reference_config,
    get_stage1_only_config,
    option_types,
    resolve_layer,
)
from prunevid_qwen.config.media_reading import STOCK_ENCODER, Reading
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe


def changed(config: PruneVidConfig) -> dict[str, Any]:
    """What a preset sets other than the defaults."""
    defaults = PruneVidConfig().flat()
    return {name: value for name, value in config.flat().items() if value != defaults.get(name)}


def test_presets_are_those_of_the_specification() -> None:
    paper = get_paper_config()
    assert changed(paper) == {}
    assert (paper.tau, paper.cluster_ratio, paper.temporal_segment_ratio, paper.dpc_knn_k) == (0.8, 0.5, 0.25, 5)
    assert (paper.keep_ratio, paper.pruning_layer, paper.min_cluster_tokens, paper.max_frames) == (0.4, None, 14, 16)
    assert changed(get_reference_config()) == {
        "dpc_knn_k": 7, "attention_source": "pre_rope", "selection_scope": "per_group", "token_order": "grouped",
    }  # fmt: skip
    assert changed(get_conservative_config()) == {"keep_ratio": 0.6, "cluster_ratio": 0.75}
    assert changed(get_aggressive_config()) == {"keep_ratio": 0.2, "cluster_ratio": 0.25}
    recommended, fast = get_recommended_config(), get_fast_config()
    assert fast == recommended.replace(reuse_threshold=8.0, reuse_identical=True) != recommended
    assert changed(get_recommended_config()) == {
        "merger": "rlt", "selector": "dpp", "pruning_layer": 0.1, "reading.reuse_identical": True,
    }  # fmt: skip
    off = {"enable_stage1": False, "enable_stage2": False, "enable_cache_compression": False}
    assert changed(get_baseline_config()) == off
    assert changed(get_stage1_only_config()) == {k: v for k, v in off.items() if k != "enable_stage1"}


def test_the_vision_encoder_is_the_stock_one_in_all_other_presets() -> None:
    stock = Reading()
    for name in PRESETS:
        reading = get_config(name).reading
        changes = {each for each in STOCK_ENCODER if getattr(reading, each) != getattr(stock, each)}
        allowed = {"fast": {"reuse_threshold", "reuse_identical"}, "recommended": {"reuse_identical"}}.get(name, set())
        assert changes == allowed, name
        assert get_config(name).replace(**STOCK_ENCODER).reading == stock
    assert {name: getattr(stock, name) for name in STOCK_ENCODER} == STOCK_ENCODER


@pytest.mark.parametrize("name", PRESETS)
def test_presets_by_name_and_through_json(name: str, tmp_path: Path) -> None:
    config = get_config(name)
    config.to_json(tmp_path / "c.json")
    assert get_config(str(tmp_path / "c.json")) == config
    assert PruneVidConfig.from_json(config.to_json()) == config
    assert PruneVidConfig.from_dict(config.to_dict()) == config
    assert PruneVidConfig.from_dict(config.flat()) == config
    assert PruneVidConfig.from_record(config.flat()) == config


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"keep_ratio": 0}, r"keep_ratio is a share in \(0, 1\], got 0 \(nothing would be left\)"),
    ({"keep_ratio": 1.5}, r"got 1\.5$"),
    ({"keep_ratio": 25}, r"did you mean 0\.25\?"),
    ({"keep_ratio": -0.1}, r"got -0\.1$"),
    ({"keep_ratio": math.nan}, "got nan"),
    ({"keep_ratio": "0.4"}, r"a number in \(0, 1\], got str '0\.4'"),
    ({"keep_ratio": True}, "got bool"),
    ({"tau": 80}, r"did you mean 0\.8\?"),
    ({"dpc_knn_k": 0}, "at least 1"),
    ({"dpc_knn_k": 2.5}, "whole number"),
    ({"min_cluster_tokens": -1}, "at least 0"),
    ({"max_frames": 1}, "at least 2"),
    ({"max_pixels": 100}, "at least 784"),
    ({"fps": 0}, "above 0"),
    ({"fps": math.inf}, "above 0"),
    ({"video_time_limit": 0}, "above 0, or None"),
    ({"enable_stage1": 1}, "True or False"),
    ({"verbose": 1}, "True or False"),
    ({"collect_stats": None}, "True or False"),
    ({"pruning_layer": -1}, "counts from 0"),
    ({"pruning_layer": 0.0}, r"share of the depth in \(0, 1\)"),
    ({"pruning_layer": 1.5}, r"share of the depth in \(0, 1\)"),
    ({"pruning_layer": True}, "layer index"),
    ({"pruning_layer": "10"}, "layer index"),
    ({"token_order": "group"}, r"did you mean 'grouped'\?"),
    ({"video_backend": "ffmpeg"}, "pyav, decord"),
    ({"selector": ""}, "name of a stage 2 method"),
    ({"static_cluster_ratio": 0}, "nothing would be left"),
    ({"cluster_scope": "vido"}, r"did you mean 'video'\?"),
    ({"merger": 1}, "name of a stage 1 method or its options, got 1"),
    ({"random_seed": -1}, "at least 0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(o) for o, _ in WRONG])
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneVidConfig(**options)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"got 'keep_ration'; did you mean 'keep_ratio'\?"):
        PruneVidConfig.from_dict({"keep_ration": 0.4})
    with pytest.raises(ConfigError, match=r"did you mean 'paper'\?"):
        get_config("papper")
    with pytest.raises(ConfigError, match="no config file"):
        get_config("nowhere.json")
    with pytest.raises(ConfigError, match="not JSON"):
        PruneVidConfig.from_json("{keep")


OPTIONS: list[tuple[Any, dict[str, Any]]] = [
    (PruneVidConfig, {}), (GlimpseRecipe, {}), (GlimpsePlusRecipe, {}),
    (EvalProtocol, {"dataset": "mvbench", "prompt": "letter"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given"), OPTIONS, ids=[kind.__name__ for kind, _ in OPTIONS])
def test_a_wrong_name_is_our_error_and_pythons_with_the_nearest_name_first(kind: Any, given: dict[str, Any]) -> None:
    right = next(each.name for each in dataclasses.fields(kind) if each.name not in given)
    wrong, made = right + "x", kind(**given)
    for build in (
        lambda: kind(**given, **{wrong: 1}), lambda: kind.from_dict({**given, wrong: 1}),
        lambda: made.replace(**{wrong: 1}), lambda: dataclasses.replace(made, **{wrong: 1}),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            build()
        assert isinstance(refused.value, TypeError)
        named = re.findall(r"\w+", str(refused.value))
        others = [each.name for each in dataclasses.fields(kind) if each.name != right]
        others = [name for name in others if name in named]  # a file without a format has flat names alone
        assert others and named.index(wrong) < named.index(right) < min(named.index(name) for name in others)


def test_the_share_removed_is_no_option_of_the_constructor_but_of_dicts() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'keep_ratio'\?"):
        PruneVidConfig(pruning_rate=0.6)
    fields = [f.name for f in dataclasses.fields(PruneVidConfig)]
    assert list(inspect.signature(PruneVidConfig).parameters) == [*fields, "flat"]


def test_a_json_list_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="object"):
        PruneVidConfig.from_json(tmp_path / "c.json")


def test_pruning_rate_is_accepted_at_the_door_and_never_beside_keep_ratio() -> None:
    assert PruneVidConfig.from_dict({"pruning_rate": 0.75}).keep_ratio == 0.25
    with pytest.raises(ConfigError, match="keep_ratio and pruning_rate"):
        PruneVidConfig.from_dict({"pruning_rate": 0.75, "keep_ratio": 0.25})
    with pytest.raises(ConfigError, match=r"0\.75"):
        PruneVidConfig.from_dict({"pruning_rate": 75})
    with pytest.raises(ConfigError, match="share removed"):
        PruneVidConfig.from_dict({"pruning_rate": 1.0})


def test_replace_takes_a_rate_instead_of_its_own_ratio() -> None:
    config = get_aggressive_config().replace(pruning_rate=0.75)
    assert (config.keep_ratio, config.cluster_ratio) == (0.25, 0.25)
    with pytest.raises(ConfigError, match="keep_ratio and pruning_rate"):
        config.replace(pruning_rate=0.5, keep_ratio=0.5)


def test_what_is_reported_is_no_part_of_a_config() -> None:
    said = {"verbose": True, "collect_stats": False}
    plain, loud = PruneVidConfig(), PruneVidConfig(**said)
    assert plain == loud and hash(plain) == hash(loud)
    assert plain.to_dict() == loud.to_dict() and plain.to_json() == loud.to_json()
    assert plain.flat() == loud.flat()
    assert not set(said) & set(loud.to_dict()) and set(loud.flat()) == set(option_types())
    assert {*loud.to_dict(), *said} - {"format"} == {each.name for each in dataclasses.fields(PruneVidConfig)}


def test_replace_keeps_what_is_reported_and_dicts_and_files_may_say_it() -> None:
    said = {"verbose": True, "collect_stats": False}
    for config in (
        PruneVidConfig(**said).replace(keep_ratio=0.2), PruneVidConfig(keep_ratio=0.2).replace(**said),
        PruneVidConfig.from_dict({"keep_ratio": 0.2, **said}),
        PruneVidConfig.from_json(json.dumps({"keep_ratio": 0.2, **said})),
    ):  # fmt: skip
        assert (config.keep_ratio, config.verbose, config.collect_stats) == (0.2, True, False)


def test_budgets_of_a_stage_that_is_off_contradict_nothing() -> None:
    at_odds: dict[str, Any] = {"selector": "glimpse", "keep_ratio": 0.2}
    off = PruneVidConfig(enable_stage2=False, **at_odds)
    assert off.selector is None and off == PruneVidConfig(selector=None)
    with pytest.raises(ConfigError, match="keep_threshold"):
        PruneVidConfig(**at_odds)
    with pytest.raises(ConfigError, match="keep_threshold"):  # a value that no stage could take is wrong all the same
        PruneVidConfig(enable_stage2=False, keep_threshold=2.0)


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        PruneVidConfig().keep_ratio = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("asked", "layers", "layer"),
    [(None, 28, 10), (None, 36, 10), (None, 20, 10), (None, 6, 2), (None, 19, 6), (0.5, 28, 14), (3, 4, 3), (0, 1, 0)],
)
def test_layers(asked: Any, layers: int, layer: int) -> None:
    assert resolve_layer(asked, layers) == layer


def test_a_layer_beyond_the_model() -> None:
    with pytest.raises(ConfigError, match=r"pruning_layer=10.*0 to 5.*pruning_layer=0\.36.*pruning_layer=2"):
        resolve_layer(10, 6)
    with pytest.raises(ConfigError, match=r"pruning_layer=6.*0 to 5"):
        resolve_layer(6, 6)
    with pytest.raises(ConfigError, match=r"pruning_layer=0\.96.*pruning_layer=5"):
        resolve_layer(27, 6)
    with pytest.raises(ConfigError) as error:
        resolve_layer(28, 6)  # a 7B model has no such layer either
    assert "share" not in str(error.value)
