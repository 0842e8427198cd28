"""What every registered reducer promises: `check_reducer` over all of them, and what it says of those that do not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage registers its reducers
from prunevid_qwen import Evidence, Mix, Needs, TokenMap, check_reducer
from prunevid_qwen.config import FastVOptions, PruneVidConfig
from prunevid_qwen.config.option_classes import names_in, options_class
from prunevid_qwen.contract import LAYOUTS as LAYOUTS
from prunevid_qwen.contract import evidence as evidence
from prunevid_qwen.contract import only_what_it_asks_for as only_what_it_asks_for
from prunevid_qwen.contract import variants_of
from prunevid_qwen.contract.promises import check_plan as check_decision
from prunevid_qwen.errors import ConfigError, ContractBroken
from prunevid_qwen.needs import AttentionQuery, VisionQuery
from prunevid_qwen.reducer import Reducer, made_by, reducer_class, registered
from prunevid_qwen.stage1_merge import RLT, Pool
from prunevid_qwen.stage2_select import FastV, Uniform

SELECTORS = registered(stage=2)
REDUCERS = [(stage, name) for stage in (1, 2) for name in registered(stage)]


def build(name: str, options: dict[str, Any], stage: int = 2) -> Reducer:
    part = {1: "merger", 2: "selector"}[stage]
    if "keep_threshold" in names_in(options_class(part, name)) and options.get("keep_threshold", 0.5) is not None:
        share = options.get("keep_ratio", 1.0)  # under a threshold, the most that it may keep
        options = options if share == 1 else {**options, "keep_ratio": 0.4, "max_keep_ratio": share}
    own = PruneVidConfig.from_record({**options, part: name})  # whatever of the options it has
    return made_by(getattr(own, part), stage)


@pytest.mark.parametrize(("stage", "name"), REDUCERS)
def test_contract(stage: int, name: str) -> None:
    check_reducer(reducer_class(name, stage))


@pytest.mark.parametrize(("part", "name", "variants"), [
    ("merger", "prunevid", {"per group", "little", "whole video", "mean place", "first place"}),
    ("merger", "rlt", set()), ("merger", "pool", {"per group", "little", "whole video", "a count"}),
    ("selector", "prunevid", {"per group", "little", "fixed share", "a count"}),
    ("selector", "fastv", {"little", "fixed share", "a count"}),
    ("selector", "glimpse", {"each image", "little above the threshold", "fixed share", "a count"}),
])  # fmt: skip
def test_the_options_that_methods_share_are_varied(part: str, name: str, variants: set[str]) -> None:
    assert variants_of(options_class(part, name)()).keys() >= {"as given", *variants}


def test_the_day_one_reducers_are_registered() -> None:
    assert {"pool", "prunevid", "random", "rlt", "uniform"} <= set(registered(stage=1))
    day_one = {"prunevid", "dpp", "fastv", "glimpse", "oracle", "random", "uniform"}
    assert day_one | {"pyramiddrop", "sparsevlm"} <= set(SELECTORS)
    assert {"prunevid", "dpp", "fastv", "glimpse", "oracle", "random", "uniform"} | {"pyramiddrop", "sparsevlm"} == set(
        SELECTORS
    )


def test_unknown_selectors_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no selector is called 'fast_v'\. Did you mean 'fastv'\? Known: "):
        reducer_class("fast_v")
    known = ", ".join(registered(stage=1))
    with pytest.raises(ConfigError, match=rf"no merger is called 'pol'\. Did you mean 'pool'\? Known: {known}"):
        reducer_class("pol", stage=1)


# ---- what breaks a promise


@dataclass(frozen=True)
class Half:
    """Keeps every other token, as every promise wants it."""

    keep_ratio: float = 0.5
    layers: tuple[int, ...] | None = None
    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        n = seen.layout.visual.numel()
        return TokenMap.identity(n, seen.hidden.device) if self.keep_ratio == 1 else self.cut(seen, n)

    def cut(self, seen: Evidence, n: int) -> TokenMap:
        kept = [
            torch.arange(block.start, block.stop)[: max(1, int((block.stop - block.start) * self.keep_ratio))]
            for block in seen.layout.blocks
        ]
        return TokenMap.keep(torch.cat(kept), n)


class ReturnsPlaces(Half):
    def cut(self, seen: Evidence, n: int) -> Any:
        return torch.arange(n)


class TakesTurns(Half):
    drawn: list[int] = []  # noqa: RUF012  what it remembers is the fault

    def cut(self, seen: Evidence, n: int) -> TokenMap:
        self.drawn.append(0)
        return Half(0.2 if len(self.drawn) % 2 else 0.4).cut(seen, n)


class Overwrites(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        seen.hidden.mul_(2)
        return super().cut(seen, n)


class ForgetsVideos(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        return TokenMap.keep(torch.arange(max(1, n // 2)), n)


class KeepsTooMuch(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        return Half(0.9).cut(seen, n)


class MergesVideos(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        return TokenMap(torch.zeros(n, dtype=torch.long), torch.zeros(1, dtype=torch.long))


class MapsAFew(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        return TokenMap.keep(torch.arange(1), 1)


class NeedsTwoTokens(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        score = seen.hidden[:, 0]
        kept = [block.start + score[block.start : block.stop].topk(2).indices for block in seen.layout.blocks]
        return TokenMap.keep(torch.cat(kept), n)


class CutsAnyhow(Half):
    def plan(self, seen: Evidence) -> TokenMap:
        return Half(min(0.5, self.keep_ratio)).plan(seen)


class ReadsWhatItDoesNotAskFor(Half):
    def cut(self, seen: Evidence, n: int) -> TokenMap:
        assert seen.attention is not None
        return super().cut(seen, n)


class WeighsByChance(Half):
    merges = True

    def cut(self, seen: Evidence, n: int) -> TokenMap:
        step = super().cut(seen, n)
        weight = torch.rand(step.n_out, generator=torch.Generator().manual_seed(len(TakesTurns.drawn)))
        TakesTurns.drawn.append(0)
        return TokenMap(step.target, step.rep, mix=Mix(step.rep, torch.arange(step.n_out), weight))


@dataclass(frozen=True)
class ActsBeforeAWord(Half):
    layers: Any = "2"


@dataclass(frozen=True)
class ActsTwiceAndDoesNotSaySo(Half):
    layers: Any = (2, 4)


class NeedsIsAWord(Half):
    needs: Any = "attention"


BROKEN: dict[type[Half], str] = {
    ReturnsPlaces: "a map",
    MapsAFew: "a map",
    TakesTurns: "the same",
    Overwrites: "untouched",
    ForgetsVideos: "one of each",
    MergesVideos: "drops only",
    KeepsTooMuch: "budget",
    NeedsTwoTokens: "decides",
    ReadsWhatItDoesNotAskFor: "decides",
    CutsAnyhow: "everything",
    NeedsIsAWord: "a reducer",
    WeighsByChance: "the same",
    ActsBeforeAWord: "places",
    ActsTwiceAndDoesNotSaySo: "places",
}


def test_what_keeps_the_contract_passes_as_class_and_as_reducer() -> None:
    for what in (Half, Half(0.3), FastV, FastVOptions, FastVOptions(keep_ratio=0.2), FastV(0.2), Uniform(0.7)):
        check_reducer(what)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_breaks_it_is_told_so(broken: type[Half]) -> None:
    with pytest.raises(ContractBroken) as said:
        check_reducer(broken)
    assert broken.__name__ in str(said.value)
    assert said.value.promise == BROKEN[broken]
    assert isinstance(said.value, AssertionError)


def test_a_budget_may_be_refused_but_not_the_one_that_was_given() -> None:
    class Refuses(Half):
        def cut(self, seen: Evidence, n: int) -> TokenMap:
            if self.keep_ratio < 0.3:
                raise ConfigError("too little")
            return super().cut(seen, n)

    check_reducer(Refuses(0.4))
    with pytest.raises(ContractBroken) as said:
        check_reducer(Refuses(0.2))
    assert said.value.promise == "decides"


def test_a_merger_keeps_videos_apart_and_gives_its_reasons() -> None:
    class Joins(Pool):
        def plan(self, seen: Evidence) -> TokenMap:
            n = seen.layout.visual.numel()
            return TokenMap(torch.zeros(n, dtype=torch.long), torch.zeros(1, dtype=torch.long))

    class Idles(Pool):
        def plan(self, seen: Evidence) -> TokenMap:
            return TokenMap.identity(seen.layout.visual.numel(), seen.hidden.device)

    class Silent(RLT):
        def why_unchanged(self, blocks: Any) -> str | None:
            return None

    for broken, promise in ((Joins(), "apart"), (Idles(), "budget"), (Silent(), "reason")):
        with pytest.raises(ContractBroken) as said:
            check_decision(broken, broken, evidence("two videos" if promise == "apart" else "one video"), 1)
        assert said.value.promise == promise


def test_a_merging_selector_has_to_declare_it() -> None:
    class Averages(Half):
        def cut(self, seen: Evidence, n: int) -> TokenMap:
            maps = [
                TokenMap(torch.zeros(block.stop - block.start, dtype=torch.long), torch.zeros(1, dtype=torch.long))
                for block in seen.layout.blocks
            ]
            return TokenMap.concat(maps)

    with pytest.raises(ContractBroken) as said:
        check_reducer(Averages)
    assert said.value.promise == "drops only"
    Averages.merges = True  # type: ignore[attr-defined]
    check_reducer(Averages)


def test_a_class_that_is_not_made_without_arguments_is_refused() -> None:
    class Wants:
        needs = Needs()

        def __init__(self, share: float) -> None:
            self.share = share

        def plan(self, seen: Evidence) -> TokenMap:
            return Half(self.share).plan(seen)

    check_reducer(Wants(0.4))
    with pytest.raises(ConfigError, match="share"):
        check_reducer(Wants)


def test_a_method_is_shown_what_it_asks_for_and_nothing_else() -> None:
    shown: list[Evidence] = []

    class Looks(Half):
        needs = Needs(
            AttentionQuery(rows="each"), question="last", keys=True, marks=True,
            vision=VisionQuery((3, 5), width=8, what=("states", "cls")),
        )  # fmt: skip

        def prepare(self, seen: Evidence) -> int:
            assert seen.attention is None and seen.keys is None
            return 7

        def plan(self, seen: Evidence) -> TokenMap:
            shown.append(seen)
            return super().plan(seen)

    check_reducer(Looks())
    for seen in shown:
        n = seen.layout.visual.numel()
        assert seen.attention is not None and seen.attention.shape[1:] == (n,) and seen.question.shape == (1, 16)
        assert seen.vision is not None
        assert (seen.vision["states"].shape, seen.vision["cls"].shape) == ((2, n, 8), (2, n))
        assert seen.keys is not None and seen.keys.shape[1] == n and seen.note == 7 and seen.probe is None
        assert seen.marks is not None and seen.layer == 10


UNKNOWN = dataclasses.make_dataclass("Unknown", [])()


@pytest.mark.parametrize("what", [3, "fastv", UNKNOWN, PruneVidConfig, torch.nn.ReLU])
def test_what_is_no_method_is_refused(what: Any) -> None:
    with pytest.raises(ConfigError):
        check_reducer(what)
