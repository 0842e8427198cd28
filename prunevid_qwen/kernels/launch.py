"""Where a kernel runs: Triton on a GPU that it was compiled for, torch everywhere else."""

from __future__ import annotations

import functools
import importlib.util
from contextlib import AbstractContextManager

import torch
from torch import Tensor

OLDEST = (8, 0)
"""Compute capability of the oldest NVIDIA GPU that the kernels are compiled for in the tests; AMD's count from 9."""

MOST_ON_GPU = 4096
"""Points of a group that the clustering kernels take; larger groups go by torch's products on a GPU too."""


def wants_triton(x: Tensor) -> bool:
    """Tell whether a kernel on ``x`` is to be Triton's rather than torch's: on CUDA or ROCm, and triton is there.

    Both give the same answer to rounding. Triton is an optional extra; torch's own wheels for Linux GPUs bring it.

    Args:
        x: any input of the kernel.
    """
    return x.is_cuda and _has_triton() and _capability(x.get_device()) >= OLDEST


def where_of(x: Tensor) -> AbstractContextManager[None]:
    """Make the GPU of ``x`` the current one: Triton launches there, and it need not be the tensors'."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(device)
    return int(major), int(minor)
