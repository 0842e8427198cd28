"""Budgets of selectors with a threshold, against the rule of GlimpsePrune's authors written out token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunevid_qwen.stage2_select.threshold import Budget
from prunevid_qwen.tokens import Block, TokenLayout


def layout(*sizes: int) -> TokenLayout:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    blocks = tuple(Block("image", (1, 1, n), s, s + n) for s, n in zip(starts, sizes, strict=True))
    n = sum(sizes)
    stratum = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return TokenLayout(n + 2, torch.arange(n), torch.tensor([n, n + 1]), blocks, stratum)


def by_hand(p: list[float], budget: Budget) -> set[int]:
    """The authors' rule: above the threshold, then the cap, then the floor; ties to the lower index."""
    ranked = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if budget.threshold is None:
        return set(ranked[: min(max(int(budget.keep_ratio * len(p)), 1), len(p))])
    kept = {i for i in range(len(p)) if p[i] > budget.threshold}
    if budget.max_keep_ratio is not None and len(kept) / len(p) > budget.max_keep_ratio:
        kept = set(ranked[: int(budget.max_keep_ratio * len(p))])
    return kept if len(kept) >= budget.min_keep_tokens else kept | set(ranked[: budget.min_keep_tokens])


GRID = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5, 0.7, 0.9, 1.0])  # few values: ties everywhere
BUDGETS = st.builds(
    Budget,
    threshold=st.sampled_from([None, 0.0, 0.3, 0.5, 0.9]),
    keep_ratio=st.sampled_from([0.05, 0.111, 0.5, 1.0]),
    max_keep_ratio=st.sampled_from([None, 0.05, 0.111, 0.3, 1.0]),
    min_keep_tokens=st.sampled_from([1, 2, 7, 100]),
)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.lists(GRID, min_size=1, max_size=20), BUDGETS)
def test_the_authors_rule(p: list[float], budget: Budget) -> None:
    score = torch.tensor(p, dtype=torch.float64)
    assert set(budget.choose(score, score, layout(len(p))).tolist()) == by_hand(p, budget)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.lists(st.lists(GRID, min_size=1, max_size=6), min_size=1, max_size=4), BUDGETS)
def test_each_image_by_itself(images: list[list[float]], budget: Budget) -> None:
    alone = Budget(**{**vars(budget), "scope": "image"})
    score = torch.tensor([x for image in images for x in image], dtype=torch.float64)
    wanted, at = set(), 0
    for image in images:
        wanted |= {at + i for i in by_hand(image, budget)}
        at += len(image)
    assert set(alone.choose(score, score, layout(*map(len, images))).tolist()) == wanted


def test_together_an_image_may_lose_all_and_by_itself_never() -> None:
    score = torch.tensor([0.9, 0.8, 0.1, 0.2])
    assert sorted(Budget().choose(score, score, layout(2, 2)).tolist()) == [0, 1]
    assert sorted(Budget(scope="image").choose(score, score, layout(2, 2)).tolist()) == [0, 1, 3]


def test_the_threshold_is_strict() -> None:
    p = torch.tensor([0.5, 0.5000001, 0.4])
    assert Budget().choose(p, p, layout(3)).tolist() == [1]


@pytest.mark.parametrize("budget", [{}, {"threshold": None}, {"max_keep_ratio": 0.5}])
def test_an_image_that_has_lost_all_tokens_already_asks_for_none(budget: dict[str, float | None]) -> None:
    p = torch.tensor([0.9, 0.1, 0.2, 0.8])
    assert sorted(Budget(scope="image", **budget).choose(p, p, layout(2, 0, 2)).tolist()) == [0, 3]


def test_a_share_that_is_just_reached_is_not_passed() -> None:
    """100 * 0.29 is 28.999... to a computer; 29 of 100 tokens are no more than that share."""
    p = (torch.arange(100) < 29).double()
    assert len(Budget(max_keep_ratio=0.29).choose(p, p, layout(100))) == 29
    p = (torch.arange(100) < 30).double()
    assert len(Budget(max_keep_ratio=0.29).choose(p, p, layout(100))) == int(0.29 * 100)


@pytest.mark.parametrize("n", [1, 5, 9])
def test_a_cap_that_rounds_to_none_leaves_the_floor(n: int) -> None:
    p = torch.ones(n)
    assert Budget(max_keep_ratio=0.111).choose(p, p, layout(n)).tolist() == [0]
