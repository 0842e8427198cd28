"""Uninitialised memory that the kernels ask for holds NaN (or an absurd number): what they leave unwritten shows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._device import _device_constructors

KERNELS = "prunevid_qwen.kernels"


def fill(x: torch.Tensor) -> torch.Tensor:
    """Fill with NaN, True, or a third of the largest integer, which sums and offsets do not overflow at once."""
    if x.dtype == torch.bool:
        return x.fill_(True)
    return x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max // 3)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill what `torch.empty`, `torch.empty_like`, `Tensor.new_empty` and the strided ones give to the kernels."""

    def poisoning(original: Any) -> Any:
        def allocate(*args: Any, **kwargs: Any) -> torch.Tensor:
            got: torch.Tensor = original(*args, **kwargs)
            asks = str(sys._getframe(1).f_globals.get("__name__", ""))
            return fill(got) if asks.startswith(KERNELS) else got

        return allocate

    _device_constructors()  # a list that torch makes once: of the originals, or `with torch.device` passes them by
    with contextlib.ExitStack() as stack:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (torch.Tensor, "new_empty"),
            (torch.Tensor, "new_empty_strided"),
        ):
            stack.enter_context(mock.patch.object(owner, name, poisoning(getattr(owner, name))))
        yield
