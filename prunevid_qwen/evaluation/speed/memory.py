"""How much memory a piece of work takes at its peak: the allocator's count on CUDA, the process's on Linux."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

CUDA = "torch.cuda.max_memory_allocated"
RESIDENT = "peak resident size of the process (VmHWM), reset before the run"
NOT_MEASURED = "not measured: needs CUDA or Linux"


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure the peak of what runs inside the block.

    Yields: ``how`` it is counted; in bytes, None where they cannot be counted, what is in use ``before`` (weights,
        inputs, libraries) and, when the block has ended, the most during it, ``peak``, and the difference, ``above``.
    """
    gc.collect()
    found: dict[str, Any] = {"how": NOT_MEASURED, "before": None, "peak": None, "above": None}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        found |= {"how": CUDA, "before": torch.cuda.memory_allocated(device)}
        yield found
        torch.cuda.synchronize(device)
        found["peak"] = torch.cuda.max_memory_allocated(device)
    else:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)  # what the C library holds free would hide the first megabytes of the work
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is resident
        except OSError:  # another system, or a container that forbids it
            yield found
            return
        found |= {"how": RESIDENT, "before": _resident("VmRSS")}
        yield found
        found["peak"] = _resident("VmHWM")
    found["above"] = found["peak"] - found["before"]


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith(f"{name}:"))


def cache_storage(cache: Any) -> int:
    """Bytes that a cache's keys and values really hold: a view into a larger tensor counts as that tensor."""
    held: dict[int, int] = {}
    for layer in getattr(cache, "layers", ()):
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if tensor is not None:
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())
