"""Which frames a harness takes of a video: arithmetic on the number of frames and their rate, no file is touched.

"mvbench_mid" is that of MVBench's notebook (Ask-Anything, video_chat2/mvbench.ipynb), PLLaVA and PruneVid. "linspace"
and "fps" are those of qwen-vl-utils 0.0.14, which Qwen's own scripts and lmms-eval 0.7.3 go through.

``count`` is the number of frames of the video, ``fps`` its mean frames a second, ``start`` and ``end`` are seconds or
None. A video without frames or rate is a `ConfigError`, a range without a frame a `MediaError`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from prunevid_qwen.config.option_checks import check_count, is_number
from prunevid_qwen.errors import ConfigError, MediaError, quoted

# MVBench's notebook stands these for the bounds of a clip without bounds, in seconds
_NO_START, _NO_END = -100_000.0, 100_000.0


@dataclass(frozen=True)
class Sampled:
    """The frames taken of one video."""

    indices: tuple[int, ...]  # positions in the video, from 0, never falling; a short video repeats some
    timestamps: tuple[float, ...]  # seconds of each after the first frame of the video, under a constant frame rate
    covered: float  # seconds that they stand for: those of the range that was asked for

    def seconds_per_grid(self, rule: str) -> float:
        """Return the seconds between two temporal positions (two frames each) that the model is told.

        "range": 2 * covered / frames, the 2 / sampled_fps of transformers from 5.0 on and of qwen-vl-utils.
        "one": 1.0 for every video, what lmms-eval in effect ran under transformers 4.49 to 4.57 (lmms-eval issue 1393):
        published figures of that time are of this rule.
        """
        return 1.0 if rule == "one" else 2 * self.covered / len(self.indices)


def mvbench_mid(
    count: int, fps: float, frames: int, start: float | None = None, end: float | None = None, first_number: int = 0
) -> Sampled:
    """Take the middle of each of ``frames`` equal segments (at least 1); a clip of fewer frames repeats some.

    Bounds become frame numbers by rounding ``seconds * fps`` (halves to even) and are cut to the video. The first frame
    is called ``first_number``: 0 in video files, 1 in frame folders (``00001.jpg``), whose bounds therefore fall one
    frame earlier; returned indices count from 0 either way.
    """
    _check(count, fps)
    first = max(first_number, round((_NO_START if start is None else start) * fps))
    last = min(round((_NO_END if end is None else end) * fps), first_number + count - 1)
    if last < first:
        raise _nothing(count, fps, start, end)
    segment = (last - first) / frames
    indices = [int(first + segment / 2 + round(segment * i)) - first_number for i in range(frames)]
    return _sampled(indices, fps, last - first + 1)


def linspace(count: int, fps: float, frames: int, start: float | None = None, end: float | None = None) -> Sampled:
    """Take ``frames`` (even) equally spaced frames, both ends included, as qwen-vl-utils does under ``nframes``.

    A range of fewer frames gives as many as it has, made even; a single one is taken twice, because the model takes
    frames in pairs (qwen-vl-utils refuses it). Halves round to even. The range is from the first frame not before
    ``start`` to the last one not after ``end``; where the two are equal it is the frame shown then.
    """
    return _spread(*_range(count, fps, start, end), fps, frames)


def by_rate(
    count: int,
    fps: float,
    wanted: float,
    min_frames: int,
    max_frames: int,
    start: float | None = None,
    end: float | None = None,
) -> Sampled:
    """Take ``wanted`` frames a second of `linspace`'s range, floored to even, between the least and most frames."""
    first, last = _range(count, fps, start, end)
    total = last - first + 1
    frames = min(max(total / fps * wanted, min_frames), max_frames, total)
    return _spread(first, last, fps, math.floor(frames / 2) * 2)


def check_rate(name: str, value: object) -> None:
    """Raise `ConfigError` unless ``value`` is a finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name} is a number of frames a second above 0, got {quoted(value)}")


def _check(count: int, fps: float) -> None:
    check_count("the number of frames of a video", count, 1)
    check_rate("the frame rate of a video", fps)


def _range(count: int, fps: float, start: float | None, end: float | None) -> tuple[int, int]:
    """Return the first and last frame of the range, as qwen-vl-utils' calculate_video_frame_range does."""
    _check(count, fps)
    duration = count / fps
    if start is not None and start == end and 0 <= start < duration:
        shown = min(math.floor(start * fps), count - 1)
        return shown, shown
    first = 0 if start is None else math.ceil(min(max(start, 0.0), duration) * fps)
    last = count - 1 if end is None else min(math.floor(min(max(end, 0.0), duration) * fps), count - 1)
    if last < first:
        raise _nothing(count, fps, start, end)
    return first, last


def _spread(first: int, last: int, fps: float, frames: int) -> Sampled:
    frames = max(2, min(frames, (last - first + 1) // 2 * 2))
    steps = frames - 1
    # in whole numbers: torch.linspace and a machine's order of adding give the same or, on a half, either neighbour
    indices = [round(Fraction(first * steps + i * (last - first), steps)) for i in range(frames)]
    return _sampled(indices, fps, last - first + 1)


def _sampled(indices: list[int], fps: float, total: int) -> Sampled:
    return Sampled(tuple(indices), tuple(index / fps for index in indices), total / fps)


def _nothing(count: int, fps: float, start: float | None, end: float | None) -> MediaError:
    return MediaError(
        f"no frame lies between start={start} s and end={end} s of a video of {count} frames at {fps:g} a second "
        f"({count / fps:.2f} s): correct the annotation, or leave the question out"
    )
