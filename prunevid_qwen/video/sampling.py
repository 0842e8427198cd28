"""Which frames of a video are taken: pure arithmetic on timestamps, no file is touched."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from prunevid_qwen.errors import ConfigError, MediaError, quoted

SAMPLINGS = ("uniform", "fps")
# Containers round timestamps (Matroska to milliseconds): a range edge that falls on a frame must still hold it.
_EDGE = 1e-3
# Gaps that differ from their mean by no more are one frame rate: GIF rounds 24 a second to 4 and 5 hundredths.
_STEADY = 0.25


def check_request(
    max_frames: int, sampling: str, fps: float, start: float | None, end: float | None, min_frames: int = 2
) -> None:
    """Check what was asked for before any file is opened.

    Raises:
        ConfigError: a number outside its range, an unknown ``sampling``, or an ``end`` that is not after ``start``.
    """
    for name, count in (("max_frames", max_frames), ("min_frames", min_frames)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ConfigError(f"{name} is a whole number of at least 2, got {quoted(count)}")
    if min_frames > max_frames:
        raise ConfigError(f"min_frames={min_frames} is above max_frames={max_frames}: pass a larger max_frames with it")
    if sampling not in SAMPLINGS:
        raise ConfigError(f"video_sampling is one of {', '.join(SAMPLINGS)}; got {quoted(sampling)}")
    if not _finite(fps) or fps <= 0:
        raise ConfigError(f"fps is a number above 0, got {quoted(fps)}")
    for name, value in (("start", start), ("end", end)):
        if value is not None and (not _finite(value) or value < 0):
            raise ConfigError(f"{name} is in seconds from the beginning of the video, 0 or more; got {quoted(value)}")
    if end is not None and end <= (start or 0.0):
        raise ConfigError(f"end={end:g} is not after start={start or 0.0:g}: both are seconds of the video")


@dataclass(frozen=True)
class Choice:
    """Frames chosen from a source.

    Args:
        indices: of the frames in the source, never falling; one may come several times.
        times: seconds at which each is on the screen: when it is first shown where the frame rate is constant, else the
            time that it was taken for.
        spacing: seconds from one to the next, as the model is told.
    """

    indices: tuple[int, ...]
    times: tuple[float, ...]
    spacing: float


def frames_in_range(
    seconds: Sequence[float], duration: float, start: float | None, end: float | None, name: str
) -> tuple[int, int]:
    """Return the first and the last index of the frames on the screen between start and end.

    The first is the frame on the screen at ``start``, which may have been shown before.

    Args:
        seconds: timestamp of every frame, ascending from 0.0.
        duration: seconds of the whole video.
        start: seconds, or None for the beginning.
        end: seconds, above ``start``, or None for the end; beyond the video it means the end.
        name: the source, for the messages.

    Raises:
        MediaError: ``start`` is beyond the video.
    """
    if start is not None and start >= duration:
        raise MediaError(f"start={start:g} s is after the end of {name} ({duration:.2f} s): pass a smaller start")
    first = 0 if start is None else max(0, bisect.bisect_right(seconds, start + _EDGE) - 1)
    last = len(seconds) - 1 if end is None else bisect.bisect_right(seconds, end + _EDGE) - 1
    return first, max(first, last)


def is_steady(seconds: Sequence[float]) -> bool:
    """Tell whether frames come at one rate, but for rounding."""
    if len(seconds) < 3:
        return True
    mean = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    return all(abs(b - a - mean) <= _STEADY * mean for a, b in itertools.pairwise(seconds))


def choose_frames(
    seconds: Sequence[float],
    frame_seconds: float,
    *,
    max_frames: int,
    sampling: str = "uniform",
    fps: float = 2.0,
    min_frames: int = 2,
    duration: float | None = None,
    start: float | None = None,
    end: float | None = None,
    usable: tuple[int, int] | None = None,
    lost: Collection[int] = (),
) -> Choice:
    """Choose frames by their timestamps.

    "uniform" takes the frames at ``max_frames`` equally spaced times, both ends included; "fps" the same with
    ``min(max_frames, max(min_frames, floor(covered * fps)))``, where covered is the seconds that the frames cover.

    Under a constant frame rate the frame nearest to each time is taken, of two equally near the earlier; a video of no
    more frames than times gives each frame once. Under a variable one, or where the last picture stays on the screen,
    the last frame at or before each time is taken, as often as it is that, because the positions given to the model are
    equally spaced in time; there are no more times than the smallest gap between two frames asks for.

    Args:
        seconds: timestamp of every frame of the source, ascending, not empty.
        frame_seconds: mean seconds between two frames.
        max_frames: frames at most.
        sampling: "uniform" or "fps".
        fps: frames a second for "fps".
        min_frames: frames at least for "fps", as far as there are so many.
        duration: seconds of the source, or None: its last frame stays for ``frame_seconds``.
        start: seconds at which the range begins, or None.
        end: seconds at which it ends, or None.
        usable: first and last index of the range, as `frames_in_range` gives them, or None for all.
        lost: indices of frames that do not decode.
    """
    first, last = usable or (0, len(seconds) - 1)
    offered = [i for i in range(first, last + 1) if i not in lost]
    shown = seconds[first : last + 1]
    after = seconds[-1] + frame_seconds if duration is None else duration
    until = after if last + 1 == len(seconds) else seconds[last + 1]
    until = until if end is None else max(min(until, end), shown[-1])
    count = max_frames
    if len(shown) == 1:
        begin = max(shown[0], start or 0.0)
        return Choice((offered[0],), (begin,), until - begin if until > begin else frame_seconds)
    mean = lasts = (shown[-1] - shown[0]) / (len(shown) - 1)
    if abs(lasts - frame_seconds) <= _STEADY * frame_seconds:
        lasts = frame_seconds
    if sampling == "fps":
        # The sum of two roundings may lie a hair below a whole number of frames.
        count = min(max_frames, max(min_frames, math.floor((shown[-1] - shown[0] + lasts) * fps + 1e-6)))
    steady = is_steady(shown) and until - shown[-1] <= 2 * lasts
    if steady and len(shown) <= count:  # all are taken: small differences must not add up
        steady = all(abs(at - shown[0] - i * mean) <= mean / 2 for i, at in enumerate(shown))
    if not steady:
        begin = max(shown[0], start or 0.0)
        if sampling == "fps":
            count = min(max_frames, max(min_frames, math.floor((until - begin) * fps + 1e-6)))
        return _at_times(seconds, offered, begin, shown, until, count)
    if len(offered) > count:
        at = [seconds[i] for i in offered]
        wanted = [at[0] + (at[-1] - at[0]) * i / (count - 1) for i in range(count)]
        offered = [offered[_nearest(at, time)] for time in wanted]
    times = tuple(seconds[i] for i in offered)
    return Choice(tuple(offered), times, (times[-1] - times[0] + lasts) / len(times))


def _at_times(
    seconds: Sequence[float], offered: list[int], begin: float, shown: Sequence[float], until: float, count: int
) -> Choice:
    """Take what is on the screen at equally spaced times."""
    gap = min(b - a for a, b in itertools.pairwise(shown))
    stop = max(shown[-1], until - gap)
    if stop <= begin:
        return Choice((offered[-1],), (begin,), gap)
    count = max(2, min(count, math.floor((stop - begin) / gap + 1e-6) + 1))
    times = [begin + (stop - begin) * i / (count - 1) for i in range(count)]
    at = [seconds[i] for i in offered]
    picks = [offered[max(0, bisect.bisect_right(at, time + 1e-6) - 1)] for time in times]
    return Choice(tuple(picks), tuple(times), (stop - begin) / (count - 1))


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
