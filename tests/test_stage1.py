"""Stage 1: segments, static locations, merging, places and order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.kernels import temporal_similarity
from prunevid_qwen.kernels.dpc_knn import dpc_knn
from prunevid_qwen.kernels.temporal_similarity import frame_means, mean_similarity, reference, time_means
from prunevid_qwen.reducer import Evidence
from prunevid_qwen.stage1_merge import MergedVideo, PruneVidMerge, merge_video, refine_segments
from prunevid_qwen.stage1_merge.prunevid.static import static_locations
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from tests.tolerances import FEATURES, close


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scene(t: int = 8, h: int = 5, w: int = 6, width: int = 48, moving: int = 2) -> Tensor:
    """A picture that changes in the middle of the video; the first ``moving`` columns change all the time."""
    x = torch.cat(
        [
            draw(1, h, w, width, seed=1).expand(t // 2, -1, -1, -1),
            draw(1, h, w, width, seed=2).expand(t - t // 2, -1, -1, -1),
        ]
    )
    x = x + 0.05 * draw(t, h, w, width, seed=3)
    x[:, :, :moving] = draw(t, h, moving, width, seed=4)
    return x


def merge(x: Tensor, **options: Any) -> MergedVideo:
    return merge_video(x, PruneVidConfig(**options))


@pytest.mark.parametrize(
    ("labels", "refined"),
    [
        ([0], [0]),
        ([3, 3, 3], [3, 3, 3]),
        ([0, 1, 0, 1], [0, 0, 0, 0]),  # every run is 1 long and has no neighbour
        ([0, 0, 1, 0, 2, 2], [0, 0, 0, 0, 2, 2]),  # left on a tie
        ([0, 0, 1, 2, 2, 2], [0, 0, 2, 2, 2, 2]),  # the longer run wins
        ([5, 1, 1], [1, 1, 1]),
        ([1, 1, 2], [1, 1, 1]),
        ([1, 1, 0, 2, 2, 2, 1, 1], [1, 1, 2, 2, 2, 2, 1, 1]),  # both longest runs of 1 stay
        ([1, 1, 0, 3, 3, 3, 4, 2, 2, 2, 2], [1, 1, 3, 3, 3, 3, 3, 2, 2, 2, 2]),  # what was assigned counts: a tie at 4
        ([1, 1, 1, 2, 2, 1, 1, 0, 0], [1, 1, 1, 2, 2, 2, 2, 0, 0]),  # a shorter run of 1 goes
    ],
)
def test_refinement_by_hand(labels: list[int], refined: list[int]) -> None:
    assert refine_segments(torch.tensor(labels)).tolist() == refined


@pytest.mark.parametrize("length", [2, 5, 12, 13, 40])
def test_similarity_is_the_mean_over_pairs(length: int) -> None:
    x = draw(1, 9, 70) + draw(length, 9, 70, seed=1) * torch.linspace(0, 2, 9)[:, None]
    unit = x.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    pairs = [(unit[a] * unit[b]).sum(-1) for a in range(length) for b in range(length) if a != b]
    for got in (reference(x), mean_similarity(x)):
        close(got, torch.from_numpy(np.mean(pairs, axis=0)), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_similarity_of_narrow_types_is_taken_in_parts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (draw(1, 9, 70) + draw(8, 9, 70, seed=1)).to(dtype)
    for size in (1, 3 * 9 * 70 * 4, 2**24):  # one position at a time; 3, 3 and 2; all
        monkeypatch.setattr(temporal_similarity, "_CAST_BYTES", size)
        close(mean_similarity(x), reference(x), dtype=torch.float32)


@pytest.mark.parametrize("length", [2, 30])
def test_zero_vectors_are_not_static_and_equal_ones_are_unless_tau_is_one(length: int) -> None:
    x = draw(1, 40, 33).expand(length, -1, -1).clone()
    x[:, 0] = 0
    assert static_locations(x, [length], 0.999)[0].tolist() == [False] + [True] * 39
    assert not bool(static_locations(x, [length], 1.0).any())
    assert not bool(static_locations(x, [1] * length, 0.1).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_means_over_space_and_time(dtype: torch.dtype) -> None:
    x = draw(6, 7, 20).to(dtype)
    close(frame_means(x), x.double().mean(1).float())
    close(time_means(x), x.double().mean(0).float())


@pytest.mark.parametrize("order", ["grouped", "spatiotemporal"])
@pytest.mark.parametrize("place", ["center", "mean", "first"])
def test_features_and_positions_are_those_of_the_members(order: str, place: str) -> None:
    x = scene()
    t, h, w, width = x.shape
    got = merge(x, merged_position=place, token_order=order)
    step = got.token_map
    assert got.window_sizes.tolist() == [4, 4]
    assert 0 < got.static_ratio < 1
    assert step.n_in == t * h * w
    assert bool((step.target >= 0).all())
    cells = torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w))
    for j in range(step.n_out):
        member = step.target == j
        close(got.features[j], x.view(-1, width)[member].mean(0), FEATURES)
        mine = cells[member]
        if place == "mean":
            assert got.positions[j].tolist() == (mine.double().mean(0) + 0.5).floor().long().tolist()
        elif place == "first":
            assert got.positions[j].tolist() == mine[0].tolist()
        else:
            assert got.positions[j].tolist() in mine.tolist()
    assert torch.equal(cells[step.rep], got.positions)
    if order == "spatiotemporal":
        assert bool((step.rep.diff() >= 0).all())
    assert int(got.static_sizes.sum() + got.dynamic_sizes.sum()) == step.n_out


def test_grouped_order_and_strata() -> None:
    x = scene()
    got = merge(x, token_order="grouped")
    stratum = got.token_map.stratum
    assert stratum is not None
    sizes = []
    for static, dynamic, window in zip(got.static_sizes, got.dynamic_sizes, got.window_sizes, strict=True):
        sizes += [int(static), *[int(dynamic // window)] * int(window)]
    assert stratum.unique_consecutive(return_counts=True)[1].tolist() == sizes
    assert stratum.unique().numel() == 2 + 8
    start = 0
    for segment, (static, dynamic) in enumerate(
        zip(got.static_sizes.tolist(), got.dynamic_sizes.tolist(), strict=True)
    ):
        times = got.positions[start : start + static + dynamic, 0]
        assert (times[:static] == segment * 4 + 1).all(), "a static token stands in the middle of its segment"
        assert times[static:].tolist() == sorted(times[static:].tolist())
        start += static + dynamic
    other = merge(x, token_order="spatiotemporal").token_map
    assert other.stratum is not None
    assert torch.equal(other.stratum, stratum[got.token_map.rep.argsort(stable=True)])


def test_places_are_the_centres_of_the_clusters() -> None:
    x = scene()
    got = merge(x, token_order="grouped")
    expected = []
    for segment in range(2):
        part = x[4 * segment : 4 * segment + 4].flatten(1, 2)
        static = static_locations(part, [4], 0.8)[0]
        for group, members, time in [(part[:, static].mean(0), static, 4 * segment + 1)] + [
            (part[i, ~static], ~static, 4 * segment + i) for i in range(4)
        ]:
            n = len(group)
            where = members.nonzero()[:, 0]
            centres = dpc_knn(group[None], n // 2, 5).centres[0] if n > 14 else torch.arange(n)
            expected.append(time * 30 + where[centres])
    assert torch.equal(got.token_map.rep, torch.cat(expected))


def test_counts_follow_the_formula() -> None:
    for ratio, least in ((0.5, 14), (0.3, 0), (0.01, 3), (0.5, 100)):
        got = merge(scene(), cluster_ratio=ratio, min_cluster_tokens=least)
        for sizes, n, groups in ((got.static_sizes, 20, 1), (got.dynamic_sizes, 10, 4)):
            each = max(1, int(n * ratio)) if n > least else n
            assert sizes.tolist() == [each * groups] * 2


@pytest.mark.parametrize("moving", [0, 1, 2, 3, 5, 6])
def test_the_way_groups_are_batched_does_not_show(moving: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.stage1_merge.prunevid import on_cpu as video

    x = scene(moving=moving)
    whole = merge(x, min_cluster_tokens=3)
    for share, size in ((0.0, 2**24), (2.0, 2**24), (2.0, 1)):
        monkeypatch.setattr(video, "_MASKED_SHARE", share)
        monkeypatch.setattr(video, "_GATHER_BYTES", size)
        other = merge(x, min_cluster_tokens=3)
        assert torch.equal(other.token_map.target, whole.token_map.target)
        assert torch.equal(other.token_map.rep, whole.token_map.rep)


def test_nothing_static_and_no_clusters_is_the_identity() -> None:
    for order in ("grouped", "spatiotemporal"):
        still = draw(1, 5, 6, 16).expand(8, -1, -1, -1)
        got = merge(still, tau=1, cluster_ratio=1.0, token_order=order)
        assert got.token_map.is_identity
        assert torch.equal(got.features, still.reshape(-1, 16))
        assert got.static_ratio == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 5), (5, 1, 1), (3, 1, 7), (2, 5, 5)])
@pytest.mark.parametrize("kind", ["noise", "equal", "zero"])
def test_small_and_flat_videos(shape: tuple[int, int, int], kind: str) -> None:
    x = draw(*shape, 8) if kind == "noise" else torch.full((*shape, 8), 1.0 if kind == "equal" else 0.0)
    got = merge(x, min_cluster_tokens=2)
    assert 1 <= got.token_map.n_out <= x[..., 0].numel()
    assert bool(got.features.isfinite().all())
    assert int(got.window_sizes.sum()) == shape[0]
    if kind == "equal" and shape[0] > 1:
        assert got.static_ratio == 1.0 or got.window_sizes.min() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_narrow_types_are_decided_in_fp32(dtype: torch.dtype) -> None:
    x = scene().to(dtype)
    got, wide = merge(x), merge(x.float())
    assert got.features.dtype == dtype
    assert torch.equal(got.token_map.target, wide.token_map.target)
    close(got.features.float(), wide.features, dtype=dtype if dtype != torch.float64 else torch.float32)


def test_the_input_is_untouched_and_runs_repeat() -> None:
    x = scene()
    before = x.clone()
    first, second = merge(x), merge(x)
    assert torch.equal(x, before)
    assert torch.equal(first.features, second.features)
    assert torch.equal(merge(x.transpose(1, 2).contiguous().transpose(1, 2)).features, first.features)


def test_reducer_handles_each_block_on_its_own() -> None:
    video, other, image = scene(), scene(t=4, h=3, w=6, moving=3), draw(1, 4, 6, 48)
    flat = [x.reshape(-1, 48) for x in (video, image, other)]
    grids = [x.shape[:3] for x in (video, image, other)]
    blocks, start = [], 0
    for kind, grid, x in zip(("video", "image", "video"), grids, flat, strict=True):
        blocks.append(Block(kind, tuple(grid), start, start + len(x)))
        start += len(x)
    layout = TokenLayout(
        start + 2, torch.arange(start), torch.arange(start, start + 2), tuple(blocks), torch.zeros(start).long()
    )
    seen = Evidence(layout, torch.cat(flat), draw(2, 48))
    parts = [merge(video).token_map, TokenMap.identity(24), merge(other).token_map]
    expected = TokenMap.concat(parts)
    got = PruneVidMerge().plan(seen)
    assert torch.equal(got.target, expected.target)
    assert torch.equal(got.rep, expected.rep)
    assert got.stratum is not None
    assert expected.stratum is not None
    assert torch.equal(got.stratum, expected.stratum)
    parts[1] = merge(image).token_map
    with_images = PruneVidMerge(merge_images=True).plan(seen)
    assert torch.equal(with_images.target, TokenMap.concat(parts).target)
    left, _ = layout.apply(got)
    with pytest.raises(ValueError, match="whole blocks"):
        PruneVidMerge().plan(Evidence(left, got.mean(seen.hidden), seen.question))


def test_what_is_refused() -> None:
    for bad in (draw(3, 4, 5), draw(2, 0, 3, 4), torch.zeros(2, 2, 2, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match="T, H, W, C"):
            merge(bad)


@pytest.mark.parametrize("length", [8, 30])
def test_one_black_position_does_not_hide_a_static_location(length: int) -> None:
    x = draw(1, 5, 33).expand(length, -1, -1).clone()
    x[3] = 0
    expected = torch.full((5,), ((length - 1) ** 2 - length) / (length * (length - 1)), dtype=torch.float64)
    for got in (reference(x), mean_similarity(x)):
        close(got, expected, dtype=torch.float32)
