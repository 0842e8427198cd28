"""K-means against the algorithm as it is told, point by point; no cluster is empty, whatever the points are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunevid_qwen.kernels.k_means import farthest_first, k_means


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(points: Tensor, starts: list[int], iterations: int, unit: bool) -> tuple[list[int], list[int]]:
    """The law: one point after the other, in fp64."""
    x = points.double()
    centres = [x[start] for start in starts]

    def given_out() -> tuple[list[int], list[int]]:
        away = torch.stack([(x - centre).square().sum(1) for centre in centres], 1)  # [N, K]
        labels = [int(row.argmin()) for row in away]
        own = [float(away[i, label]) for i, label in enumerate(labels)]
        members = [[i for i, label in enumerate(labels) if label == k] for k in range(len(centres))]
        least = {k: min(own[i] for i in of) for k, of in enumerate(members) if of}
        nearest = {
            k: min(i for i in members[k] if own[i] <= low * (1 + 1e-4) + 1e-10 * float(x[i].square().sum()))
            for k, low in least.items()
        }
        free = sorted(set(range(len(x))) - set(nearest.values()), key=lambda i: (-own[i], i))
        for k in range(len(centres)):
            if not members[k]:
                labels[free[0]] = k
                nearest[k] = free.pop(0)
        return labels, [nearest[k] for k in range(len(centres))]

    for _ in range(iterations):
        labels, _ = given_out()
        centres = [x[[i for i, label in enumerate(labels) if label == k]].mean(0) for k in range(len(centres))]
        if unit:
            centres = [centre / centre.norm() for centre in centres]
    return given_out()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "iterations", "unit"), [(1, 1, False), (7, 10, False), (25, 4, False), (7, 5, True)])
def test_as_it_is_told(seed: int, count: int, iterations: int, unit: bool) -> None:
    points = draw(40, 6, seed=seed)
    points[20:24] = points[3]  # centres that begin at equal points: a cluster gets nothing
    if unit:
        points = torch.nn.functional.normalize(points, dim=1)
    starts = [3, *range(20, 23), *range(24, 40), *range(4, 20)][:count]
    labels, nearest = k_means(points, torch.tensor(starts), iterations, unit)
    assert (labels.tolist(), nearest.tolist()) == told(points, starts, iterations, unit)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=40)
def test_no_cluster_is_empty(n: int, count: int, different: int, iterations: int) -> None:
    """Points of which many are equal, as those of a still video."""
    count = min(n, count)
    points = draw(different, 3)[torch.arange(n) % different]
    labels, nearest = k_means(points, torch.arange(count), max(1, iterations))
    assert set(labels.tolist()) == set(range(count))
    assert torch.equal(labels[nearest], torch.arange(count))
    assert len(set(nearest.tolist())) == count


def test_blocks_of_distances_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points, starts = draw(90, 8), torch.arange(0, 90, 6)
    whole = k_means(points, starts, 5)
    monkeypatch.setattr("prunevid_qwen.kernels.k_means._BLOCK_BYTES", 7 * starts.numel() * 4)
    for one, other in zip(whole, k_means(points, starts, 5), strict=True):
        assert torch.equal(one, other)


def test_products_that_may_be_rounded_are_made_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes: list[torch.dtype] = []
    real = torch.addmm
    monkeypatch.setattr("prunevid_qwen.kernels.k_means.products_are_rounded", lambda: True)
    monkeypatch.setattr(
        torch, "addmm", lambda *args, **kwargs: (dtypes.append(args[1].dtype), real(*args, **kwargs))[1]
    )
    k_means(draw(9, 4), torch.arange(3), 1)
    assert set(dtypes) == {torch.float64}


def test_the_farthest_come_first_and_a_copy_comes_last() -> None:
    points = draw(30, 5)
    points[10:20] = points[:10]
    picks = farthest_first(points, 20).tolist()
    assert picks[0] == 0 and len(set(picks)) == 20 and not set(picks) & set(range(10, 20))
    for number in range(1, 20):
        away = torch.cdist(points, points[picks[:number]], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        assert float(away[picks[number]]) == pytest.approx(float(away.max()))
    assert farthest_first(torch.ones(4, 3), 3).tolist() == [0, 0, 0]
