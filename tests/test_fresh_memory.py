"""Large tensors in huge pages: ordinary tensors to whoever gets one."""

from __future__ import annotations

import gc
import mmap
from typing import Any

import pytest
import torch

from prunevid_qwen.kernels import fresh_memory
from prunevid_qwen.kernels.cluster_mean import cluster_mean

needs_huge_pages = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="huge pages are asked for on Linux")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_large_tensor_is_like_any_other(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_memory, "LARGE", 4096)
    x = fresh_memory.empty((70, 3, 50), torch.empty(0, dtype=dtype))
    assert (x.shape, x.dtype, x.is_contiguous()) == ((70, 3, 50), dtype, True)
    x.copy_(torch.arange(70 * 150).view(70, 3, 50) % 100)
    part = x[69, 2].clone()
    view = x[69, 2]
    del x
    gc.collect()
    assert torch.equal(view, part), "a view keeps the memory alive"
    assert torch.equal(view.mul_(2), part * 2)


@needs_huge_pages
def test_only_large_tensors_ask_and_a_kernel_may_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Memory(mmap.mmap):
        def madvise(self, *_: Any) -> None:
            asked.append(len(self))
            raise OSError("no huge pages here")

    monkeypatch.setattr(fresh_memory.mmap, "mmap", Memory)
    monkeypatch.setattr(fresh_memory, "LARGE", 4096)
    like = torch.empty(0)
    fresh_memory.empty((1023,), like)
    assert not asked
    assert fresh_memory.empty((1024,), like).fill_(3).sum() == 3072
    assert asked == [4096]
    target = torch.arange(200) // 2
    x = torch.randn(200, 40)
    torch.testing.assert_close(cluster_mean(x, target, 100), x.view(100, 2, 40).mean(1))
    assert asked == [4096, 16000]
    fresh_memory.empty((4096,), torch.empty(0, device="meta"))
    assert len(asked) == 2
