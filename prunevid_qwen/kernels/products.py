"""How far torch's own matrix products of fp32 numbers may be trusted, and kept from a caller's autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Leave the caller's ``torch.autocast`` on ``device`` inside the block, where the arithmetic names its own dtypes.

    Autocast would take products of fp32 numbers in bf16 or fp16 and return that, whatever was asked for.
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def names_its_dtypes(kernel: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Let a kernel compute in the dtypes that it names, whatever autocast its caller stands in.

    Args:
        kernel: its first argument tells the device.
    """

    @functools.wraps(kernel)
    def exact(x: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        with without_autocast(x.device):
            return kernel(x, *args, **kwargs)

    return exact  # type: ignore[return-value]


def products_are_rounded() -> bool:
    """True when the user lets torch round the inputs of fp32 products to tf32 or bf16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch's old and new switches were mixed: it will not say
        return True
