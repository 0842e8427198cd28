"""The temporal positions that a picture shows, each with a small frame: read again from where the video came from."""

from __future__ import annotations

import bisect
import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from prunevid_qwen.kept import KeptMedium
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.indexed import read_frames
from prunevid_qwen.video.reader import ask

FPS = 2.0  # of frames that come as images, as the reader takes them
CLOSE = 1e-6  # seconds: times went through a receipt


class ShownPosition(NamedTuple):
    """One temporal position of a video, or an image, ready to be drawn on.

    Args:
        at: number of the position, from 0.
        frame: RGB, the first frame of the position; grey where the source cannot be read again.
        readable: whether ``frame`` is of the source.
    """

    at: int
    frame: Image.Image
    readable: bool


def spread(count: int, most: int) -> list[int]:
    """Choose at most ``most`` of ``count`` numbers, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(number * (count - 1) / max(1, most - 1)) for number in range(most)})


def shown_positions(medium: KeptMedium, source: Any, most: int, width: int) -> list[ShownPosition]:
    """Return positions of a video or image, evenly chosen, with frames of one width.

    Args:
        medium: of an answer.
        source: the video or image as the model was given it; None takes the medium's name, where it is a path.
        most: positions shown.
        width: of a frame, in pixels.

    Raises:
        MediaError: the source is there and cannot be read.
    """
    chosen = spread(medium.grid[0], most)
    size = width, max(1, round(width * medium.size[1] / max(1, medium.size[0])))
    if source is None and os.path.exists(medium.name):
        source = medium.name
    if source is None:
        grey = Image.new("RGB", size, (128, 128, 128))
        return [ShownPosition(at, grey, False) for at in chosen]
    if medium.kind == "image":
        return [ShownPosition(0, _small(read_picture(source)[0], size), True)]
    times = [0.0 if medium.seconds is None else medium.seconds[at][0] for at in chosen]
    begins = ask(source, fps=FPS, backend="pyav", time_limit=None).timeline.seconds
    numbers = [max(0, bisect.bisect_right(begins, time + CLOSE) - 1) for time in times]
    frames = read_frames(source, lambda _count, _rate: numbers, fit=lambda each: _fitted(each, size), fps=FPS)
    return [ShownPosition(at, Image.fromarray(frame), True) for at, frame in zip(chosen, frames.frames, strict=True)]


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(_small(frame, size))


def _small(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
