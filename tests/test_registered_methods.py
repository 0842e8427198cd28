"""What a method says of itself, and methods of other people."""

from __future__ import annotations

import dataclasses
import re
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from prunevid_qwen import check_reducer
from prunevid_qwen.config import PruneVidConfig, option_classes
from prunevid_qwen.errors import ConfigError, PruningNotApplied, UnknownOption
from prunevid_qwen.evaluation.shapes.methods import Method, uses_chance
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.reducer import (
    _REDUCERS,
    AttentionQuery,
    Evidence,
    Needs,
    register,
    says,
)
from prunevid_qwen.tokens import TokenMap
from tests.test_method_options import OPTIONS, PACKAGE
from tests.test_receipt import BIKES, told

# ---- what a method says of itself


def test_methods_say_what_spends_their_budget() -> None:
    said = {
        (part, name): says(option_classes.options_class(part, name)(), option_classes.STAGES[part])
        for part, name in OPTIONS
    }
    assert {key: each.lever for key, each in said.items() if key[0] == "selector"} == {
        key: "keep_ratio" for key in said if key[0] == "selector"
    }
    of_mergers = {name: said[part, name].lever for part, name in OPTIONS if part == "merger"}
    others = {name: lever for name, lever in of_mergers.items() if lever != "cluster_ratio"}
    assert others == {"rlt": "tau", "dycoke": "frame_keep_ratio"}
    assert {key for key, each in said.items() if each.chance} == {("merger", "random"), ("selector", "random")}
    assert {key for key, each in said.items() if each.told} == {("selector", "oracle")}
    assert {key[1] for key, each in said.items() if each.lever_needs} == {"glimpse", "oracle"}
    assert {"pool", "uniform", "random"} <= {key[1] for key, each in said.items() if each.exact and key[0] == "merger"}
    assert says(None, 1).lever is None and not says(None, 1).chance


def levers_of(method: Method) -> tuple[str, ...]:
    """The options that the benchmark moves to reach a budget."""
    (levers,) = {tuple(setting) for setting in method.settings(next(iter(CONDITIONS.values())))}
    return levers


def test_levers_follow_the_methods() -> None:
    for options, levers in (
        ({}, ("keep_ratio", "cluster_ratio")), ({"merger": "rlt", "enable_stage2": False}, ("tau",)),
        ({"enable_stage1": False, "enable_stage2": False}, ()), ({"merger": "uniform", "selector": "fastv"},
        ("keep_ratio", "cluster_ratio")),
    ):  # fmt: skip
        assert levers_of(Method("it", options)) == levers


def test_a_reducer_may_say_it_too(registry: None) -> None:
    class Says(Every):
        lever = "step"
        chance = True

    register("every", EveryOptions)(Says)
    config = PruneVidConfig(selector="every")
    assert says(config.selector).lever == "step" and uses_chance(config)
    assert levers_of(Method("every", {"selector": "every", "enable_stage1": False})) == ("step",)


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
