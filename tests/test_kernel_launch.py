"""Where a kernel runs: decided by the tensor, by what is installed and by the GPU; and that unwritten memory shows."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from prunevid_qwen.kernels import launch, question_attention
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


def test_the_kernels_memory_is_poisoned_and_nobody_elses() -> None:
    namespace = {"__name__": "prunevid_qwen.kernels.some", "torch": torch}
    with poisoned():
        exec("a = torch.empty(3); b = torch.empty_like(a, dtype=torch.int64)", namespace)
        exec("c = a.new_empty(2, dtype=torch.bool)", namespace)
        ours = torch.empty(10**6)  # from the operating system, so 0
    assert namespace["a"].isnan().all() and (namespace["b"] == 2**63 // 3).all() and namespace["c"].all()
    assert not ours.isnan().any()
    before = torch.empty
    with poisoned():
        assert torch.empty is not before
    assert torch.empty is before


def test_a_tensor_on_the_cpu_never_loads_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even under the interpreter: a kernel on a CPU is torch's."""
    monkeypatch.setitem(sys.modules, "prunevid_qwen.kernels.question_attention_triton", None)
    q = torch.randn(2, 3, 8)
    assert question_attention.question_attention(q, q, torch.arange(3), None, 1.0).shape == (3,)
