"""DivPrune against a loop over every distance in fp64, in blocks and pieces of every size, and on equal tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen.kernels import cosines
from prunevid_qwen.kernels.cosines import CosineDistances
from prunevid_qwen.stage1_merge import divprune
from prunevid_qwen.stage1_merge.divprune import DivPrune, max_min_order
from tests.door_samples import shown
from tests.tolerances import close


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_distance(x: Tensor) -> list[list[float]]:
    d = 1 - torch.cosine_similarity(x.double()[:, None], x.double()[None], dim=2)
    d = d.float()  # as picks are compared
    d[d < cosines.SAME] = 0.0
    return d.tolist()  # type: ignore[no-any-return]


def by_hand(x: Tensor, count: int) -> list[int]:
    """One pick after the other; the first of equals."""
    n, d = len(x), every_distance(x)
    nearest = [min((d[i][j] for j in range(n) if j != i), default=0.0) for i in range(n)]
    picks = [nearest.index(max(nearest))]
    while len(picks) < count:
        left = [i for i in range(n) if i not in picks]
        picks.append(max(left, key=lambda i: (min(d[i][j] for j in picks), -i)))
    return picks


@pytest.mark.parametrize("candidates", [1, 2, 7, 256])
@pytest.mark.parametrize(("piece_bytes", "held_bytes"), [(1, 0), (2000, 2**28), (2**26, 0)])
def test_picks_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, candidates: int, piece_bytes: int, held_bytes: int
) -> None:
    monkeypatch.setattr(divprune, "CANDIDATES", candidates)
    monkeypatch.setattr(cosines, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(cosines, "HELD_BYTES", held_bytes)
    x = noise(30, 6)
    assert max_min_order(x, 30).tolist() == by_hand(x, 30)


@pytest.mark.parametrize(("axes", "candidates"), [(6, 8), (8, 16)])
def test_of_equals_inside_and_outside_the_lower_index_is_picked(
    monkeypatch: pytest.MonkeyPatch, axes: int, candidates: int
) -> None:
    """Every pair of axes, which has one of two distances from each other one."""
    monkeypatch.setattr(divprune, "CANDIDATES", candidates)
    x = torch.stack([torch.eye(axes)[i] + torch.eye(axes)[j] for i in range(axes) for j in range(i)])
    for seed in range(3):
        mixed = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
        assert max_min_order(mixed, len(x) - 1).tolist() == by_hand(mixed, len(x) - 1)


def test_equal_distances_are_picked_by_index_without_a_round_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    among = CosineDistances.among
    monkeypatch.setattr(CosineDistances, "among", lambda *args: rounds.append(1) or among(*args))  # type: ignore[func-returns-value]
    monkeypatch.setattr(divprune, "CANDIDATES", 8)
    assert max_min_order(torch.eye(200), 150).tolist() == list(range(150))
    assert len(rounds) <= 150 / 8 + 1


@pytest.mark.parametrize("some", [1, 6, 256])
def test_the_first_pick_is_that_of_all_distances(monkeypatch: pytest.MonkeyPatch, some: int) -> None:
    monkeypatch.setattr(cosines, "_SOME", some)
    alone = torch.cat([noise(6, 8), torch.zeros(1, 8)])
    for x in (*(make() for make in SETS.values()), noise(40, 3).repeat(2, 1), noise(70, 8), alone[6:].repeat(70, 1)):
        monkeypatch.setattr(cosines, "PIECE_BYTES", 8 * 60 * 9)
        by_parts = CosineDistances(x.double())
        assert len(by_parts.pieces) > 2
        assert by_parts.most_alone() == int(by_parts.nearest_other().argmax())


def test_the_first_pick_is_found_without_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens with a copy beside them are out before they are compared with those of other pieces."""
    x = torch.cat([noise(120, 20).repeat_interleave(2, dim=0), noise(60, 20, seed=1)])
    monkeypatch.setattr(cosines, "PIECE_BYTES", 8 * 100**2)
    distances = CosineDistances(x)
    first = int(distances.nearest_other().argmax())
    monkeypatch.setattr(CosineDistances, "nearest_other", lambda self: pytest.fail("all pairs are compared"))
    assert len(distances.pieces) == 3 and distances.most_alone() == first


SETS: dict[str, Callable[[], Tensor]] = {
    "all about as far": lambda: noise(70, 60),
    "flat": lambda: noise(70, 2),
    "copies of some": lambda: torch.cat([noise(50, 5), noise(10, 5), noise(10, 5)]),
    "nearly copies": lambda: noise(10, 12).repeat_interleave(7, dim=0) + 0.01 * noise(70, 12, seed=1),
    "zeros among them": lambda: noise(70, 6) * (torch.arange(70) % 9 > 0)[:, None],
    "axes": lambda: torch.eye(70),
    "lengths far apart": lambda: noise(70, 6) * (4 * noise(70, 1, seed=2)).exp(),
}


