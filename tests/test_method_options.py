"""Options of a method's own: to whom names belong, other methods and off stages, other people's methods, plug-ins."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from prunevid_qwen import check_reducer
from prunevid_qwen.cli import answer as answering
from prunevid_qwen.cli import main
from prunevid_qwen.config import PRESETS, PruneVidConfig, get_aggressive_config, get_config, table
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
from prunevid_qwen.config.reading import Reading
from prunevid_qwen.config.typed import typed_values
from prunevid_qwen.errors import ConfigError, PruningNotApplied, SetupError, UnknownOption
from prunevid_qwen.evaluation.shapes.methods import Method, uses_chance
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.reducer import (
    _REDUCERS,
    AttentionQuery,
    Evidence,
    Needs,
    decided_by,
    made_by,
    reducer_class,
    register,
    says,
)
from prunevid_qwen.tokens import TokenMap
from tests.test_receipt import BIKES, applied, told
from tests.test_reducer_contract import evidence, only_what_it_asks_for

PACKAGE = Path(table.__file__).parents[1]
OPTIONS = [(part, name) for part in ("merger", "selector") for name in table._CLASSES[part]]


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
    stage = table.STAGES[part]
    own = table.options_class(part, name)()
    assert table.name_of(part, own) == name
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
    if "keep_tokens" in table.names_in(table.options_class(part, name)) and name != "glimpse"
]  # fmt: skip


def counted(part: str, name: str, keep_tokens: int) -> Any:
    own = table.options_class(part, name)
    exact = dict(says(own(), table.STAGES[part]).lever_needs)
    if "recycle" in table.names_in(own):  # what is recycled comes back in groups
        exact["recycle"] = 0.0
    return made_by(own(keep_tokens=keep_tokens, **exact), table.STAGES[part])


@pytest.mark.parametrize(("part", "name"), COUNTED)
@pytest.mark.parametrize("keep_tokens", [1, 5, 8, 1000])
def test_a_count_is_kept_of_each_video_and_image(part: str, name: str, keep_tokens: int) -> None:
    reducer, seen = counted(part, name, keep_tokens), evidence("two videos")
    left, _ = seen.layout.apply(reducer.plan(only_what_it_asks_for(reducer, seen)))
    sizes = [block.stop - block.start for block in seen.layout.blocks]
    assert [block.stop - block.start for block in left.blocks] == [min(keep_tokens, size) for size in sizes]


def test_every_method_that_can_hold_a_count_holds_one() -> None:
    assert set(OPTIONS) - set(COUNTED) == {("merger", "prunevid"), ("merger", "rlt"), ("selector", "glimpse")}
    assert "keep_tokens" in table.names_in(table.options_class("selector", "glimpse"))  # as the oracle: one budget


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


# ---- what a method says of itself


def test_methods_say_what_spends_their_budget() -> None:
    said = {(part, name): says(table.options_class(part, name)(), table.STAGES[part]) for part, name in OPTIONS}
    assert {key: each.lever for key, each in said.items() if key[0] == "selector"} == {
        key: "keep_ratio" for key in said if key[0] == "selector"
    }
    assert {name: said[part, name].lever for part, name in OPTIONS if part == "merger"} == {
        "prunevid": "cluster_ratio", "rlt": "tau", "pool": "cluster_ratio", "uniform": "cluster_ratio",
        "random": "cluster_ratio",
    }  # fmt: skip
    assert {key for key, each in said.items() if each.chance} == {("merger", "random"), ("selector", "random")}
    assert {key for key, each in said.items() if each.told} == {("selector", "oracle")}
    assert {key[1] for key, each in said.items() if each.lever_needs} == {"glimpse", "oracle"}
    assert {key[1] for key, each in said.items() if each.exact and key[0] == "merger"} == {"pool", "uniform", "random"}
    assert says(None, 1).lever is None and not says(None, 1).chance


def test_levers_follow_the_methods() -> None:
    for options, levers in (
        ({}, ("keep_ratio", "cluster_ratio")), ({"merger": "rlt", "enable_stage2": False}, ("tau",)),
        ({"enable_stage1": False, "enable_stage2": False}, ()), ({"merger": "uniform", "selector": "fastv"},
        ("keep_ratio", "cluster_ratio")),
    ):  # fmt: skip
        assert Method("it", options).moved_levers(PruneVidConfig().replace(**options)) == levers


def test_a_reducer_may_say_it_too(registry: None) -> None:
    class Says(Every):
        lever = "step"
        chance = True

    register("every", EveryOptions)(Says)
    config = PruneVidConfig(selector="every")
    assert says(config.selector).lever == "step" and uses_chance(config)
    assert Method("every", {"selector": "every", "enable_stage1": False}).moved_levers(config.replace(merger=None)) == (
        "step",
    )


def test_nobody_asks_a_config_for_the_name_of_a_method() -> None:
    """A name is only shown. What differs between methods they say themselves, see `MethodOptions`."""
    asks = re.compile(r"(merger|selector)(_name)?\s*(==|!=|in|not in)\s*[\"'(\[{]")
    own = ("config", "stage1_merge", "stage2_select")
    asking = {
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in own
        for line in path.read_text(encoding="utf-8").splitlines()
        if asks.search(line)
    }
    assert asking == set()


# ---- other people's


@dataclass(frozen=True)
class EveryOptions:
    step: int = 2
    offset: int = 0
    layers: int | None = None


@dataclass(frozen=True)
class Every:
    """Keeps every so-manieth token."""

    options: EveryOptions

    @property
    def needs(self) -> Needs:
        return Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        n = seen.layout.visual.numel()
        return TokenMap.keep(torch.arange(self.options.offset, n, self.options.step), n)


def test_somebodys_method_has_options_of_its_own(registry: None) -> None:
    register("every", EveryOptions)(Every)
    config = PruneVidConfig(selector="every", step=3, layers=2)
    assert config.selector == EveryOptions(step=3, layers=2)
    assert PruneVidConfig.from_json(config.to_json()) == PruneVidConfig.from_dict(config.flat()) == config
    plan = compile_plan(config, 6)
    (cut,) = plan.cuts
    assert cut.by == Every(EveryOptions(step=3, layers=2)) and cut.at == 1
    with pytest.raises(UnknownOption, match="step, offset, layers"):
        PruneVidConfig(selector="every", keep_ratio=0.3)
    with pytest.raises(UnknownOption, match="did you mean 'offset'"):
        PruneVidConfig(selector="every", ofset=1)


def test_a_name_that_two_methods_have_needs_its_full_name(registry: None) -> None:
    register("every", EveryOptions)(Every)
    other = dataclasses.make_dataclass("Other", [("step", int, 5)], frozen=True)
    register("other", other, stage=1)(Every)
    with pytest.raises(ConfigError, match=r"merger\.step and selector\.step"):
        PruneVidConfig(merger="other", selector="every", step=3)
    full: dict[str, Any] = {"selector.step": 3}
    config = PruneVidConfig(merger="other", selector="every", **full)
    assert (config.merger.step, config.selector.step) == (5, 3)


def test_what_cannot_be_options_is_refused(registry: None) -> None:
    register("every", EveryOptions)(Every)
    needs_a_value = dataclasses.make_dataclass("NeedsAValue", [("step", int)], frozen=True)
    thawed = dataclasses.make_dataclass("Thawed", [("step", int, 1)])
    for name, options in (
        ("every", EveryOptions), ("again", EveryOptions), ("mine", int), ("mine", needs_a_value), ("mine", thawed),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            register(name, options)(Every)
        assert name == "every" or (2, name) not in _REDUCERS


@pytest.mark.parametrize("wrong", [{"name": Every}, {"name": ""}, {"name": "mine", "stage": 3}])
def test_what_register_does_not_take_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        register(**wrong, options=EveryOptions)


def test_a_method_written_for_the_flat_config_works_with_one_warning(registry: None) -> None:
    """The four steps of CONTRIBUTING as of 3a0e2fd: a frozen dataclass, `register`, `from_config`, `needs`, `plan`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")

        @register("last_asks")
        @dataclass(frozen=True)
        class LastAsks:
            """Keeps what the last token attends to, after the layer it was made for."""

            keep_ratio: float = 0.5
            tau: float = 0.0

            @classmethod
            def from_config(cls, config: PruneVidConfig) -> LastAsks:
                return cls(config.keep_ratio, config.tau)

            @property
            def needs(self) -> Needs:
                return Needs(AttentionQuery(rows="last"), layer=3)

            def plan(self, seen: Evidence) -> TokenMap:
                assert seen.attention is not None
                best = seen.attention.argsort(descending=True, stable=True)
                return TokenMap.keep(best[: max(1, int(len(best) * self.keep_ratio))], len(best))

        config = PruneVidConfig(selector="last_asks", keep_ratio=0.3, tau=0.7, attention_source="pre_rope")
        plan = compile_plan(config, 6)
    assert [warning.category for warning in said] == [FutureWarning]
    (cut,) = plan.cuts
    assert cut.by == LastAsks(0.3, 0.7) and cut.at == 3
    assert PruneVidConfig.from_dict({"selector": "last_asks", "keep_ratio": 0.3}).keep_ratio == 0.3
    assert PruneVidConfig.from_json(config.to_json()) == PruneVidConfig.from_dict(config.flat()) == config


