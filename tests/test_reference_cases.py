"""The authors' own answers (tests/data/prunevid_reference.npz): labels and indices exactly, features to 1e-5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import get_reference_config
from prunevid_qwen.kernels import dpc_knn as kernel
from prunevid_qwen.stage1_merge import MergedVideo, dpc_knn, merge_video, refine_segments
from prunevid_qwen.stage2_select import max_max_scores, select_per_group
from tests.tolerances import FEATURES, close

DATA = np.load(Path(__file__).parent / "data" / "prunevid_reference.npz")
CASES: list[dict[str, Any]] = json.loads(bytes(DATA["meta"]))


def of(kind: str) -> list[Any]:
    return [pytest.param(case, id=f"{kind}{case['i']}") for case in CASES if case["kind"] == kind]


def load(name: str) -> Tensor:
    return torch.from_numpy(DATA[name])


def merged(case: dict[str, Any], **options: Any) -> MergedVideo:
    config = get_reference_config().replace(
        tau=case["tau"],
        temporal_segment_ratio=case["temporal_segment_ratio"],
        cluster_ratio=case["cluster_ratio"],
        dpc_knn_k=case["k"],
        min_cluster_tokens=case["min_cluster_tokens"],
        **options,
    )
    frames = load(f"merge{case['i']}_frames")
    return merge_video(frames.view(case["T"], case["H"], case["W"], case["C"]), config)


@pytest.mark.parametrize("case", of("dpc"))
def test_clusters(case: dict[str, Any]) -> None:
    points, expected = load(f"dpc{case['i']}_x"), load(f"dpc{case['i']}_idx")
    assert torch.equal(dpc_knn(points, case["clusters"], case["k"]), expected)
    for group, labels in zip(points, expected, strict=True):
        assert torch.equal(kernel.reference(group, case["clusters"], case["k"]).labels, labels)


@pytest.mark.parametrize("case", of("refine"))
def test_refined_segments(case: dict[str, Any]) -> None:
    labels, refined, lengths = (load(f"ref{case['i']}_{part}") for part in ("in", "out", "len"))
    for given, expected, length in zip(labels, refined, lengths, strict=True):
        got = refine_segments(given)
        assert torch.equal(got, expected)
        assert torch.equal(got.unique_consecutive(return_counts=True)[1], length[length > 0])


@pytest.mark.parametrize("case", of("merge"))
def test_merged_video(case: dict[str, Any]) -> None:
    got = merged(case)
    for name in ("static", "dynamic", "window"):
        expected = load(f"merge{case['i']}_{'windows' if name == 'window' else name}")
        assert torch.equal(getattr(got, f"{name}_sizes"), expected), name
    close(got.features, load(f"merge{case['i']}_out"), FEATURES)


@pytest.mark.parametrize("case", of("merge"))
def test_spatiotemporal_order_holds_the_same_tokens(case: dict[str, Any]) -> None:
    grouped, sorted_ = merged(case), merged(case, token_order="spatiotemporal")
    order = grouped.token_map.rep.argsort(stable=True)
    assert torch.equal(sorted_.features, grouped.features[order])
    assert torch.equal(sorted_.positions, grouped.positions[order])
    assert bool((sorted_.token_map.rep.diff() > 0).all())


@pytest.mark.parametrize("case", of("select"))
def test_selection_per_group(case: dict[str, Any]) -> None:
    name = f"sel{case['i']}_{case['alpha']}"
    sizes = (load(f"merge{case['i']}_{part}") for part in ("static", "dynamic", "windows"))
    got = select_per_group(max_max_scores(load(f"{name}_attn")), *sizes, case["alpha"])
    assert torch.equal(got, load(f"{name}_idx"))
