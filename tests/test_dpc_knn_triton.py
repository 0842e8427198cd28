"""DPC-KNN's kernels under Triton's interpreter, beside `reference`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.kernels import dpc_knn as kernel
from prunevid_qwen.kernels.dpc_knn import denser_distances, dpc_knn, reference
from tests.interpreter import needs_interpreter
from tests.test_dpc_knn import draw, truth
from tests.tolerances import close

pytestmark = needs_interpreter


@pytest.fixture(autouse=True)
def by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "wants_triton", lambda _: True)


def check(points: Tensor, clusters: int, k: int) -> None:
    got = dpc_knn(points[None], clusters, k)
    expected = reference(points, clusters, k)
    assert torch.equal(got.labels[0], expected.labels)
    assert torch.equal(got.centres[0], expected.centres)


@pytest.mark.parametrize(
    ("n", "width", "clusters", "k"), [(1, 5, 3, 5), (3, 7, 2, 5), (16, 33, 16, 16), (17, 64, 20, 1), (63, 40, 31, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_reference(n: int, width: int, clusters: int, k: int, dtype: torch.dtype) -> None:
    check(draw(n, width, seed=n).to(dtype), clusters, k)


def test_more_than_two_tiles_of_products() -> None:
    check(draw(130, 20).bfloat16(), 65, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_all_points_equal(dtype: torch.dtype, value: float) -> None:
    labels = dpc_knn(torch.full((2, 20, 24), value, dtype=dtype), 4, 5).labels
    assert labels.tolist() == [[0, 1, 2, 3] + [0] * 16] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_duplicates_far_apart_tie_by_index(dtype: torch.dtype) -> None:
    points = draw(70, 16).to(dtype)
    points[50:] = points[:20].flip(0)
    check(points, 60, 3)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param((draw(24, 32) + 300).half(), id="large mean"),
        pytest.param(draw(24, 32) * 1e-4, id="small scale"),
        pytest.param((draw(3, 32).repeat_interleave(8, 0) + 0.02 * draw(24, 32, seed=1)).half(), id="near duplicates"),
    ],
)
def test_cancellation_does_not_change_labels(points: Tensor) -> None:
    assert torch.equal(dpc_knn(points[None], 12, 5).labels[0], truth(points, 12, 5))


def test_padding_counts_and_blocks_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.kernels import dpc_knn_triton

    monkeypatch.setattr(dpc_knn_triton, "SCRATCH_BYTES", 2 * 20 * 32 * 4)  # two groups at a time
    points, wanted = draw(3, 20, 9), torch.tensor([1, 4, 30])
    valid = torch.rand(3, 20, generator=torch.Generator().manual_seed(3)) > 0.4
    got = dpc_knn(points, wanted, 3, valid)
    deltas = denser_distances(points, 3, valid)
    monkeypatch.setattr(kernel, "wants_triton", lambda _: False)
    expected = dpc_knn(points, wanted, 3, valid)
    assert torch.equal(got.labels, expected.labels)
    assert torch.equal(got.centres, expected.centres)
    close(deltas, denser_distances(points, 3, valid), dtype=torch.float32)


def test_empty_groups_are_left_alone_and_nan_stays_in_range() -> None:
    from prunevid_qwen.kernels.dpc_knn_triton import Points, ragged_clusters

    base = draw(12, 6)
    base[7] = float("nan")
    rows = torch.arange(12).view(2, 6)
    found = ragged_clusters(
        [Points(base, rows[:1]), Points(base, rows)], torch.tensor([4, 0, 6]), torch.tensor([2, 1, 3]), 3
    )
    expected = reference(base[:4], 2, 3)
    assert torch.equal(found.labels[0, :4], expected.labels)
    assert torch.equal(found.centres[0, :2], expected.centres)
    assert found.labels[2].ge(0).all() and found.labels[2].lt(3).all()
    assert sorted({*found.centres[2, :3].tolist()} - set(range(6))) == []
