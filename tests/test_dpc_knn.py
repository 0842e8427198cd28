"""DPC-KNN: the fast path against the reference, fp64 truth, and scikit-learn's neighbours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from prunevid_qwen.kernels import distances
from prunevid_qwen.kernels.dpc_knn import dpc_knn, reference
from prunevid_qwen.kernels.products import products_are_rounded
from tests.tolerances import close


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def truth(points: Tensor, clusters: int, k: int) -> Tensor:
    """Labels by the formulas in fp64 numpy, with no distance trick and no shared code."""
    x = points.double().numpy()
    squared = ((x[:, None] - x[None]) ** 2).mean(axis=2)
    n = len(x)
    spread = np.sort(squared, axis=1)[:, : min(k, n)].mean(axis=1)
    order = sorted(range(n), key=lambda i: (spread[i], i))
    delta = np.empty(n)
    delta[order[0]] = squared.max()
    for place in range(1, n):
        delta[order[place]] = squared[order[place], order[:place]].min()
    with np.errstate(divide="ignore"):
        score = 0.5 * np.log(delta) - spread
    centres = sorted(range(n), key=lambda i: (-score[i], i))[: min(clusters, n)]
    labels = squared[:, centres].argmin(axis=1)
    labels[centres] = np.arange(len(centres))
    return torch.from_numpy(labels)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 15, 26, 63, 97, 130])
@pytest.mark.parametrize("width", [1, 5, 64])
def test_fast_path_equals_reference_and_truth(n: int, width: int) -> None:
    for clusters, k in ((1, 5), (max(1, n // 2), 7), (n, 1), (n + 3, n + 3)):
        points = draw(n, width, seed=n)
        expected = reference(points, clusters, k)
        got = dpc_knn(points[None], clusters, k)
        assert torch.equal(got.labels[0], expected.labels)
        assert torch.equal(got.centres[0], expected.centres)
        assert torch.equal(expected.labels, truth(points, clusters, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_input_types_are_computed_in_fp32(dtype: torch.dtype) -> None:
    points = draw(3, 80, 32).to(dtype)
    expected = torch.stack([reference(group.float(), 40, 7).labels for group in points])
    assert torch.equal(dpc_knn(points, 40, 7).labels, expected)


@pytest.mark.parametrize("n", [6, 40, 200])
def test_every_cluster_has_a_member_when_all_points_are_equal(n: int) -> None:
    for value in (0.0, 1.0, 1 / 3, 1e4):
        got = dpc_knn(torch.full((2, n, 24), value), 4, 5)
        expected = torch.zeros(n, dtype=torch.long)
        expected[:4] = torch.arange(4)  # ties by index: the first four are the centres, all others join the best
        assert torch.equal(got.labels, expected.expand(2, n))
        assert torch.equal(reference(torch.full((n, 24), value), 4, 5).labels, expected)


@pytest.mark.parametrize("n", [12, 60, 150])
def test_duplicates(n: int) -> None:
    points = draw(n, 48)
    points[n // 2 :] = points[: n - n // 2].flip(0)
    got = dpc_knn(points[None], n - 3, 3)
    assert torch.equal(got.labels[0], truth(points, n - 3, 3))
    assert got.labels[0].unique().numel() == n - 3


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(draw(120, 64) + 300, id="large mean"),
        pytest.param(draw(120, 64) * 1e4, id="large scale"),
        pytest.param(draw(120, 64) * 1e-4, id="small scale"),
        pytest.param(draw(12, 64).repeat_interleave(10, 0) + 1e-3 * draw(120, 64, seed=1), id="near duplicates"),
        pytest.param(draw(120, 64) * torch.logspace(-3, 3, 120)[:, None], id="mixed norms"),
    ],
)
def test_cancellation_does_not_change_labels(points: Tensor) -> None:
    assert torch.equal(dpc_knn(points[None], 60, 7).labels[0], truth(points, 60, 7))


@pytest.mark.parametrize("width", [16, 64, 512])
def test_a_group_does_not_depend_on_its_batch_or_padding(width: int) -> None:
    sizes = [1, 15, 27, 60, 100, 139, 140]
    wanted = torch.tensor([1, 7, 13, 30, 50, 69, 70])
    groups = [draw(n, width, seed=n) for n in sizes]
    alone = [dpc_knn(g[None], int(c), 7) for g, c in zip(groups, wanted, strict=True)]
    points, valid = torch.full((7, 140, width), 5.0), torch.zeros(7, 140, dtype=torch.bool)
    for i, group in enumerate(groups):  # padding before, between and after the points
        place = torch.randperm(140, generator=torch.Generator().manual_seed(i))[: len(group)].sort().values
        points[i, place], valid[i, place] = group, True
    together = dpc_knn(points, wanted, 7, valid)
    for i, (one, n) in enumerate(zip(alone, sizes, strict=True)):
        assert torch.equal(together.labels[i][valid[i]], one.labels[0])
        assert bool((together.labels[i][~valid[i]] == -1).all())
        assert torch.equal(valid[i].nonzero()[:, 0][one.centres[0]], together.centres[i, : int(wanted[i])])
        assert bool((together.centres[i, int(wanted[i]) :] == -1).all()), n


def test_distances_stay_within_their_budget_and_labels_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    points = draw(5, 150, 40)
    expected = dpc_knn(points, 75, 7)
    largest = 0

    def watch(original: Callable[..., object]) -> Callable[..., object]:
        def watched(d: Tensor, *args: object, **options: object) -> object:
            nonlocal largest
            largest = max(largest, d.numel() * 4)
            return original(d, *args, **options)

        return watched

    monkeypatch.setattr(Tensor, "topk", watch(Tensor.topk))
    monkeypatch.setattr(distances, "smallest", watch(distances.smallest))
    monkeypatch.setattr(distances, "_MANY", 40_000)  # that is, with two groups at a time
    for budget in (2 * 150 * 150 * 4, 40 * 150 * 4):  # two groups at a time; rows of one group
        monkeypatch.setattr(distances, "DISTANCE_BYTES", budget)
        largest = 0
        got = dpc_knn(points, 75, 7)
        assert torch.equal(got.labels, expected.labels)
        assert 0 < largest <= budget
        shifted = dpc_knn(points + 300, 75, 7)  # row blocks with fp64 products
        assert torch.equal(shifted.labels[0], truth(points[0] + 300, 75, 7))


def test_sklearn_agrees_on_densities_and_on_the_nearest_centre() -> None:
    points = draw(140, 96)
    found = dpc_knn(points[None], 35, 7)
    distance, _ = NearestNeighbors(n_neighbors=7).fit(points.numpy()).kneighbors(points.numpy())
    spread = torch.from_numpy((distance**2 / 96).mean(axis=1))
    held = distances.Distances(points[None], torch.ones(1, 140, dtype=torch.bool), 7)
    close(held.mean_nearest[0], spread.double(), dtype=torch.float32)
    centres = points[found.centres[0]].numpy()
    nearest = NearestNeighbors(n_neighbors=1).fit(centres).kneighbors(points.numpy(), return_distance=False)[:, 0]
    assert torch.equal(found.labels[0], torch.from_numpy(nearest))


def test_rounded_products_are_avoided() -> None:
    points = draw(2, 120, 64) + 3
    expected = dpc_knn(points, 60, 7).labels
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert products_are_rounded()
        assert torch.equal(dpc_knn(points, 60, 7).labels, expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_is_refused() -> None:
    points = draw(2, 5, 3)
    for bad, say in (
        (lambda: dpc_knn(points[0], 2, 2), "B, N, C"),
        (lambda: dpc_knn(points.long(), 2, 2), "floats"),
        (lambda: dpc_knn(points[:, :0], 2, 2), "nothing to cluster"),
        (lambda: dpc_knn(points, 0, 2), "num_clusters"),
        (lambda: dpc_knn(points, 2, 0), "k counts"),
        (lambda: dpc_knn(points, 2, 2, torch.ones(2, 4, dtype=torch.bool)), "valid is"),
        (lambda: dpc_knn(points, 2, 2, torch.zeros(2, 5, dtype=torch.bool)), "needs a point"),
    ):
        with pytest.raises(ValueError, match=say):
            bad()


@cache
def bits_depend_on_the_shape() -> bool:
    """Whether products of the same rows differ beside fewer others: of MKL's choices, MKL_CBWR=COMPATIBLE alone."""
    points = draw(3, 150, 512)
    fewer = points[:, :140]
    return not torch.equal(torch.bmm(points, points.mT)[:, :140, :140], torch.bmm(fewer, fewer.mT))