def test_a_method_written_for_the_flat_config_is_held_to_its_share(registry: None) -> None:
    with pytest.warns(FutureWarning):

        @register("firsts")
        @dataclass(frozen=True)
        class Firsts:
            keep_ratio: float = 0.5
            needs = Needs()

            @classmethod
            def from_config(cls, config: PruneVidConfig) -> Firsts:
                return cls(config.keep_ratio)

            def plan(self, seen: Evidence) -> TokenMap:
                sizes = [(block.start, block.stop - block.start) for block in seen.layout.blocks]
                kept = [torch.arange(at, at + max(1, int(size * self.keep_ratio))) for at, size in sizes]
                return TokenMap.keep(torch.cat(kept), seen.layout.visual.numel())

    config = PruneVidConfig(enable_stage1=False, selector="firsts", keep_ratio=0.25)
    assert config.fixed_keep_ratio == 0.25
    stage = told(config, (BIKES,), None, 24)["stage2"]
    assert (stage["requested_ratio"], stage["threshold"]) == (0.25, None)
    with pytest.raises(PruningNotApplied):
        told(config, (BIKES,))
    check_reducer(Firsts)


# ---- the command line

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
FILE = """
from dataclasses import dataclass

from prunevid_qwen import TokenMap
from prunevid_qwen.reducer import Needs, register


@dataclass(frozen=True)
class FirstOptions:
    count: int = 4
    note: str | None = None
    layers: tuple[int, ...] | None = (1,)


@register("first", FirstOptions)
@dataclass(frozen=True)
class First(FirstOptions):
    @property
    def needs(self) -> Needs:
        return Needs()

    def plan(self, seen):
        n = seen.layout.visual.numel()
        return TokenMap.keep(seen.layout.visual.new_tensor(range(min(n, self.count))), n)
"""


