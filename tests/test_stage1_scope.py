"""cluster_scope="video" and static_cluster_ratio: the same number of tokens, spent where there is something to see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.kernels import distances
from prunevid_qwen.kernels import dpc_knn as kernel
from prunevid_qwen.stage1_merge import MergedVideo, merge_video
from prunevid_qwen.stage1_merge.prunevid.static import static_locations
from tests.test_stage1 import draw, scene
from tests.tolerances import close


def merge(x: Tensor, **options: Any) -> MergedVideo:
    return merge_video(x, PruneVidConfig(**options))


def deltas(points: Tensor, k: int) -> Tensor:
    """Distance to the nearest denser point of one group, one formula a line."""
    distance = (
        torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").double() / points.shape[1] ** 0.5
    )
    density = -distance.square().sort(dim=1).values[:, :k].mean(dim=1)
    return torch.stack([
        distance[i, density > density[i]].min() if bool((density > density[i]).any()) else distance.max()
        for i in range(len(points))
    ])  # fmt: skip


@pytest.mark.parametrize(("size", "k"), [(40, 5), (9, 3), (2, 2), (1, 5)])
def test_deltas_are_distances_to_a_denser_point(size: int, k: int) -> None:
    points = draw(2, size, 12, seed=size)
    valid = torch.ones(2, size + 3, dtype=torch.bool)
    valid[:, size:] = False
    padded = torch.cat([points, draw(2, 3, 12)], dim=1)
    for got in (kernel.denser_distances(points, k), kernel.denser_distances(padded, k, valid)):
        for group in range(2):
            expected = deltas(points[group], min(k, size))
            if size == 2:  # equally dense: the lower index counts as the denser
                expected = torch.full((2,), float((points[group, 0] - points[group, 1]).norm() / 12**0.5))
            close(got[group, :size].float(), expected.float())
        assert bool((got[:, size:] == -torch.inf).all())


def test_deltas_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    points = draw(6, 30, 16)
    whole = kernel.denser_distances(points, 5)
    monkeypatch.setattr(distances, "DISTANCE_BYTES", 30 * 30 * 4 * 2)
    assert torch.equal(kernel.denser_distances(points, 5), whole)
    with pytest.raises(ValueError, match="at least 1"):
        kernel.denser_distances(points, 0)


@pytest.mark.parametrize("least", [0, 1, 14])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("moving", [0, 1, 2, 5, 6])
def test_as_many_tokens_as_per_group_and_one_of_each_group(moving: int, ratio: float, least: int) -> None:
    x = scene(moving=moving)
    options = {"cluster_ratio": ratio, "min_cluster_tokens": least}
    each, shared = merge(x, **options), merge(x, cluster_scope="video", **options)
    assert shared.token_map.n_out == each.token_map.n_out
    assert torch.equal(shared.window_sizes, each.window_sizes)
    assert each.token_map.stratum is not None
    assert shared.token_map.stratum is not None
    assert torch.equal(shared.token_map.stratum.unique(), each.token_map.stratum.unique())  # no group is left out
    assert int(shared.static_sizes.sum() + shared.dynamic_sizes.sum()) == shared.token_map.n_out


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5), (5, 1, 1), (3, 1, 7), (2, 5, 5), (4, 2, 2)])
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("kind", ["noise", "equal", "zero"])
def test_small_and_flat_videos(shape: tuple[int, int, int], least: int, kind: str) -> None:
    x = draw(*shape, 8) if kind == "noise" else torch.full((*shape, 8), 1.0 if kind == "equal" else 0.0)
    for ratio in (0.01, 0.4, 1.0):
        options = {"cluster_ratio": ratio, "min_cluster_tokens": least}
        each, shared = merge(x, **options), merge(x, cluster_scope="video", **options)
        assert shared.token_map.n_out == each.token_map.n_out
        assert bool(shared.features.isfinite().all())


def test_the_counts_of_groups_follow_the_ranking_of_all_their_points() -> None:
    """By hand: all points of all groups, the densest of each group free, the rest by delta."""
    x = scene(moving=3)
    got = merge(x, cluster_ratio=0.3, min_cluster_tokens=0, cluster_scope="video", token_order="grouped")
    groups = []
    for segment in range(2):
        part = x[4 * segment : 4 * segment + 4].flatten(1, 2)
        static = static_locations(part, [4], 0.8)[0]
        groups += [part[:, static].mean(0), *[part[i, ~static] for i in range(4)]]
    budget = sum(max(1, int(len(group) * 0.3)) for group in groups) - len(groups)
    ranked = sorted(
        (-value, number)
        for number, group in enumerate(groups)
        for value in deltas(group, 5).sort(descending=True).values[1:].tolist()
    )
    expected = torch.ones(len(groups), dtype=torch.long)
    for _, number in ranked[:budget]:
        expected[number] += 1
    assert got.token_map.stratum is not None
    assert torch.equal(got.token_map.stratum.unique_consecutive(return_counts=True)[1], expected)
    assert len(set(expected.tolist())) > 2, "the groups differ"


def busy(t: int = 8, side: int = 6, width: int = 32) -> Tensor:
    """A flat still background; a patch of nine cells of which each shows its own thing and moves in the second half."""
    x = draw(1, 1, 1, width, seed=1).expand(t, side, side, -1) + 0.01 * draw(t, side, side, width, seed=2)
    x[: t // 2, 1:4, 1:4] = draw(1, 3, 3, width, seed=3)
    x[t // 2 :, 1:4, 1:4] = draw(t - t // 2, 3, 3, width, seed=4)
    return x


def test_a_busy_patch_gets_the_clusters_of_a_flat_background() -> None:
    x = busy()
    patch = torch.zeros(8, 6, 6, dtype=torch.bool)
    patch[:, 1:4, 1:4] = True
    inside = []
    for cluster_scope in ("per_group", "video"):
        got = merge(x, cluster_ratio=0.2, min_cluster_tokens=0, cluster_scope=cluster_scope)
        inside.append(int(got.token_map.target[patch.flatten()].unique().numel()))
    assert inside[1] >= 1.5 * inside[0]


def test_the_video_is_decided_alike_however_groups_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.stage1_merge.prunevid import on_cpu as video

    for moving in (1, 3, 5):
        x = scene(moving=moving)
        whole = merge(x, cluster_scope="video", min_cluster_tokens=3)
        for share, size in ((0.0, 2**24), (2.0, 2**24), (2.0, 1)):
            monkeypatch.setattr(video, "_MASKED_SHARE", share)
            monkeypatch.setattr(video, "_GATHER_BYTES", size)
            other = merge(x, cluster_scope="video", min_cluster_tokens=3)
            assert torch.equal(other.token_map.target, whole.token_map.target)
            assert torch.equal(other.token_map.rep, whole.token_map.rep)
        monkeypatch.undo()


@pytest.mark.parametrize("scope", ["per_group", "video"])
def test_static_tokens_may_have_a_ratio_of_their_own(scope: str) -> None:
    options = {"cluster_ratio": 0.6, "min_cluster_tokens": 0}
    same, own = merge(scene(), **options), merge(scene(), static_cluster_ratio=0.6, **options)
    assert torch.equal(same.token_map.target, own.token_map.target)
    few = merge(scene(), static_cluster_ratio=0.1, cluster_scope=scope, **options)
    assert few.token_map.n_out == 2 * int(20 * 0.1) + 8 * int(10 * 0.6)
    if scope == "per_group":
        assert few.static_sizes.tolist() == [2, 2]
        assert torch.equal(few.dynamic_sizes, same.dynamic_sizes)
