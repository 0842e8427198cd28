"""Cluster means: the law by hand, the fast paths against it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunevid_qwen.kernels import cluster_mean as kernel
from prunevid_qwen.kernels.cluster_mean import cluster_mean, reference
from tests.tolerances import close

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.data(), st.sampled_from(DTYPES))
@settings(max_examples=60, deadline=None)
def test_means_are_those_of_the_members(data: st.DataObject, dtype: torch.dtype) -> None:
    n_in, n_out = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    target = torch.tensor(data.draw(st.lists(st.integers(-1, n_out - 1), min_size=n_in, max_size=n_in)))
    x = draw(n_in, 2, 5, seed=n_in).to(dtype)
    before = x.clone()
    zero = torch.zeros(2, 5, dtype=torch.float64)
    members = [x[target == j].double() for j in range(n_out)]
    expected = torch.stack([m.mean(0) if len(m) else zero for m in members])
    computed = torch.float32 if dtype == torch.float64 else dtype  # fp64 is averaged in fp32 too
    for got in (reference(x, target, n_out), cluster_mean(x, target, n_out)):
        assert got.dtype == dtype
        close(got.double(), expected, dtype=computed)
        for j, m in enumerate(members):
            if len(m) == 1:
                assert torch.equal(got[j], m[0].float().to(dtype)), "a group of one is exact"
    assert torch.equal(x, before)


def test_equal_runs_are_equal_bits() -> None:
    target = torch.randint(-1, 300, (1000,), generator=torch.Generator().manual_seed(1))
    x = draw(1000, 257)
    assert torch.equal(cluster_mean(x, target, 300), cluster_mean(x, target, 300))


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 2)])
def test_tokens_of_any_shape_even_numbers(shape: tuple[int, ...]) -> None:
    target = torch.tensor([1, -1, 0, 1, 1, 0])
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    for got in (reference(x, target, 2), cluster_mean(x, target, 2)):
        assert got.dtype == torch.long
        assert torch.equal(got, torch.stack([x[[2, 5]].float().mean(0).long(), x[[0, 3, 4]].float().mean(0).long()]))


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_gradients_reach_the_members(on_a_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "wants_triton", lambda _: on_a_gpu)  # whose kernel knows no gradient
    x = draw(4, 3).requires_grad_()
    cluster_mean(x, torch.tensor([1, -1, 0, 1]), 2).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0.5, 0, 1, 0.5]