def configs_of(monkeypatch: pytest.MonkeyPatch) -> list[PruneVidConfig]:
    """Let the command line load nothing; the list holds the configs that it would answer under."""
    seen: list[PruneVidConfig] = []

    def load(request: Any) -> Any:
        seen.append(request.config)
        raise SetupError("no model here")

    monkeypatch.setattr(answering, "load", load)
    return seen


@pytest.mark.parametrize(("words", "config"), [
    (["--selector", "fastv", "--selector.layers", "3"], PruneVidConfig(selector=FastVOptions(layers=(3,)))),
    (["--selector.keep-ratio=0.3", "--merger.merge_images", "true"], PruneVidConfig(keep_ratio=0.3, merge_images=True)),
    (["--merger.static_cluster_ratio", "none", "--reading.fps", "3"], PruneVidConfig(fps=3.0)),
    (["--selector.layers", "0.25"], PruneVidConfig(pruning_layer=0.25)),
], ids=str)  # fmt: skip
def test_full_names_on_the_command_line(
    words: list[str], config: PruneVidConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = configs_of(monkeypatch)
    assert main(["demo", *words]) == 3
    assert seen == [config]


@pytest.mark.parametrize("words", [
    ["--selector.tau", "0.5"], ["--selector.layers", "x"], ["--selector.layers"], ["--merger.tau", "80"],
    ["--keep_ratio", "0.2", "--selector.keep_ratio", "0.3"], ["--selectr.keep_ratio", "0.2"],
    ["--selector", "uniform", "--attention_source", "pre_rope"], ["--selector.layers", "1,2"],
    ["--plugin", "no_such_file.py"], ["--plugin", "no_such_module_of_anybody"],
], ids=str)  # fmt: skip
def test_wrong_full_names_and_plugins_are_bad_options(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert configs_of(monkeypatch) == [] and main(["demo", *words]) == 2


@pytest.mark.parametrize(("option", "full"), [
    ("--keep_tokens", "--selector.keep_tokens"), ("--retained-tokens", "--selector.retained_tokens"),
    ("--time_limit", "--reading.time_limit"),
])  # fmt: skip
def test_an_option_without_a_short_name_is_offered_in_full(
    option: str, full: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", option, "3"]) == 2
    assert full in capsys.readouterr().err
    assert main(["bench", "speed", option, "3"]) == 2  # which takes no full names
    assert full not in capsys.readouterr().err


def test_a_plugin_in_a_file(registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, path = configs_of(monkeypatch), tmp_path / "mine.py"
    path.write_text(FILE)
    words = ["--selector", "first", "--selector.count", "7", "--selector.note", "x", "--selector.layers", "2"]
    assert main(["demo", *words]) == 2  # nobody has registered it yet
    assert main(["demo", "--plugin", str(path), *words]) == 3
    (config,) = seen
    assert (config.selector.count, config.selector.note, config.selector.layers) == (7, "x", (2,))
    assert [cut.at for cut in compile_plan(config, 6).cuts] == [1]


@dataclass(frozen=True)
class KindsOptions:
    mode: Literal["near", "far", 3] = "near"
    some: list[int] | None = None
    shares: tuple[float, ...] = ()
    layers: int | None = None


@pytest.mark.parametrize(("name", "text", "value"), [
    ("mode", "far", "far"), ("mode", "3", 3), ("some", "4,5", [4, 5]), ("some", "none", None),
    ("shares", "0.5", (0.5,)),
])  # fmt: skip
def test_texts_become_what_an_option_of_somebodys_method_is(registry: None, name: str, text: str, value: Any) -> None:
    register("kinds", KindsOptions)(Every)
    base = PruneVidConfig(selector=KindsOptions())
    assert typed_values(base, {f"selector.{name}": text}) == {f"selector.{name}": value}
    with pytest.raises(ConfigError, match=name):
        typed_values(base, {f"selector.{name}": "elsewhere"})


def test_the_method_of_contributing_is_a_plugin(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, path = configs_of(monkeypatch), tmp_path / "mine.py"
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    path.write_text(code)
    assert main(["demo", "--plugin", str(path), "--selector", "every", "--selector.step", "3"]) == 3
    (cut,) = compile_plan(seen[0], 6).cuts
    assert cut.at == 2
    assert cut.by.plan(evidence("one video")).rep.tolist() == list(range(0, 96, 3))


def test_the_plugin_of_a_newcomer_answers_from_the_command_line(
    registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file written with the wheel and CONTRIBUTING alone, by somebody who had not seen the code."""
    path = Path(__file__).parent / "plugins" / "late.py"
    words = ["--plugin", str(path), "--selector", "late", "--selector.lateness", "3", "--keep_ratio", "0.5", "--json"]
    assert main(["demo", *words, "--max_new_tokens", "1"]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    last = stats["steps"][-1]
    assert (last["name"], last["where"]) == ("late", "layer 1")
    assert last["tokens_out"] == int(last["tokens_in"] * 0.5) and stats["config"]["selector.lateness"] == 3
    late = reducer_class("late")
    check_reducer(late)
    times = [int(kept.sum()) for kept in (late_tokens(late, 0.0), late_tokens(late, 50.0))]
    assert times[0] < times[1]


def late_tokens(late: Any, lateness: float) -> torch.Tensor:
    """The temporal positions of what is kept of one video."""
    method = late(lateness=lateness)
    return method.plan(only_what_it_asks_for(method, evidence("one video"))).rep // 24


@pytest.mark.parametrize(("words", "code"), [
    (["--selector.keep_ratio", "2"], 2), (["--selector.layers", "0"], 2), (["--selector.latenes", "2"], 2),
    (["--selector.lateness", "much"], 2), (["--selector.keep_ratio", "0.2"], 3),
], ids=str)  # fmt: skip
def test_options_of_a_plugin_are_checked_like_others(
    registry: None, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    seen = configs_of(monkeypatch)
    path = Path(__file__).parent / "plugins" / "late.py"
    assert main(["demo", "--plugin", str(path), "--selector", "late", *words]) == code
    assert len(seen) == (code == 3)


def test_a_class_that_is_no_reducer_is_told_so(registry: None) -> None:
    cls = type("NoNeeds", (), {"__init__": noted})
    register("no_needs", dataclasses.make_dataclass("ItsOptions", [], frozen=True))(cls)
    with pytest.raises(ConfigError, match="no_needs"):
        compile_plan(PruneVidConfig(selector="no_needs"), 6)
    with pytest.raises(ConfigError, match="Tensor"):
        decided_by(type("Returns", (), {"plan": lambda self, seen: torch.arange(3)})(), evidence("one video"))  # type: ignore[arg-type]


def noted(self: Any, options: Any) -> None:
    self.options = options


def test_a_plugin_that_fails_is_the_environments_fault(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_module_of_anybody")
    assert main(["demo", "--plugin", str(path)]) == 3


def test_an_installed_package_announces_its_methods(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "announced_first.py").write_text(FILE)
    about = tmp_path / "announced_first-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: announced-first\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[prunevid.methods]\nfirst = announced_first\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert PruneVidConfig(selector="first", count=3).selector.count == 3
