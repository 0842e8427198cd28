"""Stage 1 with all decisions on the device, under Triton's interpreter: beside `VideoMerge`, which is the law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunevid_qwen.stage1_merge import PruneVidMerge, merge_video, refine_segments
from prunevid_qwen.stage1_merge.prunevid import method as prunevid
from prunevid_qwen.stage1_merge.prunevid.on_cpu import VideoMerge
from tests.host_syncs import host_syncs
from tests.interpreter import needs_interpreter
from tests.test_reference_cases import CASES, load, merged
from tests.test_stage1 import draw, scene
from tests.tolerances import FEATURES, close

pytestmark = needs_interpreter


def same(x: Tensor, **options: Any) -> Any:
    from prunevid_qwen.stage1_merge.prunevid.on_gpu import DeviceMerge

    choice = PruneVidMerge(**options)
    law, merge = VideoMerge(x, choice), DeviceMerge(x, choice)
    expected, got = law.token_map(), merge.token_map()
    assert torch.equal(got.target, expected.target)
    assert torch.equal(got.rep, expected.rep)
    assert got.stratum is not None and expected.stratum is not None
    assert torch.equal(got.stratum, expected.stratum)
    assert all(torch.equal(a, b) for a, b in zip(merge.segment_sizes(), law.segment_sizes(), strict=True))
    assert merge.static_cells == law.static_cells
    return got


@pytest.mark.parametrize("scope", ["per_group", "video"])
@pytest.mark.parametrize("place", ["center", pytest.param("mean", marks=pytest.mark.nightly), "first"])
def test_the_same_map_as_on_a_cpu(scope: str, place: str) -> None:
    x = scene(t=4, h=3, w=5, moving=2 if place == "center" else 1)
    order = "grouped" if place == "mean" else "spatiotemporal"
    own = 0.3 if place == "first" else None
    same(
        x, cluster_scope=scope, merged_position=place, token_order=order, static_cluster_ratio=own, min_cluster_tokens=3
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (5, 1, 1), (3, 1, 7)])
@pytest.mark.parametrize("kind", ["noise", "equal", "zero"])
def test_small_and_flat_videos(shape: tuple[int, int, int], kind: str) -> None:
    x = draw(*shape, 8) if kind == "noise" else torch.full((*shape, 8), 1.0 if kind == "equal" else 0.0)
    got = same(x, min_cluster_tokens=2, cluster_scope="video" if kind == "zero" else "per_group")
    assert 1 <= got.n_out <= x[..., 0].numel()


def test_nothing_static_all_static_and_thresholds() -> None:
    still = draw(1, 3, 3, 16).expand(4, -1, -1, -1)
    assert same(still, tau=1.0, cluster_ratio=1.0).is_identity
    assert same(still, tau=0.99, min_cluster_tokens=2).n_out == 4
    same(still, tau=1e-6, cluster_ratio=0.29, min_cluster_tokens=0)


def test_narrow_types_and_duplicates() -> None:
    x = scene(t=4, h=4, w=4).bfloat16()
    x[:, 3] = x[:, 0]
    same(x, min_cluster_tokens=3)


def test_the_authors_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunevid, "wants_triton", lambda _: True)
    case = min((case for case in CASES if case["kind"] == "merge"), key=lambda case: case["T"] * case["H"] * case["W"])
    got = merged(case)
    assert torch.equal(got.static_sizes, load(f"merge{case['i']}_static"))
    assert torch.equal(got.dynamic_sizes, load(f"merge{case['i']}_dynamic"))
    assert torch.equal(got.window_sizes, load(f"merge{case['i']}_windows"))
    close(got.features, load(f"merge{case['i']}_out"), FEATURES)


def test_a_video_too_large_for_the_kernels_goes_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.config import PruneVidConfig

    monkeypatch.setattr(prunevid, "wants_triton", lambda _: True)
    monkeypatch.setattr(prunevid, "MOST_ON_GPU", 3)
    monkeypatch.setattr("prunevid_qwen.stage1_merge.prunevid.on_gpu.DeviceMerge", None)
    assert merge_video(scene(t=4, h=2, w=2), PruneVidConfig()).window_sizes.sum() == 4


@pytest.mark.parametrize("scope", ["per_group", "video"])
@pytest.mark.parametrize("place", ["center", "mean", "first"])
def test_the_host_waits_once(scope: str, place: str) -> None:
    from prunevid_qwen.stage1_merge.prunevid.on_gpu import DeviceMerge

    x = scene(t=2, h=2, w=3, moving=1)
    choice = PruneVidMerge(cluster_scope=scope, merged_position=place, min_cluster_tokens=0, static_cluster_ratio=0.4)
    with host_syncs() as seen:
        DeviceMerge(x, choice).token_map()
    assert seen == ["tolist"]


def test_the_counter_of_waits_sees_them() -> None:
    x = torch.arange(4)
    with host_syncs() as seen:
        x.sum().item()
        bool(x[0] == 0)
        x[x > 1]
        x.nonzero()
        x.repeat_interleave(x)
        x.cpu()
        x.index_select(0, x)
    assert seen == ["item", "__bool__", "aten::index", "aten::nonzero", "aten::repeat_interleave", "cpu"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=12))
def test_segments_are_those_of_the_law(runs: list[tuple[int, int]]) -> None:
    from prunevid_qwen.kernels.triton_segments import contiguous_segments

    labels = torch.tensor([label for label, length in runs for _ in range(length)])
    got = contiguous_segments(labels)
    count = int(got.number)
    refined = refine_segments(labels)
    assert torch.equal(got.label[:count].repeat_interleave(got.length[:count]), refined)
    assert count == 1 + int((refined.diff() != 0).sum())
    assert got.start[count:].eq(len(labels)).all() and got.length[count:].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_passes_over_the_features(dtype: torch.dtype) -> None:
    from prunevid_qwen.kernels import temporal_similarity
    from prunevid_qwen.kernels.temporal_similarity_triton import over_space, over_time

    x = (draw(1, 3, 530) + draw(7, 3, 530, seed=1)).to(dtype)
    x[5] = 0
    mean, norm = over_space(x)
    start, length = torch.tensor([0, 2, 3, 7]), torch.tensor([2, 1, 4, 0])
    similarity, means = over_time(x, norm, start, length)
    close(mean, x.float().mean(1))
    close(norm, x.float().square().sum(2).flatten())
    for row, part in ((0, x[:2]), (2, x[3:])):
        close(similarity[row], temporal_similarity.reference(part), dtype=torch.float32)
        close(means[row], part.float().mean(0))
    assert similarity[[1, 3]].isnan().all()
