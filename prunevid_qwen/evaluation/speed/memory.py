"""How much memory a piece of work takes at its peak: the allocator's count on CUDA, the process's on Linux."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CUDA = "torch.cuda.max_memory_allocated"
RESIDENT = "peak resident size of the process (VmHWM), reset before the run"
NOT_MEASURED = "not measured: needs CUDA or Linux"


@dataclass
class Peak:
    """Bytes; None where they cannot be measured.

    Args:
        how: what was counted.
        before: bytes in use before the work: weights, inputs, libraries.
        peak: the most during it.
    """

    how: str
    before: int | None = None
    peak: int | None = None

    @property
    def above(self) -> int | None:
        """What the work took on top of what was there."""
        return None if self.peak is None or self.before is None else self.peak - self.before

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {"how": self.how, "before": self.before, "peak": self.peak, "above": self.above}


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak of what runs inside the block."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        found = Peak(CUDA, torch.cuda.memory_allocated(device))
        yield found
        torch.cuda.synchronize(device)
        found.peak = torch.cuda.max_memory_allocated(device)
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)  # what the C library holds free would hide the first megabytes of the work
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is resident
    except OSError:  # another system, or a container that forbids it
        yield Peak(NOT_MEASURED)
        return
    found = Peak(RESIDENT, _resident("VmRSS"))
    yield found
    found.peak = _resident("VmHWM")


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
