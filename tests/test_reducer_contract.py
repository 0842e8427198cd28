"""What every registered reducer promises, over a table of layouts. A new reducer is tested by being registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage registers its reducers
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.table import names_in, options_class
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.reducer import Evidence, Needs, Reducer, made_by, reducer_class, registered
from prunevid_qwen.tokens import Block, TokenLayout

VIDEO, SMALL, IMAGE = ("video", (4, 4, 6)), ("video", (2, 2, 2)), ("image", (1, 4, 5))
ONE_FRAME, ONE_TOKEN, ONE_COLUMN = ("video", (1, 5, 5)), ("video", (1, 1, 1)), ("video", (6, 1, 1))
LAYOUTS: dict[str, tuple[tuple[str, tuple[int, int, int]], ...]] = {
    "one video": (VIDEO,),
    "two videos": (VIDEO, SMALL),
    "an image": (IMAGE,),
    "image between videos": (SMALL, IMAGE, VIDEO),
    "one frame": (ONE_FRAME,),
    "one token": (ONE_TOKEN,),
    "tokens over time": (ONE_COLUMN,),
    "one token beside a video": (VIDEO, ONE_TOKEN),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "per group": {"selection_scope": "per_group", "merge_images": True},
    "little": {"keep_ratio": 0.01, "cluster_ratio": 0.01, "min_cluster_tokens": 0},
    "whole video": {"cluster_scope": "video", "cluster_ratio": 0.2, "min_cluster_tokens": 1, "merge_images": True},
    "mean place": {"merged_position": "mean", "min_cluster_tokens": 3},
    "first place": {"merged_position": "first", "min_cluster_tokens": 3},
    "each image": {"budget_scope": "image"},
    "fixed share": {"keep_threshold": None, "keep_ratio": 0.1},
}
CONTENT: dict[str, Callable[[int, int], torch.Tensor]] = {
    "noise": lambda n, width: torch.randn(n, width, generator=torch.Generator().manual_seed(n)),
    "all equal": lambda n, width: torch.ones(n, width),
}
SELECTORS = registered(stage=2)
REDUCERS = [(stage, name) for stage in (1, 2) for name in registered(stage)]


def evidence(name: str, content: str = "noise") -> Evidence:
    """Each block after two text tokens; three question tokens."""
    blocks, visual, stratum = [], [], []
    start = position = 0
    for i, (kind, (t, h, w)) in enumerate(LAYOUTS[name]):
        size, position = t * h * w, position + 2
        blocks.append(Block(kind, (t, h, w), start, start + size))
        visual += range(position, position + size)
        stratum += [i] * size
        start, position = start + size, position + size
    layout = TokenLayout(
        position + 3,
        torch.tensor(visual),
        torch.arange(position, position + 3),
        tuple(blocks),
        torch.tensor(stratum),
    )
    values = CONTENT[content](start, 16)
    return Evidence(layout, values, CONTENT[content](3, 16), values[:, 0].clone())


def build(name: str, options: dict[str, Any], stage: int = 2) -> Reducer:
    part = {1: "merger", 2: "selector"}[stage]
    if "keep_threshold" in names_in(options_class(part, name)) and options.get("keep_threshold", 0.5) is not None:
        share = options.get("keep_ratio", 1.0)  # under a threshold, the most that it may keep
        options = options if share == 1 else {**options, "keep_ratio": 0.4, "max_keep_ratio": share}
    own = PruneVidConfig.from_record({**options, part: name})  # whatever of the options it has
    reducer = made_by(getattr(own, part), stage)
    assert isinstance(reducer, Reducer)
    assert isinstance(reducer.needs, Needs)
    return reducer


def only_what_it_asks_for(needs: Needs, seen: Evidence) -> Evidence:
    n, numbers = seen.layout.visual.numel(), torch.Generator().manual_seed(7)
    probe, vision = needs.probe, needs.vision
    return Evidence(
        seen.layout,
        seen.hidden,
        seen.question,
        None if needs.attention is None else seen.attention,
        None if probe is None else torch.randn(len(probe.layers), probe.heads, 1, n, generator=numbers),
        None if vision is None else torch.randn(len(vision.blocks), n, vision.width or 8, generator=numbers),
        torch.rand(n, generator=numbers) if needs.marks else None,
    )


def check(reducer: Reducer, seen: Evidence) -> TokenLayout:
    """Plan twice and check everything that is promised; return what is left."""
    assert seen.attention is not None
    before = [x.clone() for x in (seen.hidden, seen.question, seen.attention, seen.layout.stratum, seen.layout.visual)]
    seen = only_what_it_asks_for(reducer.needs, seen)
    step, again = reducer.plan(seen), reducer.plan(seen)
    assert torch.equal(step.target, again.target)
    assert torch.equal(step.rep, again.rep)
    after = (seen.hidden, seen.question, seen.layout.stratum, seen.layout.visual)
    assert all(torch.equal(a, b) for a, b in zip(after, (before[0], before[1], before[3], before[4]), strict=True))
    assert step.n_in == seen.layout.visual.numel()
    assert int(step.target.min()) >= -1
    assert int(step.target.max()) < step.n_out
    assert bool((step.rep.diff() >= 0).all()), "places do not run in sequence order"
    left, whole = seen.layout.apply(step)  # refuses maps across blocks
    together = getattr(getattr(reducer, "budget", None), "scope", "") == "sample"  # as GlimpsePrune's authors count
    assert together or all(block.stop > block.start for block in left.blocks), "a video or image lost its last token"
    assert left.visual.numel() >= 1
    assert left.question.numel() == seen.layout.question.numel()
    assert whole.n_in == seen.layout.length
    for i, block in enumerate(left.blocks):  # one stratum never spans blocks
        inside = left.stratum[block.start : block.stop]
        outside = torch.cat([left.stratum[: block.start], left.stratum[block.stop :]])
        assert not bool(torch.isin(inside, outside).any()), i
    if step.is_selection:
        assert bool((step.rep.diff() > 0).all())
    return left


@pytest.mark.parametrize("content", CONTENT)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("stage", "name"), REDUCERS)
def test_contract(stage: int, name: str, options: str, content: str) -> None:
    for layout in LAYOUTS:
        check(build(name, OPTIONS[options], stage), evidence(layout, content))


@pytest.mark.parametrize(
    ("merger", "order"), [(m, "spatiotemporal") for m in registered(stage=1)] + [("prunevid", "grouped")]
)
@pytest.mark.parametrize("name", SELECTORS)
def test_contract_after_stage1(name: str, merger: str, order: str) -> None:
    for layout in LAYOUTS:
        for options in OPTIONS.values():
            config = {**options, "token_order": order}
            seen = evidence(layout)
            step = build(merger, config, stage=1).plan(seen)
            left, _ = seen.layout.apply(step)
            hidden = step.mean(seen.hidden)
            check(build(name, config), Evidence(left, hidden, seen.question, hidden[:, 0].clone()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stage", "name"), REDUCERS)
def test_keeping_everything_is_the_identity(stage: int, name: str, layout: str) -> None:
    for scope in ("global", "per_group"):
        config = {"keep_ratio": 1.0, "tau": 1.0, "cluster_ratio": 1.0, "selection_scope": scope}
        assert build(name, config, stage).plan(evidence(layout)).is_identity
    if stage == 2 and "keep_threshold" in names_in(options_class("selector", name)):
        reducer = build(name, {"keep_threshold": 0.0})
        assert reducer.plan(only_what_it_asks_for(reducer.needs, evidence(layout))).is_identity


def test_the_day_one_reducers_are_registered() -> None:
    assert registered(stage=1) == ("pool", "prunevid", "random", "rlt", "uniform")
    assert {"prunevid", "dpp", "fastv", "glimpse", "oracle", "random", "uniform"} == set(SELECTORS)


def test_unknown_selectors_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no selector is called 'fast_v'\. Did you mean 'fastv'\? Known: "):
        reducer_class("fast_v")
    known = "pool, prunevid, random, rlt, uniform"
    with pytest.raises(ConfigError, match=rf"no merger is called 'pol'\. Did you mean 'pool'\? Known: {known}"):
        reducer_class("pol", stage=1)
