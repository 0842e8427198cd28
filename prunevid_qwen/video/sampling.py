"""Which frames of a video are taken: pure arithmetic on timestamps, no file is touched."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from prunevid_qwen.errors import ConfigError, MediaError

SAMPLINGS = ("uniform", "fps")
# Containers round timestamps (Matroska to milliseconds): a range edge that falls on a frame must still hold it.
_EDGE = 1e-3


def check_request(max_frames: int, sampling: str, fps: float, start: float | None, end: float | None) -> None:
    """Check what was asked for before any file is opened.

    Raises:
        ConfigError: a number outside its range, an unknown ``sampling``, or an ``end`` that is not after ``start``.
    """
    if isinstance(max_frames, bool) or not isinstance(max_frames, int) or max_frames < 2:
        raise ConfigError(f"max_frames is a whole number of at least 2, got {max_frames!r}")
    if sampling not in SAMPLINGS:
        raise ConfigError(f"video_sampling is one of {', '.join(SAMPLINGS)}; got {sampling!r}")
    if not _finite(fps) or fps <= 0:
        raise ConfigError(f"fps is a number above 0, got {fps!r}")
    for name, value in (("start", start), ("end", end)):
        if value is not None and (not _finite(value) or value < 0):
            raise ConfigError(f"{name} is in seconds from the beginning of the video, 0 or more; got {value!r}")
    if end is not None and end <= (start or 0.0):
        raise ConfigError(f"end={end:g} is not after start={start or 0.0:g}: both are seconds of the video")


def frames_in_range(
    seconds: Sequence[float], duration: float, start: float | None, end: float | None, name: str
) -> tuple[int, int]:
    """Return the first and the last index whose timestamp is in [start, end].

    Args:
        seconds: timestamp of every frame, ascending from 0.0.
        duration: seconds of the whole video, for the messages.
        start: seconds, or None for the beginning.
        end: seconds, or None for the end; beyond the video it means the end.
        name: the source, for the messages.

    Raises:
        MediaError: ``start`` is beyond the video, or no frame is shown between ``start`` and ``end``.
    """
    if start is not None and start >= duration:
        raise MediaError(f"start={start:g} s is beyond {name}, which lasts {duration:.2f} s: pass a smaller start")
    first = 0 if start is None else bisect.bisect_left(seconds, start - _EDGE)
    last = len(seconds) - 1 if end is None else bisect.bisect_right(seconds, end + _EDGE) - 1
    if last < first:
        near = seconds[min(first, len(seconds) - 1)]
        raise MediaError(
            f"{name} has no frame between {start or 0.0:g} s and {duration if end is None else end:g} s "
            f"(the nearest begins at {near:.3f} s; {len(seconds)} frames in {duration:.2f} s): widen start and end"
        )
    return first, last


def choose_frames(
    seconds: Sequence[float], frame_seconds: float, *, max_frames: int, sampling: str = "uniform", fps: float = 2.0
) -> list[int]:
    """Choose frames by their timestamps; returns ascending positions in ``seconds``.

    "uniform" takes the frames nearest to ``max_frames`` equally spaced times, both ends included; "fps" the same with
    ``min(max_frames, max(2, floor(covered * fps)))`` times, where covered is ``seconds[-1] - seconds[0] +
    frame_seconds``. A video of no more frames than that gives all of them. Between two equally near frames the earlier
    is taken. With a variable frame rate one frame may be the nearest to several times: it is then taken that often,
    because the positions given to the model are equally spaced in time.

    Args:
        seconds: timestamp of every frame on offer, ascending, not empty.
        frame_seconds: seconds that one frame lasts.
        max_frames: frames at most.
        sampling: "uniform" or "fps".
        fps: frames a second for "fps".
    """
    count = max_frames
    if sampling == "fps":
        # The sum of two roundings may lie a hair below a whole number of frames.
        covered = seconds[-1] - seconds[0] + frame_seconds
        count = min(max_frames, max(2, math.floor(covered * fps + 1e-6)))
    if len(seconds) <= count:
        return list(range(len(seconds)))
    first, last = seconds[0], seconds[-1]
    return [_nearest(seconds, first + (last - first) * i / (count - 1)) for i in range(count)]


def _nearest(seconds: Sequence[float], wanted: float) -> int:
    right = bisect.bisect_left(seconds, wanted)
    if right == 0:
        return 0
    if right == len(seconds):
        return right - 1
    # A tie in real numbers must stay one in floats, or it would go to a frame chosen by rounding.
    return right - 1 if wanted - seconds[right - 1] <= seconds[right] - wanted + 1e-9 else right


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
