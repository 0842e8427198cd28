"""The DPP selector: against the determinant itself, and what diversity is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.kernels import eager_greedy
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, made_by
from prunevid_qwen.stage2_select import DPP, PruneVid, greedy_dpp
from prunevid_qwen.tokens import Block, TokenLayout
from tests.test_method_memory import largest


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def evidence(hidden: Tensor, attention: Tensor | None, *sizes: int) -> Evidence:
    blocks, start = [], 0
    for size in sizes:
        blocks.append(Block("video", (1, 1, size), start, start + size))
        start += size
    layout = TokenLayout(
        start + 1, torch.arange(start), torch.tensor([start]), tuple(blocks), torch.zeros(start).long()
    )
    return Evidence(layout, hidden, hidden[:1], attention)


@pytest.mark.parametrize("seed", range(5))
def test_each_step_takes_the_largest_determinant(seed: int) -> None:
    x, log_q = draw(12, 20, seed=seed), draw(12, seed=seed + 9)
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    q = log_q.double().exp()
    kernel = q[:, None] * (unit @ unit.T) * q
    chosen: list[int] = []
    for _ in range(7):
        rest = [i for i in range(12) if i not in chosen]
        chosen.append(max(rest, key=lambda i: torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]).item()))
    assert greedy_dpp(log_q, x, 7).tolist() == chosen


def test_beyond_the_rank_of_the_kernel_quality_decides() -> None:
    x = torch.cat([torch.eye(3), torch.eye(3)])
    log_q = torch.tensor([0.0, -1.0, -2.0, -0.5, -0.25, -3.0])
    assert greedy_dpp(log_q, x, 6).tolist() == [0, 4, 2, 3, 1, 5]
    assert greedy_dpp(torch.zeros(5), torch.zeros(5, 4), 5).tolist() == [0, 1, 2, 3, 4]


def test_no_attention_at_all_ranks_last() -> None:
    log_q = torch.tensor([-torch.inf, -50.0, -torch.inf, 0.0])
    assert greedy_dpp(log_q, draw(4, 8), 4).tolist()[:2] == [3, 1]
    assert sorted(greedy_dpp(log_q, draw(4, 8), 4).tolist()) == [0, 1, 2, 3]


def test_copies_of_the_best_token_leave_room_for_another_thing() -> None:
    background, thing, other = draw(3, 32)
    hidden = torch.stack([thing] * 4 + [other] * 2 + [background] * 6) + 0.01 * draw(12, 32, seed=5)
    attention = torch.tensor([0.0, -0.1, -0.2, -0.3, -1.0, -1.1, *[-4.0] * 6])
    seen = evidence(hidden + 1e4, attention, 12)  # a large common part changes nothing
    assert PruneVid(0.25).plan(seen).rep.tolist() == [0, 1, 2]
    assert DPP(0.17).plan(seen).rep.tolist() == [0, 4]


def test_each_video_has_its_own_budget_and_mean() -> None:
    hidden, attention = draw(30, 16), draw(30, seed=2)
    both = DPP(0.3).plan(evidence(hidden, attention, 20, 10)).rep
    first = DPP(0.3).plan(evidence(hidden[:20], attention[:20], 20)).rep
    second = DPP(0.3).plan(evidence(hidden[20:], attention[20:], 10)).rep
    assert both.tolist() == [*first.tolist(), *(second + 20).tolist()]
    assert (len(first), len(second)) == (6, 3)


def test_options_and_refusals() -> None:
    config = PruneVidConfig(
        selector="dpp",
        keep_ratio=0.3,
        attention_source="pre_rope",
        attention_aggregation="mean",
        question_tokens="last",
    )
    assert made_by(config.selector).needs == Needs(AttentionQuery("pre_rope", "max", "mean", "last"))
    assert made_by(config.selector).keep_ratio == 0.3
    with pytest.raises(ValueError, match="selects by attention"):
        DPP().plan(evidence(draw(4, 8), None, 4))
    with pytest.raises(ValueError, match="share in"):
        DPP(0.0).plan(evidence(draw(4, 8), draw(4), 4))


def test_similarities_are_the_same_made_at_once_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, log_q = draw(90, 24), draw(90, seed=1)
    at_once = greedy_dpp(log_q, x, 40)
    monkeypatch.setattr(eager_greedy, "SIMILARITY_BYTES", 90 * 90 * 8 - 1)
    assert torch.equal(greedy_dpp(log_q, x, 40), at_once)


@pytest.mark.parametrize(("width", "spread"), [(4, 0.1), (24, 10.0), (90, 1.0)])
def test_rows_of_a_basis_are_those_of_the_factor(monkeypatch: pytest.MonkeyPatch, width: int, spread: float) -> None:
    """Beyond the rank, among copies and among points that few others make room for."""
    x, log_q = draw(3, 60, width), spread * draw(3, 60, seed=1)
    x[1, 30:], x[2, ::7] = x[1, :30], 0.0
    at_once = greedy_dpp(log_q, x, 60)
    monkeypatch.setattr(eager_greedy, "SIMILARITY_BYTES", 1)
    one_by_one = greedy_dpp(log_q, x, 60)
    assert torch.equal(one_by_one, at_once) and torch.equal(at_once.sort(dim=1).values, torch.arange(60).expand(3, -1))


def test_what_is_held_of_many_points_does_not_grow_with_those_chosen() -> None:
    x, log_q = draw(6000, 4), draw(6000)  # too many for all similarities
    few, many = (largest(lambda count=count: greedy_dpp(log_q, x, count)) for count in (8, 800))  # type: ignore[misc]
    assert many <= 1.1 * few


def test_groups_are_chosen_from_as_if_alone_and_padding_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    x, log_q = draw(5, 30, 24), draw(5, 30, seed=1)
    valid = torch.arange(30) < torch.tensor([30, 12, 30, 25, 30])[:, None]
    x[1, 12:], log_q[1, 12:] = x[1, 0], 9.0  # what stands in padding is nothing to its group
    together = greedy_dpp(log_q, x, 12, valid)
    for own, points, quality, group in zip(valid, x, log_q, together, strict=True):
        assert torch.equal(greedy_dpp(quality[own], points[own], 12), group)
    monkeypatch.setattr("prunevid_qwen.kernels.greedy_dpp._BLOCK_BYTES", 2 * 8 * 30 * (24 + 12 + 30))
    assert torch.equal(greedy_dpp(log_q, x, 12, valid), together)
