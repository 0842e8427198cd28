"""A receipt says what happened: for every stage and method whether it changed something, and why not."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_classes import options_class
from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.receipt import check_applied, receipt
from prunevid_qwen.reducer import Reducer, made_by, registered, says, why_unchanged
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction, SampleTrace, Trace
from tests.test_reducer_contract import LAYOUTS, evidence, only_what_it_asks_for

Shape = tuple[str, tuple[int, int, int]]
BIKES: Shape = ("video", (8, 3, 4))  # 96 tokens, 12 a position
MERGERS, SELECTORS = registered(stage=1), registered(stage=2)
SHARES = [name for name in MERGERS if says(options_class("merger", name)(), 1).exact]


def blocks_of(*shapes: Shape) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for kind, grid in shapes:
        start = blocks[-1].stop if blocks else 0
        blocks.append(Block(kind, grid, start, start + grid[0] * grid[1] * grid[2]))
    return tuple(blocks)


def keep(count: int, of: int) -> TokenMap:
    return TokenMap.keep(torch.arange(count), of)


def told(config: PruneVidConfig, shapes: tuple[Shape, ...], merged: int | None = None, kept: int | None = None) -> Any:
    """The receipt of a sample of which stage 1 left ``merged`` tokens and stage 2 ``kept``; None: all."""
    blocks = blocks_of(*shapes)
    n = blocks[-1].stop if blocks else 0
    merged = n if merged is None else merged
    kept = merged if kept is None else kept
    sample = SampleTrace(
        blocks,
        n,
        n + 10,
        (Reduction(DOOR, config.merger, keep(merged, n)),) * bool(config.enable_stage1 and n)
        + (Reduction(2, config.selector, keep(kept, merged)),) * bool(config.enable_stage2 and n),
    )
    trace = Trace("reference", 2, 6, samples=(sample,), cache_lengths=(kept + 10,) * 6, cache_bytes=(kept + 10) * 768)
    check_applied(trace, config)
    return receipt(trace, 0, config, [], [], n + 10, {}, {"read": 0.0, "total": 1.0}, 2)


def asked_of(merger: str, **options: Any) -> PruneVidConfig:
    """A config of that merger, with what it has of the options."""
    return PruneVidConfig.from_record({"merger": merger, **options})


def applied(stats: Any) -> list[bool]:
    return [stats[f"stage{number}"]["applied"] for number in (1, 2, 3)]


def test_frames_too_small_to_be_clustered() -> None:
    """The case that was seen: 96 tokens in, 96 out, and the receipt said merged."""
    one = told(PruneVidConfig(), (BIKES,), None, 38)["stage1"]
    assert (one["applied"], one["original_tokens"], one["compressed_tokens"]) == (False, 96, 96)
    assert "nothing merged" in one["note"] and "14" in one["note"] and "min_cluster_tokens" in one["note"]
    changed = told(PruneVidConfig(), (BIKES,), 95, 38)["stage1"]
    assert (changed["applied"], changed["note"]) == (True, None)


@pytest.mark.parametrize("merger", MERGERS)
def test_a_merger_that_changed_nothing_gives_its_reason(merger: str) -> None:
    for shapes, options in (
        ((BIKES,), {str(says(options_class("merger", merger)(), 1).lever): 1.0}),
        ((("video", (1, 1, 1)),), {}),
        ((("image", (1, 4, 5)),), {}),
        ((("image", (1, 1, 1)), ("video", (1, 1, 1))), {"merge_images": True}),
    ):
        makes = asked_of if "merge_images" in options else PruneVidConfig
        stats = told(makes(merger=merger, enable_stage2=False, **options), shapes)
        assert applied(stats) == [False] * 3
        assert stats["stage1"]["note"]
        assert stats["stage1"]["note"] != "nothing merged", "the general sentence is for nobody in this package"
        assert stats["stage1"]["reduction_percentage"] == 0


@pytest.mark.parametrize("merger", MERGERS)
def test_a_reason_is_given_exactly_where_nothing_may_change(merger: str) -> None:
    """Every merger on noise: where its plan is the identity it says why, and where it says None it is not."""
    for config in (
        PruneVidConfig(merger=merger),
        asked_of(merger, merge_images=True, min_cluster_tokens=0),
        asked_of(merger, cluster_ratio=1.0),
        asked_of(merger, cluster_ratio=0.9, tau=1.0, temporal_segment_ratio=1.0),
    ):
        method = made_by(config.merger, stage=1)
        for layout in LAYOUTS:
            seen = only_what_it_asks_for(method, evidence(layout))
            why, unchanged = why_unchanged(method, seen.layout.blocks), method.plan(seen).is_identity
            assert why is not None or not unchanged, layout
            if merger in SHARES:
                assert (why is None) != unchanged, layout


def test_images_are_not_merged_by_runs_even_if_images_are_to_be_merged() -> None:
    one = told(asked_of("rlt", merge_images=True), (("image", (1, 4, 5)),), None, 8)["stage1"]
    assert not one["applied"] and "image" in one["note"]


def test_a_receipt_claims_no_budget_that_the_merger_does_not_have() -> None:
    assert told(PruneVidConfig(merger="rlt"), (BIKES,), 50, 20)["stage1"]["requested_ratio"] is None
    assert told(PruneVidConfig(merger="rlt"), (BIKES,), 50, 20)["stage1"]["tau"] == 0.8
    assert told(PruneVidConfig(merger="pool"), (BIKES,), 48, 19)["stage1"]["requested_ratio"] == 0.5
    assert told(PruneVidConfig(merger="pool"), (BIKES,), 48, 19)["stage1"]["tau"] is None


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_that_dropped_nothing_says_so_and_nothing_is_cut(selector: str) -> None:
    for shapes, options in (((BIKES,), {"keep_ratio": 1.0}), ((("video", (1, 1, 1)),), {"keep_threshold": None})):
        config = PruneVidConfig.from_record({"selector": selector, "enable_stage1": False, **options})
        stats = told(config, shapes)
        assert applied(stats) == [False] * 3
        assert stats["stage2"]["note"] and "stage 2" in stats["stage3"]["note"]
        assert stats["stage3"]["reduction_ratio"] == 0
    assert "keep_ratio=1" in told(PruneVidConfig(selector=selector, keep_ratio=1.0), (BIKES,))["stage2"]["note"]


@pytest.mark.parametrize("selector", ["glimpse", "oracle"])
def test_a_threshold_that_all_tokens_pass(selector: str) -> None:
    config = PruneVidConfig(selector=selector, enable_stage1=False, keep_threshold=0.25)
    note = told(config, (BIKES,))["stage2"]["note"]
    assert "0.25" in note and "min_keep_tokens" in note
    assert applied(told(config, (BIKES,), None, 90)) == [False, True, True]


def test_stages_that_did_their_work_have_no_note() -> None:
    stats = told(PruneVidConfig(), (("video", (4, 5, 6)),), 60, 24)
    assert applied(stats) == [True] * 3
    assert [stats[f"stage{number}"]["note"] for number in (1, 2, 3)] == [None] * 3
    off = told(PruneVidConfig(enable_stage1=False, enable_stage2=False, enable_cache_compression=False), (BIKES,))
    assert applied(off) == [False] * 3
    assert [off[f"stage{number}"]["note"] for number in (1, 2, 3)] == [None] * 3
    text = told(PruneVidConfig(), ())
    assert applied(text) == [False] * 3 and all(text[f"stage{number}"]["note"] for number in (1, 2, 3))
    uncut = told(PruneVidConfig(enable_cache_compression=False), (BIKES,), 48, 19)
    assert applied(uncut) == [True, True, False]


def test_a_third_partys_merger_has_to_merge_or_give_its_reason() -> None:
    class Silent:
        pass

    class Explains:
        def why_unchanged(self, blocks: Any) -> str | None:
            return f"nothing merged: {len(blocks)} videos of water"

    assert why_unchanged(Silent(), blocks_of(BIKES)) is None  # type: ignore[arg-type]
    assert why_unchanged(Silent(), blocks_of(("image", (1, 2, 2)))) is not None  # type: ignore[arg-type]
    assert "water" in str(why_unchanged(Explains(), blocks_of(BIKES)))  # type: ignore[arg-type]


def test_pruning_that_had_to_happen_still_raises() -> None:
    with pytest.raises(PruningNotApplied):
        told(PruneVidConfig(), (("video", (8, 4, 5)),))
    with pytest.raises(PruningNotApplied):
        told(PruneVidConfig(), (BIKES, ("video", (8, 4, 5))))  # the small one may come through, the other one may not
    with pytest.raises(PruningNotApplied):
        told(PruneVidConfig(merger="pool"), (BIKES,))
    told(PruneVidConfig(merger="pool", cluster_ratio=1.0), (BIKES,), None, 38)  # as many out as in was asked for
    with pytest.raises(PruningNotApplied):
        told(PruneVidConfig(enable_stage1=False), (BIKES,))


def test_a_selector_at_the_decoders_door_is_held_to_its_own_budget() -> None:
    """It is no merger: images are its matter too, and a count that nothing exceeds drops nothing."""

    def stage_of(by: Reducer, shape: Shape, left: int) -> Any:
        blocks, plan = blocks_of(shape), Plan((Step(DOOR, by),))
        n = blocks[-1].stop
        sample = SampleTrace(blocks, n, n + 10, (Reduction(DOOR, "Uniform", keep(left, n)),))
        trace = Trace("reference", 2, 6, samples=(sample,), cache_lengths=(left + 10,) * 6, cache_bytes=768)
        check_applied(trace, plan)
        return receipt(trace, 0, plan, [], [], n + 10, {}, {"read": 0.0, "total": 1.0}, 2)["stage1"]

    image: Shape = ("image", (1, 4, 4))
    assert stage_of(Uniform(0.5), image, 8)["note"] is None
    assert "keep_tokens=99" in stage_of(Uniform(keep_tokens=99), BIKES, 96)["note"]
    assert "keep_ratio=1" in stage_of(Uniform(1.0), BIKES, 96)["note"]
    for by, shape, left in ((Uniform(0.5), image, 16), (Uniform(keep_tokens=9), BIKES, 96)):
        with pytest.raises(PruningNotApplied):
            stage_of(by, shape, left)


# --- hardly anything left -------------------------------------------------------------------------------------------


def test_one_token_of_a_whole_video_is_said() -> None:
    """README's options for an hour on a recording of 8 seconds."""
    warnings = told(PruneVidConfig(cluster_ratio=0.02), (("video", (8, 7, 8)),), 1, 1)["warnings"]
    assert len(warnings) == 1, "stage 2 had nothing to drop any more"
    for part in ("stage 1", "1 of 448", "8 temporal positions", "0.2 %", "cluster_ratio", "0.02"):
        assert part in warnings[0]


