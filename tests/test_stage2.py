"""Stage 2: scores, budgets, ties and scopes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid_qwen.config import PruneVidConfig, get_reference_config
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, made_by
from prunevid_qwen.stage2_select import (
    FastV,
    PruneVid,
    Random,
    Uniform,
    max_max_scores,
    select_per_group,
    stratified_topk,
)
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap


def two_videos(first: tuple[int, int, int] = (2, 2, 3), second: tuple[int, int, int] = (1, 1, 5)) -> TokenLayout:
    a, b = (t * h * w for t, h, w in (first, second))
    blocks = (Block("video", first, 0, a), Block("video", second, a, a + b))
    stratum = torch.tensor([0] * a + [1] * b)
    return TokenLayout(a + b + 1, torch.arange(a + b), torch.tensor([a + b]), blocks, stratum)


def evidence(layout: TokenLayout, attention: torch.Tensor | None) -> Evidence:
    return Evidence(layout, torch.zeros(layout.visual.numel(), 4), torch.zeros(1, 4), attention)


def test_scores_are_the_largest_of_any_head_and_row() -> None:
    attention = torch.rand(3, 4, 7, generator=torch.Generator().manual_seed(0))
    expected = [max(float(attention[h, q, n]) for h in range(3) for q in range(4)) for n in range(7)]
    assert max_max_scores(attention).tolist() == expected


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_topk_by_hand(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 25))
    score = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))  # many ties
    stratum = data.draw(st.lists(st.sampled_from([-3, 0, 1, 7]), min_size=n, max_size=n))
    block = [int(s > 0) for s in stratum]
    ratio = data.draw(st.sampled_from([0.01, 0.1, 0.29, 0.3, 0.57, 0.7, 1.0]) | st.floats(0.001, 1.0))
    keep: set[int] = set()
    for s in set(stratum):
        members = sorted((i for i in range(n) if stratum[i] == s), key=lambda i: (-score[i], i))
        keep |= set(members[: int(len(members) * ratio)])
    assert stratified_topk(torch.tensor(score), torch.tensor(stratum), ratio).tolist() == sorted(keep)
    for b in set(block):
        members = [i for i in range(n) if block[i] == b]
        if not keep & set(members):
            keep.add(min(members, key=lambda i: (-score[i], i)))
    got = stratified_topk(torch.tensor(score), torch.tensor(stratum), ratio, torch.tensor(block))
    assert got.tolist() == sorted(keep)


@pytest.mark.parametrize(("n", "ratio"), [(10, 0.7), (100, 0.29), (50, 0.58), (3, 0.3), (1000, 0.001)])
def test_budget_is_pythons_int_of_the_product(n: int, ratio: float) -> None:
    got = stratified_topk(torch.arange(n).float(), torch.zeros(n, dtype=torch.long), ratio)
    assert got.numel() == int(n * ratio)  # 100 * 0.29 is 28.999...: 28, not 29


def test_per_group_budgets() -> None:
    scores = torch.tensor([5.0, 4, 3, 2, 1, 9, 9, 9, 0, 1, 2, 3, 8, 8])
    #                      static of 5       t=0 (3)  t=1 (3)  second segment: no static, t=2 (3)
    got = select_per_group(scores, [5, 0], torch.tensor([6, 3]), (2, 1), 0.4)
    assert got.tolist() == [0, 1, 5, 10, 12]
    assert select_per_group(scores[:3], [0], [3], [1], 0.1).numel() == 0


@pytest.mark.parametrize(
    ("sizes", "say"), [(([5], [3], [2]), "do not divide"), (([5], [4], [2]), "describe 9"), (([5], [0], [0]), "divide")]
)
def test_wrong_sizes_are_refused(sizes: tuple[list[int], list[int], list[int]], say: str) -> None:
    with pytest.raises(ValueError, match=say):
        select_per_group(torch.zeros(8), *sizes, 0.5)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_wrong_shares_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="keep_ratio"):
        stratified_topk(torch.zeros(3), torch.zeros(3).long(), ratio)
    with pytest.raises(ValueError, match="keep_ratio"):
        Uniform(ratio).plan(evidence(two_videos(), None))


def test_global_scope_gives_each_video_its_own_budget() -> None:
    layout = two_videos()
    attention = torch.cat([torch.arange(12.0) + 100, -torch.arange(5.0)])  # the first video outshines the second
    assert PruneVid(0.4).plan(evidence(layout, attention)).rep.tolist() == [8, 9, 10, 11, 12, 13]
    assert PruneVid(0.1).plan(evidence(layout, attention)).rep.tolist() == [11, 12]


def test_per_group_scope_without_stage1_takes_the_temporal_positions() -> None:
    attention = torch.cat([torch.arange(12.0), -torch.arange(5.0)])
    got = PruneVid(0.5, "per_group").plan(evidence(two_videos(), attention))
    assert got.rep.tolist() == [3, 4, 5, 9, 10, 11, 12, 13]


def test_per_group_scope_after_a_selection_takes_the_block() -> None:
    left, _ = two_videos().apply(TokenMap.keep(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 12, 13]), 17))
    got = PruneVid(0.5, "per_group").plan(evidence(left, torch.arange(10.0)))
    assert got.rep.tolist() == [4, 5, 6, 7, 9]


def test_per_group_scope_takes_the_strata_of_stage1() -> None:
    step = TokenMap(torch.arange(17), torch.arange(17), torch.tensor([0] * 4 + [1] * 4 + [2] * 4 + [3] * 5))
    left, _ = two_videos().apply(step)
    got = PruneVid(0.25, "per_group").plan(evidence(left, torch.arange(17.0)))
    assert got.rep.tolist() == [3, 7, 11, 16]


def test_a_video_whose_groups_round_to_none_keeps_its_best_token() -> None:
    attention = torch.cat([-torch.arange(12.0), torch.tensor([0.0, 3, 1, 3, 2])])
    got = PruneVid(0.1, "per_group").plan(evidence(two_videos(), attention))
    assert got.rep.tolist() == [0, 13]


def test_needs_follow_the_options() -> None:
    assert made_by(PruneVidConfig().selector).needs == Needs(AttentionQuery("post_rope", "max", "max"))
    assert made_by(PruneVidConfig(question_tokens="last").selector).needs.attention == AttentionQuery(tokens="last")
    own = made_by(get_reference_config().replace(attention_aggregation="mean", keep_ratio=0.3).selector)
    assert own == PruneVid(0.3, "per_group", "pre_rope", "mean")
    assert own.needs == Needs(AttentionQuery("pre_rope", "max", "mean"))
    assert made_by(PruneVidConfig(selector="fastv").selector).needs == Needs(
        AttentionQuery("post_rope", "mean", "last")
    )
    assert Random().needs == Uniform().needs == Needs()


@pytest.mark.parametrize("reducer", [PruneVid(), FastV()])
def test_missing_attention_is_named(reducer: PruneVid | FastV) -> None:
    with pytest.raises(ValueError, match="needs"):
        reducer.plan(evidence(two_videos(), None))


def test_fastv_ranks_by_what_it_is_given() -> None:
    attention = torch.cat([torch.arange(12.0), -torch.arange(5.0)])
    assert FastV(0.25).plan(evidence(two_videos(), attention)).rep.tolist() == [9, 10, 11, 12]


def test_controls_have_the_same_budget() -> None:
    layout = two_videos((4, 5, 6), (2, 3, 3))
    attention = torch.rand(138, generator=torch.Generator().manual_seed(0))
    for ratio in (0.05, 0.2, 0.4, 0.99):
        counts = []
        for reducer in (PruneVid(ratio), FastV(ratio), Random(ratio), Uniform(ratio)):
            rep = reducer.plan(evidence(layout, attention)).rep
            counts.append((int((rep < 120).sum()), int((rep >= 120).sum())))
        assert set(counts) == {(max(1, int(120 * ratio)), max(1, int(18 * ratio)))}


def test_random_depends_on_its_seed_alone() -> None:
    layout = two_videos((4, 5, 6))
    drawn = [Random(0.3, seed).plan(evidence(layout, None)).rep for seed in (0, 0, 1)]
    torch.manual_seed(5)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], Random(0.3).plan(evidence(layout, None)).rep)
    assert not torch.equal(drawn[0], drawn[2])


def test_uniform_is_equally_spaced() -> None:
    got = Uniform(0.25).plan(evidence(two_videos(), None)).rep
    assert got.tolist() == [2, 6, 10, 14]


def test_random_takes_its_seed_from_the_config() -> None:
    assert made_by(PruneVidConfig(selector="random", random_seed=7, keep_ratio=0.3).selector) == Random(0.3, 7)