@pytest.mark.parametrize("candidates", [1, 5, 16])
@pytest.mark.parametrize("kind", SETS)
def test_old_distances_are_bounds_and_pick_nothing(monkeypatch: pytest.MonkeyPatch, kind: str, candidates: int) -> None:
    """In fp64, so that no rounding decides which of two is farther."""
    monkeypatch.setattr(divprune, "CANDIDATES", candidates)
    monkeypatch.setattr(cosines, "products_are_rounded", lambda: True)
    x = SETS[kind]()
    assert max_min_order(x, 60).tolist() == by_hand(x, 60)


@pytest.mark.parametrize("candidates", [1, 3, 256])
def test_equal_tokens_are_picked_once_and_last(monkeypatch: pytest.MonkeyPatch, candidates: int) -> None:
    """The authors' code picks tokens of blank regions and repeated frames again and again."""
    monkeypatch.setattr(divprune, "CANDIDATES", candidates)
    x = noise(10, 6).repeat(3, 1)
    x[10:] *= 2  # a direction is what counts
    order = max_min_order(x, 29).tolist()
    assert len(set(order)) == 29
    assert sorted(order[:10]) == list(range(10)) and order[10:] == list(range(10, 29))


def test_copies_are_picked_without_a_pass_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A still video has more tokens to pick than different ones."""
    monkeypatch.setattr(divprune, "CANDIDATES", 4)
    passes: list[int] = []
    nearest = CosineDistances.nearest
    monkeypatch.setattr(CosineDistances, "nearest", lambda *args: passes.append(1) or nearest(*args))  # type: ignore[func-returns-value]
    x = noise(5, 6).repeat(60, 1)
    order = max_min_order(x, 200).tolist()
    assert sorted(order[:5]) == list(range(5)) and order[5:] == list(range(5, 200))
    assert len(passes) <= 20, "a few for each different token"


def test_zero_vectors_are_far_from_everything() -> None:
    x = noise(6, 4).abs()
    x[3] = 0.0
    assert 3 in max_min_order(x, 2).tolist()
    assert max_min_order(torch.zeros(4, 3), 3).tolist() == [0, 1, 2]


def test_half_precision_decides_in_fp32() -> None:
    x = noise(40, 8).to(torch.bfloat16)
    assert torch.equal(max_min_order(x, 20), max_min_order(x.float(), 20))


def test_products_that_torch_may_round_are_made_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "products_are_rounded", lambda: True)
    distances = CosineDistances(noise(5, 3))
    assert distances._unit(slice(0, 2)).dtype == torch.float64
    close(distances.among(torch.arange(5)), torch.tensor(every_distance(noise(5, 3))), 1)


def test_a_single_token_has_no_other() -> None:
    assert CosineDistances(noise(1, 3)).nearest_other().tolist() == [torch.inf]
    assert max_min_order(noise(1, 3), 1).tolist() == [0]


def test_a_video_is_one_set_of_tokens_and_the_published_budget_rounds_alike() -> None:
    x = noise(12, 5)
    kept = DivPrune(keep_tokens=5).plan(shown((3, 2, 2), x))
    assert kept.is_selection and kept.rep.tolist() == sorted(by_hand(x, 5))
    assert DivPrune().most(shown((1, 24, 24), torch.zeros(576, 1)).layout) == 56, "round(0.098 * 576)"


@pytest.mark.parametrize("piece_bytes", [200, 2**26])
def test_equal_directions_are_found_by_their_bits(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(cosines, "PIECE_BYTES", piece_bytes)
    x = noise(5, 6)[[0, 1, 0, 2, 1, 3, 3, 4, 0]]
    x[2] *= 2
    x[[5, 6]] = 0.0
    x[7] = torch.nan
    assert CosineDistances(x).first_equal().tolist() == [0, 1, 0, 3, 1, 5, 6, 7, 0]
    alike = lambda sums, **_: (sums[:1], np.zeros(1, int), np.zeros(len(sums), int))  # noqa: E731
    monkeypatch.setattr(cosines.np, "unique", alike)
    assert CosineDistances(x).first_equal().tolist() == [0, 1, 0, 3, 4, 5, 6, 7, 0], "equal sums are no equal tokens"


@pytest.mark.parametrize("candidates", [1, 3, 256])
def test_a_product_that_rounds_equal_tokens_apart_changes_no_pick(
    monkeypatch: pytest.MonkeyPatch, candidates: int
) -> None:
    """As other kinds of CPU do: a later token comes out a little farther than its equal."""
    monkeypatch.setattr(divprune, "CANDIDATES", candidates)
    x = noise(10, 6).repeat(3, 1)
    right, stock = max_min_order(x, 10).tolist(), CosineDistances.nearest

    def rounded(self: CosineDistances, index: Tensor | None, chosen: Tensor) -> Tensor:
        found = stock(self, index, chosen)
        at = torch.arange(len(x)) if index is None else index
        return torch.where(found > 0, found * (1 + at * 2.0**-23), found)

    monkeypatch.setattr(CosineDistances, "nearest", rounded)
    assert max_min_order(x, 10).tolist() == right and max(right) < 10