@pytest.mark.parametrize(
    ("shapes", "merged", "kept", "stages"),
    [
        ((BIKES,), 48, 19, []),
        ((BIKES,), 48, 8, []),  # one for each position
        ((BIKES,), 48, 7, ["stage 2 left 7"]),
        ((BIKES,), 7, 2, ["stage 1 left 7", "stage 2 left 2"]),  # in one warning
        ((BIKES,), 7, 7, ["stage 1 left 7"]),
        ((("video", (2, 40, 40)),), 32, 32, []),  # 1 %
        ((("video", (2, 40, 40)),), 31, 31, ["stage 1 left 31"]),
        ((("image", (1, 4, 4)),) * 3, 48, 3, []),
        ((("image", (1, 4, 4)),) * 3, 48, 2, ["stage 2 left 2"]),
        ((("image", (1, 1, 1)),), 1, 1, []),
        ((), 0, 0, []),
    ],
)
def test_fewer_than_a_token_a_position_or_a_hundredth(
    shapes: tuple[Shape, ...], merged: int, kept: int, stages: list[str]
) -> None:
    config = PruneVidConfig(keep_ratio=1.0 if kept == merged else 0.5)
    warnings = told(config, shapes, merged, kept)["warnings"]
    assert len(warnings) == bool(stages)
    assert re.findall(r"stage \d left \d+", " ".join(warnings)) == stages


def test_a_warning_names_the_option_that_was_read() -> None:
    config = PruneVidConfig(merger="rlt", selector="oracle", keep_threshold=0.75)
    (few,) = told(config, (BIKES,), 7, 3)["warnings"]
    assert "tau" in few and "cluster_ratio" not in few
    assert "0.75" in few and "keep_ratio" not in few


def test_unpruned_is_never_warned_of() -> None:
    off = PruneVidConfig(enable_stage1=False, enable_stage2=False, enable_cache_compression=False)
    assert told(off, (BIKES,))["warnings"] == []
