"""Where a kernel runs: decided by the tensor, by what is installed and by the GPU; and that unwritten memory shows."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import prunevid_qwen.kernels
from prunevid_qwen.kernels import launch, question_attention
from prunevid_qwen.stage1_merge import PruneVidMerge
from tests import poison
from tests.poison import poisoned


def on_gpu(index: int = 0) -> Any:
    return types.SimpleNamespace(is_cuda=True, get_device=lambda: index)


@pytest.mark.parametrize(
    ("capability", "has_triton", "wants"),
    [((8, 0), True, True), ((7, 5), True, False), ((9, 4), True, True), ((10, 0), True, True), ((9, 0), False, False)],
)
def test_triton_runs_on_gpus_it_is_compiled_for(
    capability: tuple[int, int], has_triton: bool, wants: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_has_triton", lambda: has_triton)
    monkeypatch.setattr(launch, "_capability", lambda _: capability)
    assert launch.wants_triton(on_gpu()) is wants
    assert launch.wants_triton(torch.zeros(1)) is False


def test_two_gpus_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    launch._capability.cache_clear()
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((7, 0), (9, 0))[device])
    assert [launch.wants_triton(on_gpu(i)) for i in (0, 1)] == [False, True]
    launch._capability.cache_clear()


def test_the_kernels_memory_is_poisoned_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[torch.Tensor] = []  # what unfilled memory holds, nobody knows
    monkeypatch.setattr(poison, "fill", lambda x, fill=poison.fill: filled.append(x) or fill(x))
    namespace = {"__name__": "prunevid_qwen.kernels.some", "torch": torch}
    with poisoned():
        exec("a = torch.empty(3); b = torch.empty_like(a, dtype=torch.int64)", namespace)
        exec("c = a.new_empty(2, dtype=torch.bool)", namespace)
        torch.empty(3)
    assert namespace["a"].isnan().all() and (namespace["b"] == 2**63 // 3).all() and namespace["c"].all()
    assert [id(each) for each in filled] == [id(namespace[name]) for name in "abc"]
    before = torch.empty
    with poisoned():
        assert torch.empty is not before
    assert torch.empty is before


def test_a_tensor_on_the_cpu_never_loads_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even under the interpreter: a kernel on a CPU is torch's."""
    monkeypatch.setitem(sys.modules, "prunevid_qwen.kernels.question_attention_triton", None)
    q = torch.randn(2, 3, 8)
    assert question_attention.question_attention(q, q, torch.arange(3), None, 1.0).shape == (3,)


X = torch.randn(1, 3, 8)
LAUNCHES: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "question_attention": ("question_attention", "", lambda m: m.question_attention(X, X, torch.arange(3), None, 1.0)),
    "cache_compaction": ("cache_compaction", "", lambda m: m.compact([X[None]], torch.arange(2)[None], 0)),
    "dpc_knn": ("dpc_knn", "", lambda m: m.dpc_knn(X, 2, 1)),
    "denser_distances": ("dpc_knn", "", lambda m: m.denser_distances(X, 1)),
    "cluster_mean": ("cluster_mean", "", lambda m: m.cluster_mean(X[0], torch.tensor([0, 0, 1]), 2)),
    "mean_similarity": ("temporal_similarity", "", lambda m: m.mean_similarity(X.view(3, 1, 8))),
    "stage 1": (
        "stage1_merge.prunevid.method",
        "stage1_merge.prunevid.on_gpu",
        lambda _: PruneVidMerge()._merge(X.view(1, 1, 3, 8)),
    ),
}
"""The wrapper's module, its Triton form where that is of another name, and a call that launches."""


@pytest.mark.parametrize("name", LAUNCHES)
def test_kernels_run_on_their_tensors_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current GPU, whose stream knows nothing of work on another one."""
    inside: list[Any] = []
    launched: list[bool] = []

    @contextlib.contextmanager
    def device_of(x: torch.Tensor) -> Iterator[None]:
        inside.append(x)
        yield
        inside.pop()

    def note(*_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        launched.append(bool(inside))
        return X, X

    wrapper, triton_form, call = LAUNCHES[name]
    package = "prunevid_qwen." if "." in wrapper else "prunevid_qwen.kernels."
    module = importlib.import_module(package + wrapper)
    made = types.SimpleNamespace(
        **dict.fromkeys(
            ("question_attention", "compact", "dpc_knn", "denser_distances", "cluster_mean", "mean_similarity",
             "DeviceMerge"), note,
        )
    )  # fmt: skip
    monkeypatch.setattr(module, "wants_triton", lambda _: True)
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(prunevid_qwen.kernels, f"{wrapper}_triton", made, raising=False)
    monkeypatch.setitem(sys.modules, package + (triton_form or f"{wrapper}_triton"), made)
    call(module)
    assert launched == [True]
