"""Options of a method's own: to whom names belong, other methods and off stages, other people's methods, plug-ins."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import PRESETS, PruneVidConfig, get_aggressive_config, get_config, option_classes
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.methods import (
    DPPOptions,
    FastVOptions,
    PruneVidMergeOptions,
    PruneVidOptions,
    RandomMergeOptions,
    RandomOptions,
    RLTOptions,
    UniformMergeOptions,
    UniformOptions,
)
from prunevid_qwen.errors import ConfigError, PruningNotApplied, UnknownOption
from prunevid_qwen.reducer import (
    made_by,
    reducer_class,
    says,
)
from tests.test_receipt import BIKES, applied, told
from tests.test_reducer_contract import evidence, only_what_it_asks_for

PACKAGE = Path(option_classes.__file__).parents[1]
OPTIONS = [(part, name) for part in ("merger", "selector") for name in option_classes._CLASSES[part]]


# ---- to whom a name belongs


def test_flat_names_go_to_the_method_that_has_them() -> None:
    config = PruneVidConfig(tau=0.7, keep_ratio=0.3, pruning_layer=4, max_frames=8, enable_cache_compression=False)
    assert config.merger == PruneVidMergeOptions(tau=0.7)
    assert config.selector == PruneVidOptions(keep_ratio=0.3, layers=(5,))  # dropped after layer 4: first seen by 5
    assert config.reading == Reading(max_frames=8) and config.compress_cache is False
    assert (config.tau, config.keep_ratio, config.pruning_layer, config.max_frames) == (0.7, 0.3, 4, 8)
    assert (config.enable_stage1, config.enable_stage2, config.enable_cache_compression) == (True, True, False)


def test_full_names_say_the_same() -> None:
    full: dict[str, Any] = {
        "merger.tau": 0.7,
        "selector.keep_ratio": 0.3,
        "reading.max_frames": 8,
        "selector.layers": 5,
    }
    assert PruneVidConfig(**full) == PruneVidConfig().replace(**full)
    assert PruneVidConfig(**full) == PruneVidConfig(tau=0.7, keep_ratio=0.3, max_frames=8, pruning_layer=4)
    assert PruneVidConfig(selector=PruneVidOptions(keep_ratio=0.3)) == PruneVidConfig(keep_ratio=0.3)


def test_the_seed_is_both_controls() -> None:
    config = PruneVidConfig(merger="random", selector="random", random_seed=7)
    assert config.merger == RandomMergeOptions(random_seed=7) and config.selector == RandomOptions(random_seed=7)
    apart: dict[str, Any] = {"merger.random_seed": 1, "selector.random_seed": 2}
    config = PruneVidConfig(merger="random", selector="random", **apart)
    assert (config.merger.random_seed, config.selector.random_seed) == (1, 2)
    assert PruneVidConfig.from_dict(config.flat()) == config == PruneVidConfig.from_dict(config.to_dict())


@pytest.mark.parametrize(("options", "has"), [
    ({"selector": "fastv", "attention_source": "pre_rope"}, ["keep_ratio", "layers"]),
    ({"selector": "uniform", "keep_threshold": 0.5}, ["keep_ratio", "layers"]),
    ({"merger": "rlt", "cluster_ratio": 0.5}, ["tau", "temporal_segment_ratio"]),
    ({"random_seed": 0}, ["keep_ratio"]),
    ({"selector": "fastv", "selector.tau": 0.5}, ["keep_ratio", "layers"]),
], ids=str)  # fmt: skip
def test_what_a_method_lacks_is_refused_with_what_it_has(options: dict[str, Any], has: list[str]) -> None:
    with pytest.raises(UnknownOption) as refused:
        PruneVidConfig(**options)
    name = list(options)[-1].rpartition(".")[2]
    assert isinstance(refused.value, TypeError) and name in str(refused.value)
    assert all(each in str(refused.value) for each in has)


@pytest.mark.parametrize("options", [
    {"merger": None, "tau": 0.5}, {"enable_stage1": False, "tau": 0.5}, {"enable_stage1": False, "merger.tau": 0.5},
    {"merger": None, "random_seed": 3},
], ids=str)  # fmt: skip
def test_options_of_a_stage_that_is_off_are_accepted(options: dict[str, Any]) -> None:
    assert PruneVidConfig(**options) == PruneVidConfig(merger=None)


@pytest.mark.parametrize("options", [
    {"enable_stage1": False, "tau": 80}, {"merger": None, "enable_stage1": True}, {"merger": 3}, {"reading": {}},
    {"merger": FastVOptions()}, {"keep_ratio": 0.2, "selector.keep_ratio": 0.2}, {"pruning_layer": 3, "layers": 4},
    {"compress_cache": True, "enable_cache_compression": False}, {"selectr.keep_ratio": 0.2},
    {"selector": "fastv", "layers": (1, 2)}, {"layers": 0}, {"layers": 1.0}, {"layers": ()}, {"layers": (None,)},
    {"enable_stage2": False, "selector.kep_ratio": 0.2}, {"selector": "pyramiddrop", "layers": (9, 5, 12)},
    {"selector": "pyramiddrop", "layers": (0.2, 0.2, 0.5)},
], ids=str)  # fmt: skip
def test_contradictions_and_wrong_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PruneVidConfig(**options)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_copied_and_sent(name: str) -> None:
    config = get_config(name)
    assert pickle.loads(pickle.dumps(config)) == dataclasses.replace(config) == config.replace() == config
    with pytest.raises(AttributeError):
        _ = config.keep_ration


@pytest.mark.parametrize(("part", "name"), OPTIONS)
def test_every_method_is_made_by_its_options(part: str, name: str) -> None:
    stage = option_classes.STAGES[part]
    own = option_classes.options_class(part, name)()
    assert option_classes.name_of(part, own) == name
    assert isinstance(made_by(own, stage), reducer_class(name, stage))


# ---- another method


def test_another_method_starts_with_its_own_defaults_and_what_was_set() -> None:
    assert PruneVidConfig().replace(selector="fastv").selector == FastVOptions()
    assert get_aggressive_config().replace(selector="fastv").selector == FastVOptions(keep_ratio=0.2)
    set_by_hand = PruneVidConfig(pruning_layer=3, attention_source="pre_rope")
    assert set_by_hand.replace(selector="dpp").selector == DPPOptions(attention_source="pre_rope", layers=(4,))
    assert set_by_hand.replace(selector="uniform").selector == UniformOptions(layers=(4,))
    assert set_by_hand.replace(selector="fastv", pruning_layer=None).selector == FastVOptions(layers=None)
    assert set_by_hand.replace(selector="prunevid") == set_by_hand
    assert PruneVidConfig(tau=0.7).replace(merger="rlt").merger == RLTOptions(tau=0.7)


def test_a_stage_is_turned_off_and_on() -> None:
    off = PruneVidConfig(keep_ratio=0.2).replace(enable_stage2=False)
    assert off.selector is None and off.selector_name is None
    assert off.replace(enable_stage2=True).selector == PruneVidOptions()
    assert off.replace(selector="fastv").selector == FastVOptions()
    assert off.replace(selector="fastv", enable_stage2=False) == off


# ---- budgets by count

COUNTED = [
    (part, name) for part, name in OPTIONS
    if "keep_tokens" in option_classes.names_in(option_classes.options_class(part, name)) and name != "glimpse"
]  # fmt: skip


def counted(part: str, name: str, keep_tokens: int) -> Any:
    own = option_classes.options_class(part, name)
    exact = dict(says(own(), option_classes.STAGES[part]).lever_needs)
    if "recycle" in option_classes.names_in(own):  # what is recycled comes back in groups
        exact["recycle"] = 0.0
    return made_by(own(keep_tokens=keep_tokens, **exact), option_classes.STAGES[part])


@pytest.mark.parametrize(("part", "name"), COUNTED)
@pytest.mark.parametrize("keep_tokens", [1, 5, 8, 1000])
def test_a_count_is_kept_of_each_video_and_image(part: str, name: str, keep_tokens: int) -> None:
    reducer, seen = counted(part, name, keep_tokens), evidence("two videos")
    left, _ = seen.layout.apply(reducer.plan(only_what_it_asks_for(reducer, seen)))
    blocks = seen.layout.blocks
    least = [block.grid[1] * block.grid[2] if name == "evs" else 1 for block in blocks]  # its first frame is never cut
    wanted = [min(max(keep_tokens, few), block.stop - block.start) for few, block in zip(least, blocks, strict=True)]
    assert [block.stop - block.start for block in left.blocks] == wanted


def test_every_method_that_can_hold_a_count_holds_one() -> None:
    by_content = {"prunevid", "rlt", "dycoke", "fastvid", "flashvid", "holitom", "vidcom2"}
    assert set(OPTIONS) - set(COUNTED) == {*(("merger", name) for name in by_content), ("selector", "glimpse")}
    assert "keep_tokens" in option_classes.names_in(
        option_classes.options_class("selector", "glimpse")
    )  # as the oracle: one budget


@pytest.mark.parametrize("options", [
    {"keep_ratio": 0.2, "keep_tokens": 9}, {"keep_ratio": 0.4, "keep_tokens": 9}, {"keep_tokens": 0},
    {"keep_tokens": 2.5}, {"keep_tokens": 9, "selection_scope": "per_group"}, {"selector": "glimpse", "keep_tokens": 9},
    {"merger": "uniform", "selector": "uniform", "keep_tokens": 9}, {"merger.keep_tokens": 9},
    {"merger": "pool", "cluster_ratio": 0.5, "merger.keep_tokens": 9},
], ids=str)  # fmt: skip
def test_two_budgets_and_counts_that_nobody_keeps_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PruneVidConfig(**options)


def test_two_budgets_are_refused_by_the_options_themselves() -> None:
    for made in (
        lambda: FastVOptions(keep_ratio=0.2, keep_tokens=9),
        lambda: UniformMergeOptions(cluster_ratio=0.2, keep_tokens=9),
        lambda: PruneVidConfig().replace(keep_ratio=0.2, keep_tokens=9),
    ):
        with pytest.raises(ConfigError, match="two budgets"):
            made()


def test_one_budget_replaces_the_other() -> None:
    share = get_aggressive_config()
    count = share.replace(keep_tokens=192)
    assert (count.selector.keep_ratio, count.selector.keep_tokens) == (0.4, 192)
    assert count.replace(keep_ratio=0.2) == share and count.fixed_keep_ratio is None
    assert count.replace(selector="fastv").selector == FastVOptions(keep_tokens=192)
    assert count.replace(selector="fastv", keep_ratio=0.3).selector == FastVOptions(keep_ratio=0.3)
    fixed = PruneVidConfig(selector="glimpse").replace(keep_threshold=None, keep_ratio=0.25)  # each needs the other
    assert (fixed.selector.keep_threshold, fixed.selector.keep_ratio) == (None, 0.25)
    for again in (PruneVidConfig.from_dict(count.flat()), PruneVidConfig.from_json(count.to_json())):
        assert again == count
    assert "selector.keep_tokens" not in share.flat() and count.flat()["selector.keep_tokens"] == 192


@pytest.mark.parametrize(("config", "stage", "sizes"), [
    (PruneVidConfig(enable_stage1=False, keep_tokens=20), 2, (96, 20)),
    (PruneVidConfig(enable_stage1=False, keep_tokens=200), 2, (96, 96)),
    (PruneVidConfig(merger=UniformMergeOptions(keep_tokens=20), selector=None), 1, (20, 20)),
    (PruneVidConfig(merger=UniformMergeOptions(keep_tokens=200), selector=None), 1, (96, 96)),
], ids=str)  # fmt: skip
def test_receipts_say_the_count(config: PruneVidConfig, stage: int, sizes: tuple[int, int]) -> None:
    merged, kept = (None if size == 96 else size for size in sizes)
    stats = told(config, (BIKES,), merged, None if config.selector is None else kept)
    one = stats[f"stage{stage}"]
    assert one["requested_ratio"] is None and one["requested_tokens"] in (20, 200)
    assert one["applied"] == (min(sizes) < 96) and bool(one["note"]) != one["applied"]
    assert config.merger is not None or not applied(stats)[0]
    if one["applied"]:
        with pytest.raises(PruningNotApplied, match="20"):
            told(config, (BIKES,))
