"""A video with what was kept drawn on its frames."""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.kept import Kept, KeptMedium
from prunevid_qwen.pictures.sheet import drawn
from prunevid_qwen.pictures.thumbnails import CLOSE, FPS, ShownPosition, spread
from prunevid_qwen.video.indexed import read_frames
from prunevid_qwen.video.reader import ask

MOST_FRAMES, WIDTH, CHUNK = 1800, 480, 64
"""Frames at most, evenly chosen; their width in pixels; frames held at once."""

_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_TICKS = Fraction(1, 1000)  # seconds


def overlay(runs: Sequence[Kept], sources: Sequence[Any] | None = None, titles: Sequence[str] = ()) -> bytes:
    """Write the first video of the prompt as an mp4, answers side by side; the arguments are those of `picture`.

    The file has no sound, and no titles. Frames keep their times.

    Raises:
        ConfigError: the prompt shows no video, or its frames cannot be read again.
        SetupError: this build of PyAV has none of the encoders.
    """
    numbers = [next((at for at, each in enumerate(run.media) if each.kind == "video"), None) for run in runs]
    if None in numbers:
        raise ConfigError("a .mp4 shows a video, and the prompt has none: name a .html or .png file")
    media = [run.media[number] for run, number in zip(runs, numbers, strict=True) if number is not None]
    chosen = sources[numbers[0] or 0] if sources is not None else media[0].name
    if isinstance(chosen, (str, os.PathLike)) and not os.path.exists(chosen):
        raise ConfigError(f"the frames of {chosen} cannot be read again: pass the video as sources=[video]")
    if any(each.seconds is None for each in media):
        raise ConfigError("the times of this video's frames are unknown: name a .html or .png file")
    return _written(
        (
            (time, np.concatenate([_over(run, each, time, frame) for run, each in zip(runs, media, strict=True)], 1))
            for time, frame in _frames(chosen, media[0])
        )
    )


def _frames(source: Any, medium: KeptMedium) -> Iterator[tuple[float, np.ndarray]]:
    """Read the frames of the range that the model saw: seconds, and RGB of an even height and width."""
    assert medium.seconds is not None
    seconds = ask(source, fps=FPS, backend="pyav", time_limit=None).timeline.seconds
    begin, end = medium.seconds[0][0] - CLOSE, medium.seconds[-1][1] + CLOSE
    there = [number for number, time in enumerate(seconds) if begin <= time <= end]
    wanted = [there[at] for at in spread(len(there), MOST_FRAMES)]
    height = 2 * max(1, round(WIDTH * medium.size[1] / max(1, medium.size[0]) / 2))

    def fit(frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize((WIDTH, height), Image.Resampling.LANCZOS))

    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        found = read_frames(source, lambda _count, _rate, part=part: part, fit=fit, fps=FPS, time_limit=None)  # type: ignore[misc]
        yield from zip((seconds[number] for number in part), found.frames, strict=True)


def _over(kept: Kept, medium: KeptMedium, time: float, frame: np.ndarray) -> np.ndarray:
    assert medium.seconds is not None
    begins = [begin for begin, _ in medium.seconds]
    at = max(0, bisect.bisect_right(begins, time + CLOSE) - 1)
    return np.asarray(drawn(kept, medium, ShownPosition(at, Image.fromarray(frame), True)))


def _written(frames: Iterator[tuple[float, np.ndarray]]) -> bytes:
    name = next((each for each in _ENCODERS if each in av.codecs_available), None)
    if name is None:
        raise SetupError(f"this build of PyAV encodes none of {', '.join(_ENCODERS)}: pip install --force-reinstall av")
    held, first = io.BytesIO(), None
    with av.open(held, "w", format="mp4") as out:
        stream: Any = None
        for time, pixels in frames:
            if stream is None:
                first = time
                stream = out.add_stream(name, rate=1000, options={"threads": "1"})
                stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p"
                stream.codec_context.time_base = _TICKS
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            shown.pts, shown.time_base = round((time - (first or 0.0)) / _TICKS), _TICKS
            out.mux(stream.encode(shown))
        if stream is not None:
            out.mux(stream.encode())
    return held.getvalue()
