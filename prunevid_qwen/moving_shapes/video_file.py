"""Write drawn frames to real files: mp4 (H.264) and webm (VP9) with PyAV, gif and folders of png with Pillow."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("libx264", {"crf": "18", "preset": "medium"}),
    ".webm": ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4"}),
}
_GIF_COLORS = 128


def write_video(path: str | Path, frames: np.ndarray, fps: float = 16.0) -> Path:
    """Write a video file; its ending (.mp4, .webm or .gif) says in which format.

    Args:
        path: where to; an existing file is replaced.
        frames: [F, H, W, 3] uint8 rgb; H and W even for mp4 and webm.
        fps: frames a second, above 0; a gif counts in hundredths of a second.

    Returns: the path.
    Raises: ValueError: the ending is unknown or the frames are not [F, H, W, 3] uint8.
    """
    path = Path(path)
    _check(frames)
    if path.suffix == ".gif":
        _write_gif(path, frames, fps)
    elif path.suffix in _CODECS:
        _encode(path, frames, fps)
    else:
        raise ValueError(f"cannot write {path.name!r}: the name must end in {', '.join(_CODECS)} or .gif")
    return path


def write_frames(folder: str | Path, frames: np.ndarray) -> Path:
    """Write ``frame_0000.png``, ``frame_0001.png``, ... ([F, H, W, 3] uint8 rgb) into a folder, made if missing."""
    from PIL import Image  # here, not above: drawing and asking need numpy alone

    _check(frames)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{number:04d}.png")
    return folder


def _encode(path: Path, frames: np.ndarray, fps: float) -> None:
    import av  # here, not above: drawing and asking need numpy alone

    codec, options = _CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.thread_count = 1  # the bytes must not depend on the number of cores
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: np.ndarray, fps: float) -> None:
    from PIL import Image  # here, not above: drawing and asking need numpy alone

    # without dithering: its dots would look like grain that moves
    pictures = [
        Image.fromarray(frame).quantize(_GIF_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for frame in frames
    ]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are [F, H, W, 3] uint8 with F at least 1, got {frames.shape} {frames.dtype}")
