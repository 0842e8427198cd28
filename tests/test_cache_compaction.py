"""Compaction of the cache: the same bits as a gather, whatever the types and strides, and the old memory goes."""

from __future__ import annotations

import weakref

import pytest
import torch
from transformers import DynamicCache

from prunevid_qwen.kernels import cache_compaction as kernel
from prunevid_qwen.stage3_kv import cache as stage3
from tests.interpreter import needs_interpreter

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8)


def tensors(length: int = 11, dim: int = 6) -> list[torch.Tensor]:
    """Two rows; three heads: plain, heads inside tokens as a projection leaves them, cut from something longer."""
    numbers = torch.Generator().manual_seed(length)

    def drawn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return (torch.randn(*shape, generator=numbers) * 100).to(dtype)

    found = []
    for dtype in TYPES:
        found.append(drawn(2, 3, length, dim, dtype=dtype))
        found.append(drawn(2, length, 3, dim, dtype=dtype).transpose(1, 2))
        found.append(drawn(2, 3, length + 3, dim + 1, dtype=dtype)[:, :, 3:, 1:])
    return [*found, drawn(2, 5, dim, length, dtype=torch.float32).transpose(2, 3)]


INDEX = torch.tensor([[0, 2, 3, 7], [0, 0, 1, 5]])  # a selection, and one that is padded on the left


def assert_same(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert [x.dtype for x in got] == [x.dtype for x in wanted]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert all(a.is_contiguous() for a in got)


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("index", [INDEX, INDEX[:, :0], torch.arange(8).expand(2, -1)], ids=["some", "none", "all"])
def test_the_same_bits_as_the_law(index: torch.Tensor, past: int) -> None:
    given = (tensors(), index, past)
    wanted = kernel.reference(*given)
    assert wanted[0].shape == (2, 3, past + index.shape[1], 6)
    assert_same(kernel.compact(*given), wanted)


@needs_interpreter
@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("index", [INDEX, INDEX[:, :0], torch.arange(8).expand(2, -1)], ids=["some", "none", "all"])
def test_the_gpus_kernel_gives_the_same_bits(index: torch.Tensor, past: int) -> None:
    from prunevid_qwen.kernels import cache_compaction_triton

    given = (tensors(), index, past)
    assert_same(cache_compaction_triton.compact(*given), kernel.reference(*given))


@needs_interpreter
def test_the_gpus_kernel_at_larger_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs a head, entries wider than a program's lanes; all layers of a model in one launch."""
    from prunevid_qwen.kernels import cache_compaction_triton

    launches = []
    original = cache_compaction_triton._launch
    monkeypatch.setattr(
        cache_compaction_triton, "_launch", lambda *given: launches.append(len(given[0])) or original(*given)
    )
    index = torch.randint(150, (2, 90), generator=torch.Generator().manual_seed(1)).sort(dim=1).values
    held = [torch.randn(2, 1, 155, 272, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    given = (held, index, 5)
    assert_same(cache_compaction_triton.compact(*given), kernel.reference(*given))
    assert launches == [4]


def test_gradients_pass() -> None:
    held = torch.randn(2, 3, 11, 6, requires_grad=True)
    (new,) = kernel.compact([held], INDEX, 3)
    new.sum().backward()
    assert held.grad is not None
    assert held.grad[1, 0, :, 0].tolist() == [1, 1, 1, 2, 1, 0, 0, 0, 1, 0, 0]


def test_wrong_shapes_are_refused() -> None:
    for compute in (kernel.reference, kernel.compact):
        for held, past in ((torch.zeros(2, 11, 6), 0), (torch.zeros(1, 3, 11, 6), 0), (torch.zeros(2, 3, 11, 6), 12)):
            with pytest.raises(ValueError, match=r"each tensor is \[B, H, past \+ S, d\]"):
                compute([held], INDEX, past)


def test_batches_bound_what_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [torch.zeros(2, 3, 11, 6)] * 5 + [torch.zeros(2, 3, 11, 60)] + [torch.zeros(2, 3, 11, 6)]
    each = 2 * 3 * 4 * 6 * 4
    assert [cut.stop - cut.start for cut in kernel.batches(held, 4)] == [1] * 7, "a CPU gains nothing by batches"
    monkeypatch.setattr(kernel, "wants_triton", lambda _: True)
    assert list(kernel.batches(held, 4)) == [slice(0, 7)]
    monkeypatch.setattr(kernel, "FRESH_BYTES", 2 * each)
    assert list(kernel.batches(held, 4)) == [slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6), slice(6, 7)]
    assert list(kernel.batches([], 4)) == []


def test_the_cache_lets_go_of_the_old_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DynamicCache()
    for i in range(4):
        cache.update(torch.randn(2, 3, 11, 6), torch.randn(2, 3, 11, 6), i)
    wanted = [kernel.reference([layer.keys, layer.values], INDEX, 3) for layer in cache.layers]
    old = [weakref.ref(x) for layer in cache.layers for x in (layer.keys, layer.values)]
    untouched = cache.layers[3].keys
    alive: list[int] = []
    original = stage3.compact

    def compact(*given):  # type: ignore[no-untyped-def]
        alive.append(sum(each() is not None for each in old))
        return original(*given)

    monkeypatch.setattr(stage3, "compact", compact)
    stage3.adopt(cache).keep(range(3), INDEX, 3)
    assert alive == [8, 7, 6, 5, 4, 3], "each old tensor goes before the next new one comes"
    for i in range(3):
        assert torch.equal(cache.layers[i].keys, wanted[i][0])
        assert torch.equal(cache.layers[i].values, wanted[i][1])
        assert cache.layers[i].keys.untyped_storage().nbytes() == cache.layers[i].keys.numel() * 4
    assert cache.layers[3].keys is untouched
