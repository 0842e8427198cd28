"""`distinct` against a loop over every pair in fp64, in blocks and pieces of every size, and on what it promises."""

from __future__ import annotations

from math import exp, hypot

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config.method_options.distinct import DistinctOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.kernels import cosines
from prunevid_qwen.stage1_merge import distinct
from prunevid_qwen.stage1_merge.distinct import Distinct, PlacedDistances, distinct_order
from tests.door_samples import shown
from tests.tolerances import close

Grid = tuple[int, int, int]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_distance(x: Tensor, grid: Grid, time: float, space: float) -> list[list[float]]:
    _, h, w = grid
    cos = torch.cosine_similarity(x.double()[:, None], x.double()[None], dim=2).tolist()

    def near(i: int, j: int) -> float:
        down, aside = (i // w % h - j // w % h) / h, (i % w - j % w) / w
        return exp(-abs(i // (h * w) - j // (h * w)) / time) * exp(-hypot(down, aside) / space)

    return [[1 - cos[i][j] * near(i, j) for j in range(len(x))] for i in range(len(x))]


def by_hand(x: Tensor, grid: Grid, count: int, time: float = 4.0, space: float = 0.5) -> list[int]:
    """One pick after the other; the first of equals."""
    d = every_distance(x, grid, time, space)
    rare = (1 - torch.cosine_similarity(x.double(), x.double().mean(0, keepdim=True), dim=1)).tolist()
    picks = [rare.index(max(rare))]
    while len(picks) < count:
        left = [i for i in range(len(x)) if i not in picks]
        picks.append(max(left, key=lambda i: (rare[i] * min(d[i][j] for j in picks), -i)))
    return picks


@pytest.mark.parametrize("candidates", [1, 2, 7, 256])
@pytest.mark.parametrize("piece_bytes", [1, 2000, 2**26])
def test_picks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, candidates: int, piece_bytes: int) -> None:
    monkeypatch.setattr(distinct, "CANDIDATES", candidates)
    monkeypatch.setattr(cosines, "PIECE_BYTES", piece_bytes)
    x = noise(36, 6)
    assert distinct_order(x, (4, 3, 3), 36, 4.0, 0.5).tolist() == by_hand(x, (4, 3, 3), 36)


@pytest.mark.parametrize(("time", "space"), [(1.0, 0.5), (8.0, 2.0)])
def test_reaches_are_those_of_the_options(time: float, space: float) -> None:
    x, grid = noise(48, 4, seed=1).abs(), (3, 4, 4)
    kept = Distinct(keep_tokens=9, time_reach=time, space_reach=space).plan(shown(grid, x))
    assert kept.is_selection and kept.rep.tolist() == sorted(by_hand(x, grid, 9, time, space))


def test_distances_are_those_of_a_loop() -> None:
    x, grid = noise(24, 5), (2, 3, 4)
    found = PlacedDistances(x, grid, 4.0, 0.5).among(torch.arange(24))
    wanted = torch.tensor(every_distance(x, grid, 4.0, 0.5))
    close(found, wanted.masked_fill(wanted < cosines.SAME, 0.0), 4)


def test_what_moves_is_kept_where_it_goes_and_what_stands_still_is_not_said_again() -> None:
    """A thing of one look crosses a picture of one look: a distance by looks alone would keep it once."""
    ground, thing = torch.zeros(4), torch.zeros(4)
    ground[0], thing[1] = 1.0, 1.0
    x = ground.repeat(4, 4, 1)
    for t in range(4):
        x[t, t] = thing
    kept = Distinct(keep_tokens=5).plan(shown((4, 2, 2), x.view(16, 4))).rep.tolist()
    assert {0, 5, 10, 15} <= set(kept)


def test_a_video_of_one_look_is_kept_by_index() -> None:
    assert distinct_order(torch.ones(8, 3), (2, 2, 2), 5, 4.0, 0.5).tolist() == [0, 1, 2, 3, 4]
    assert distinct_order(torch.zeros(8, 3), (2, 2, 2), 8, 4.0, 0.5).sort().values.tolist() == list(range(8))


def test_half_precision_decides_in_fp32() -> None:
    x = noise(36, 8).to(torch.bfloat16)
    assert torch.equal(*(distinct_order(each, (4, 3, 3), 20, 4.0, 0.5) for each in (x, x.float())))


def test_autocast_of_the_caller_changes_nothing() -> None:
    x = noise(36, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = distinct_order(x, (4, 3, 3), 20, 4.0, 0.5)
    assert torch.equal(found, distinct_order(x, (4, 3, 3), 20, 4.0, 0.5))


@pytest.mark.parametrize(
    "options", [{"time_reach": 0}, {"space_reach": -1.0}, {"time_reach": True}, {"time_reach": 10**400}]
)
def test_a_reach_is_above_nought(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        DistinctOptions(**options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_token_that_is_no_number_costs_no_other_its_place(monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    monkeypatch.setattr(distinct, "CANDIDATES", 4)
    x = noise(24, 5)
    x[7, 2] = bad
    order = distinct_order(x, (4, 3, 2), 16, 4.0, 0.5).tolist()
    assert len(set(order)) == 16