def same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    close(got, wanted)
    assert bits_depend_on_the_shape() or torch.equal(got, wanted)


def test_products_of_a_group_are_the_same_bits_in_any_batch() -> None:
    points = draw(3, 140, 3584)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # where a batch of one is split over threads in another way
        whole = distances._products(points, points)
        same(distances._products(points[1:2], points[1:2])[0], whole[1])
        same(distances._products(points[:2, :70], points[:2]), whole[:2, :70])
    finally:
        torch.set_num_threads(before)


def test_distances_by_row_blocks_are_zero_on_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    points = draw(1, 150, 40)
    monkeypatch.setattr(distances, "DISTANCE_BYTES", 40 * 150 * 4)
    held = distances.Distances(points, torch.ones(1, 150, dtype=torch.bool), 7)
    assert len(held.blocks) == 4
    rows = torch.cat([held._rows(block) for block in held.blocks], dim=1)[0]
    close(rows, torch.cdist(points, points)[0].square() / 40)
    assert bool((rows.diagonal() == 0).all())


@pytest.mark.parametrize("n", [26, 48, 49, 63, 64, 65, 97, 112, 113, 140])
def test_distances_are_the_same_bits_on_both_sides_and_wherever_a_point_stands(n: int) -> None:
    points = draw(3, 150, 512)
    place = torch.randperm(150, generator=torch.Generator().manual_seed(n))[:n].sort().values
    whole, _ = distances.Distances(points, torch.ones(3, 150, dtype=torch.bool), 7)._square()
    assert torch.equal(whole, whole.mT)
    assert bool((whole.diagonal(dim1=1, dim2=2) == 0).all())
    close(whole, torch.cdist(points, points).square() / 512)
    part, _ = distances.Distances(points[:, place], torch.ones(3, n, dtype=torch.bool), 7)._square()
    same(part, whole[:, place][:, :, place])


def test_labels_are_the_same_whether_rows_are_compared_as_wholes_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points = draw(4, 60, 40)
    expected = dpc_knn(points, 30, 7)
    used = []
    smallest = distances.smallest
    monkeypatch.setattr(distances, "smallest", lambda d, k: used.append(k) or smallest(d, k))
    for least, ks in ((1, [7]), (2**30, [])):
        monkeypatch.setattr(distances, "_MANY", least)
        used.clear()
        got = dpc_knn(points, 30, 7)
        assert used == ks
        assert torch.equal(got.labels, expected.labels)
        assert torch.equal(got.centres, expected.centres)
        assert torch.equal(dpc_knn(points, 30, 9).labels[0], truth(points[0], 30, 9))  # more neighbours than it can
