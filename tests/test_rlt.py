"""Run-length tokenization against a loop over every token, and what it promises about runs."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.reducer import Evidence, made_by
from prunevid_qwen.stage1_merge import RLT
from prunevid_qwen.stage1_merge.rlt import run_map
from prunevid_qwen.tokens import Block, TokenLayout
from prunevid_qwen.vision.plan import sources


def by_hand(features: torch.Tensor, tau: float, longest: int) -> tuple[list[int], list[int]]:
    """Walk along every location: (target, rep)."""
    t, locations, _ = features.shape
    start = torch.zeros(t, locations, dtype=torch.long)
    for k in range(locations):
        for i in range(t):
            alike = i > 0 and float(torch.cosine_similarity(features[i, k], features[i - 1, k], dim=0)) > tau
            start[i, k] = start[i - 1, k] if alike and i - start[i - 1, k] < longest else i
    cells = [int(start[i, k]) * locations + k for i in range(t) for k in range(locations)]
    rep = sorted(set(cells))
    return [rep.index(cell) for cell in cells], rep


@pytest.mark.parametrize("longest", [1, 2, 3, 99])
@pytest.mark.parametrize("tau", [0.3, 0.8])
@pytest.mark.parametrize("positions", [1, 2, 16, 17, 18, 35])
def test_runs_are_those_of_a_walk(positions: int, tau: float, longest: int) -> None:
    generator = torch.Generator().manual_seed(positions)
    steps = torch.randn(positions, 6, 8, generator=generator) * (torch.rand(positions, 6, 1, generator=generator) < 0.4)
    features = torch.randn(1, 6, 8, generator=generator) + steps.cumsum(0)
    found = run_map(features, tau, longest)
    target, rep = by_hand(features, tau, longest)
    assert found.target.tolist() == target and found.rep.tolist() == rep


def test_a_change_begins_a_run_at_its_own_moment() -> None:
    before, after = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    features = before.repeat(8, 2, 1)
    features[5:, 1] = after  # something comes to the second location at position 5
    found = run_map(features, 0.8, 8)
    assert found.rep.tolist() == [0, 1, 11]
    assert torch.equal(found.mean(features.reshape(16, 2)), torch.stack([before, before, after]))


def test_what_lasts_is_said_again() -> None:
    features = torch.ones(9, 1, 4)
    assert RLT(temporal_segment_ratio=0.25).plan(evidence(features)).rep.tolist() == [0, 4, 8]
    assert RLT(temporal_segment_ratio=0.4).plan(evidence(features)).rep.tolist() == [0, 2, 4, 6, 8]


def test_nothing_is_above_tau_1_and_zeros_are_like_nothing() -> None:
    assert RLT(tau=1.0).plan(evidence(torch.eye(2)[:1].repeat(4, 3, 1))).is_identity  # a cosine of exactly 1
    assert RLT().plan(evidence(torch.zeros(4, 3, 2))).is_identity


def test_images_pass_and_the_registry_knows_it() -> None:
    assert made_by(PruneVidConfig(merger="rlt", tau=0.7, temporal_segment_ratio=0.5).merger, 1) == RLT(0.7, 0.5)
    assert RLT().plan(evidence(torch.ones(1, 4, 2), "image")).is_identity


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"tau": 1.1}, {"temporal_segment_ratio": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))} is a share in \(0, 1\]"):
        RLT(**options).plan(evidence(torch.ones(2, 2, 2)))


def evidence(features: torch.Tensor, kind: str = "video") -> Evidence:
    """One video [T, L, C] and a word after it."""
    t, locations, width = features.shape
    n = t * locations
    layout = TokenLayout(
        n + 1,
        torch.arange(n),
        torch.tensor([n]),
        (Block(kind, (t, 1, locations), 0, n),),
        torch.zeros(n, dtype=torch.long),
    )
    return Evidence(layout, features.reshape(n, width), torch.zeros(1, width))


@pytest.mark.parametrize("tau", [0.5, 0.8, 0.999999, 1.0])
@pytest.mark.parametrize("longest", [1, 2, 4, 100])
def test_told_of_copies_it_makes_the_same_map(tau: float, longest: int) -> None:
    """Only what was encoded is compared: copies have equal bits, zeros are alike to nothing; at tau=1 nothing is."""
    numbers = torch.Generator().manual_seed(longest)
    for trial in range(6):
        encoded = torch.rand(19, 24, generator=numbers) < (0.2, 0.4, 1.0)[trial % 3]
        encoded[0] = True
        tokens = torch.randn(19, 24, 16, generator=numbers)
        tokens = tokens * 0.35 + tokens[:1]
        tokens[0, 3] = 0.0
        tokens = tokens.to((torch.float32, torch.bfloat16)[trial % 2])
        source = sources(encoded) * 24 + torch.arange(24)
        tokens = tokens.flatten(0, 1)[source]
        blind, told = run_map(tokens, tau, longest), run_map(tokens, tau, longest, source)
        assert torch.equal(told.target, blind.target) and torch.equal(told.rep, blind.rep)


def test_what_it_is_told_is_believed() -> None:
    """A token that is said to be a copy is not looked at: else nothing would be saved."""
    tokens = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    source = torch.tensor([[0, 1], [0, 3], [0, 3]])
    assert run_map(tokens, 0.8, 100, source).target.tolist() == [0, 1, 0, 2, 0, 2]


@pytest.mark.parametrize("pictures", [(0, 1, 0, 1), (0, 0, 1, 0, 0), (0, 1, 1, 2, 0, 2)])
def test_a_copy_of_an_earlier_position_is_compared_with_the_one_before(pictures: tuple[int, ...]) -> None:
    """Equal positions are copies of the first of them, whatever lies between."""
    looks = torch.eye(3)[list(pictures)][:, None].repeat(1, 3, 1)  # [T, 3, C]
    first = torch.tensor([pictures.index(each) for each in pictures])
    source = first[:, None] * 3 + torch.arange(3)
    told, blind = run_map(looks, 0.8, 100, source), run_map(looks, 0.8, 100)
    assert torch.equal(told.target, blind.target) and torch.equal(told.rep, blind.rep)
