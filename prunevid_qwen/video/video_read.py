"""What reading a video gives back, what is known before decoding, and the clock that stops a read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunevid_qwen.errors import ConfigError, MediaError, quoted

if TYPE_CHECKING:
    import numpy as np


class Remark(str):
    """A sentence of ``Video.warnings`` on how a source was read that is whole; all others tell of damage."""

    __slots__ = ()


def about(name: str, note: str) -> str:
    """Return a note with the name of its source in front; a `Remark` stays one."""
    return type(note)(f"{name}: {note}")


@dataclass(frozen=True, eq=False)
class Video:
    """The frames sampled from one video, with what is needed to place them in time.

    Args:
        frames: uint8 RGB, ``[n, H, W, 3]``; n is even, because the model takes frames in pairs.
        timestamps: seconds after the first frame of the source at which each sampled frame is on the screen, ascending,
            without the padding: its own time; where the frame rate varies, the time that it was taken for.
        indices: position of each sampled frame in the source, counted from 0 in display order; without the padding. One
            that is on the screen at several of the times comes several times.
        padded: how many times the last frame was repeated to make n even: 0 or 1. ``n == len(indices) + padded``.
        seconds_per_grid: seconds that one temporal position (two frames) stands for:
            2 * (last timestamp - first + one frame of the source) / ``len(timestamps)``; where the frame rate varies
            twice the seconds from one timestamp to the next, of a single picture twice those it is on the screen.
        duration: seconds of the whole source.
        source_fps: mean frames a second of the source.
        size: height and width of a frame as shown (after rotation), in pixels.
        backend: what decoded it: a name of ``video_backend``, or "frames" where the frames came as images or an array.
        source: the path, or a description of what was passed.
        warnings: sentences on what was wrong with the source although it could be read, and (`Remark`) on what was
            done to it.
    """

    frames: np.ndarray
    timestamps: tuple[float, ...]
    indices: tuple[int, ...]
    padded: int
    seconds_per_grid: float
    duration: float
    source_fps: float
    size: tuple[int, int]
    backend: str
    source: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timeline:
    """When each frame of a source is shown.

    Args:
        seconds: one per frame, ascending, the first 0.0.
        frame_seconds: mean seconds that a frame lasts, above 0.
        notes: sentences for ``Video.warnings``.
        ticks: presentation timestamp of each frame in the container's own unit, or None where it has none to trust.
        keys: ticks of the keyframes from which decoding may start, ascending; empty where seeking is not safe.
        ends: seconds at which the last frame ends, or None: it stays for ``frame_seconds``.
    """

    seconds: tuple[float, ...]
    frame_seconds: float
    notes: tuple[str, ...] = ()
    ticks: tuple[int, ...] | None = None
    keys: tuple[int, ...] = ()
    ends: float | None = None

    def require_numbers(self, path: str, backend: str) -> None:
        """Raise MediaError where a library that finds frames by seeking would silently return others."""
        if self.ticks is None:
            raise MediaError(
                f"the frames of {path} carry no times of their own (an AVI with B-frames, a clock that restarts), and "
                f'{backend} then returns other frames than the ones asked for: use video_backend="pyav"'
            )

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        if self.ends is not None:
            return self.ends
        return self.seconds[-1] + self.frame_seconds if self.seconds else 0.0


@dataclass
class Deadline:
    """Raises once reading ``name`` has taken more than ``limit`` seconds (None: never).

    It is asked between frames and packets: one call into a library that never returns cannot be interrupted.
    """

    name: str
    limit: float | None
    started: float = field(default_factory=lambda: time.monotonic())

    def __post_init__(self) -> None:
        if self.limit is None:
            return
        if isinstance(self.limit, bool) or not isinstance(self.limit, (int, float)) or not self.limit > 0:
            raise ConfigError(
                f"time_limit is a number of seconds above 0, or None for no limit; got {quoted(self.limit)}"
            )

    def check(self) -> None:
        """Raise MediaError if the time is over."""
        if self.limit is not None and time.monotonic() - self.started > self.limit:
            raise MediaError(
                f"reading {self.name} took more than {self.limit:g} s: pass a larger time_limit (None for none), "
                f"or less of the video with start and end"
            )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside the block: it goes to whoever uses the frames."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.started += time.monotonic() - began
