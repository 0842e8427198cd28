"""Memory for large tensors; on the CPU in huge pages where the system has them."""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor

LARGE = 2**25
"""Bytes from which it pays: the C library keeps the memory of smaller ones when it is freed, and hands it out again."""


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Allocate an uninitialised tensor of ``like``'s type on its device, as ``like.new_empty(shape)`` does.

    The system maps a large new tensor page by page when it is first written to: 16,384 interruptions for 64 MiB, which
    take longer than averaging all its tokens. Linux maps 2 MiB at a time if it is asked to.
    """
    size = math.prod(shape) * like.element_size()
    if size < LARGE or like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):  # the last: not Linux
        return like.new_empty(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # it is advice: a kernel without huge pages refuses it, and gives small ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)  # the tensor keeps the memory alive
