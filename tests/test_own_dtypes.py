"""Our arithmetic names its dtypes: neither a caller's autocast nor the default dtype changes a decision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.positions import reference_positions
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.collector import _numbers
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, _cut
from prunevid_qwen.kernels import (
    cluster_mean,
    dpc_knn,
    pooled_attention,
    question_attention,
    received_attention,
    temporal_similarity,
)
from prunevid_qwen.stage1_merge import merge_video
from tests import glimpse
from tests.models import MIXED, RAGGED, make_inputs, tiny_model
from tests.test_keep_everything import KEEP
from tests.test_pruning_equals_masking import TINY
from tests.test_reducer_contract import REDUCERS, build, evidence, only_what_it_asks_for

STAND_IN = ["autocast", "default bfloat16", "default float64"]


@contextmanager
def standing_in(name: str) -> Iterator[None]:
    """What a caller may have switched on around a call."""
    if name == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name.split()[1]))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float32)


def still(*shape: int) -> torch.Tensor:
    """A video of which the left half stands still."""
    video = noise(*shape)
    video[:, :, : shape[2] // 2] = video[:1, :, : shape[2] // 2]
    return video


# what a kernel gives for the same numbers, wherever it is called
GIVEN = torch.tensor([0, 1, 0, 2, -1, 2])
KERNELS = {
    "dpc_knn": lambda: dpc_knn.dpc_knn(noise(3, 20, 8), 4, 3).labels,
    "dpc_knn law": lambda: dpc_knn.reference(noise(20, 8), 4, 3).labels,
    "denser_distances": lambda: dpc_knn.denser_distances(noise(2, 30, 8), 3),
    "mean_similarity": lambda: temporal_similarity.mean_similarity(noise(4, 6, 8)),
    "frame_means": lambda: temporal_similarity.frame_means(noise(4, 6, 8)),
    "time_means": lambda: temporal_similarity.time_means(noise(4, 6, 8)),
    "cluster_mean": lambda: cluster_mean.cluster_mean(noise(6, 8), GIVEN, 3),
    "cluster_mean law": lambda: cluster_mean.reference(noise(6, 8), GIVEN, 3),
    "question_attention": lambda: question_attention.question_attention(
        noise(4, 3, 8), noise(2, 9, 8), torch.arange(2, 6), torch.arange(6, 9), 0.3
    ),
    "rows and heads of it": lambda: question_attention.question_attention(
        noise(4, 3, 8), noise(2, 9, 8), torch.arange(2, 6), torch.arange(6, 9), 0.3, "mean", "each", 2
    ),
    "pooled_attention": lambda: pooled_attention.pooled_attention(noise(2, 9, 8), noise(2, 9, 8), [6, 3], 3, 0.3),
    "received_attention": lambda: received_attention.received_attention(noise(2, 9, 8), noise(2, 9, 8), [4, 4, 1], 0.3),
    "merge_video": lambda: merge_video(still(4, 4, 6, 8), PruneVidConfig(min_cluster_tokens=0)).features,
    "marks": lambda: _numbers([[0.1, 0.7]])[0],
    "pixels": lambda: _cut(torch.arange(2 * 3 * 28 * 28).view(2, 3, 28, 28).byte(), PixelOptions(), 28, 28)[0],
    "positions": lambda: reference_positions(torch.tensor([[2] * 12 + [0]]), None, [], [(3, 2, 2)], [0.7], 2.3)[0],
}


@pytest.mark.parametrize("name", STAND_IN)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gives_the_same_bits(kernel: str, name: str) -> None:
    wanted = KERNELS[kernel]()
    with standing_in(name):
        got = KERNELS[kernel]()
    assert got.dtype == wanted.dtype
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", STAND_IN[1:])
@pytest.mark.parametrize(("stage", "reducer"), REDUCERS)
def test_a_reducer_decides_alike_under_every_default_dtype(stage: int, reducer: str, name: str) -> None:
    method = build(reducer, {"min_cluster_tokens": 3}, stage)
    seen = only_what_it_asks_for(method, evidence("image between videos"))
    wanted = method.plan(seen)
    with standing_in(name):
        got = build(reducer, {"min_cluster_tokens": 3}, stage).plan(seen)
    assert torch.equal(got.target, wanted.target)
    assert torch.equal(got.rep, wanted.rep)


@pytest.mark.parametrize("name", STAND_IN)
def test_with_everything_kept_the_answer_is_the_stock_models(name: str) -> None:
    config = PruneVidConfig(**KEEP, position_scheme="hf")
    with standing_in(name), torch.no_grad():
        wanted = tiny_model()(**make_inputs(MIXED)).logits
        with pruned(tiny_model(), config):
            got = tiny_model()(**make_inputs(MIXED)).logits
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", STAND_IN)
@pytest.mark.parametrize("options", [{}, {"merger": "pool", "selector": "dpp"}, {"selector": "glimpse"}], ids=str)
def test_a_model_is_pruned_as_much(options: dict[str, str], name: str) -> None:
    config = PruneVidConfig(**TINY).replace(**options)
    if options.get("selector") == "glimpse":
        config = glimpse.config(keep_threshold=None, keep_ratio=0.4)
    inputs = make_inputs(RAGGED)  # floats of the usual type
    wanted = tiny_counts(inputs, config)
    with standing_in(name):
        assert tiny_counts(inputs, config) == wanted


def tiny_counts(inputs: dict[str, Any], config: PruneVidConfig) -> list[tuple[int, int]]:
    with pruned(tiny_model(), config) as trace:
        tiny_model().generate(**inputs, max_new_tokens=2, do_sample=False)
    return [(sample.tokens, sample.after_stage2) for sample in trace.samples]
