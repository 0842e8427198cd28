"""How long the parts of a run take: moments in the work of a device, and the seconds between them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Timestamp:
    """A point in time on a device: an event on CUDA, where work is queued, the clock elsewhere."""

    clock: float
    event: torch.cuda.Event | None = None

    @classmethod
    def now(cls, device: torch.device, since: Timestamp | None = None) -> Timestamp:
        """Note this moment in the work of ``device``, without waiting for it.

        Args:
            device: whose work.
            since: the moment that it will be measured from. Where that is another GPU's, this moment is noted there,
                after the work of ``device``: events of two GPUs cannot be compared.
        """
        if device.type != "cuda":
            return cls(time.perf_counter())
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        if since is not None and since.event is not None and since.event.device != event.device:
            stream = torch.cuda.current_stream(since.event.device)
            stream.wait_event(event)
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(stream)
        return cls(time.perf_counter(), event)

    def seconds_until(self, later: Timestamp) -> float:
        """Seconds of device work between two moments.

        On CUDA this waits for the later one. Once an answer's tokens are on the host there is nothing to wait for: a
        receipt, which is written after that, reads events that have passed and delays nothing.
        """
        if self.event is None or later.event is None:
            return later.clock - self.clock
        later.event.synchronize()
        return float(self.event.elapsed_time(later.event)) / 1000


@dataclass
class Stopwatch:
    """Moments of the last prefill and of the decoding after it, paired; `total` turns them into seconds."""

    pairs: dict[str, list[tuple[Timestamp, Timestamp]]] = field(default_factory=dict)
    steps: dict[int, list[tuple[Timestamp, Timestamp]]] = field(default_factory=dict)  # by a step's place

    def add(self, part: str, start: Timestamp, stop: Timestamp, at: int | None = None) -> None:
        """Note that ``part`` ran from ``start`` to ``stop``, for the step of the plan that stands ``at`` some place."""
        self.pairs.setdefault(part, []).append((start, stop))
        if at is not None:
            self.steps.setdefault(at, []).append((start, stop))

    def total(self, part: str) -> float:
        """Seconds spent in ``part`` so far."""
        return sum((start.seconds_until(stop) for start, stop in self.pairs.get(part, [])), 0.0)

    def of_step(self, at: int) -> float:
        """Seconds spent for the step that stands ``at`` some place: its evidence, its decision, the cache."""
        return sum((start.seconds_until(stop) for start, stop in self.steps.get(at, [])), 0.0)

    def count(self, part: str) -> int:
        """How often ``part`` ran."""
        return len(self.pairs.get(part, []))
