"""The k smallest of each column are those that topk finds."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.kernels.smallest import MOST, smallest


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 17, 26, 40, 63, 97, 140, 145])
@pytest.mark.parametrize("kind", ["noise", "ties", "padding"])
def test_as_topk(n: int, kind: str) -> None:
    d = torch.randn(3, n, 11, generator=torch.Generator().manual_seed(n))
    if kind == "ties":
        d = d.round()
    if kind == "padding":
        d[:, n // 2 :, ::2] = torch.inf
    before = d.clone()
    for k in range(1, min(n, MOST) + 1):
        assert torch.equal(smallest(d, k), d.topk(k, dim=1, largest=False).values)
    assert torch.equal(d, before)


def test_every_order_of_eight_is_sorted() -> None:
    """A network that sorts all zeros and ones sorts everything (Knuth, volume 3, theorem Z)."""
    bits = (torch.arange(256)[None] >> torch.arange(8)[:, None]) & 1
    assert torch.equal(smallest(bits.float()[None], 8)[0], bits.float().sort(dim=0).values)
    pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256)).T  # two stretches are merged
    both = (pairs.repeat(8, 1) >> torch.arange(8).repeat_interleave(2)[:, None]) & 1
    assert torch.equal(smallest(both.float()[None], 8)[0], both.float().sort(dim=0).values[:8])
