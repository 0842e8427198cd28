"""Write drawn frames to real files: mp4 (H.264), webm (VP9), gif, or a folder of png pictures. Needs PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    ".mp4": ("libx264", "yuv420p", {"crf": "18", "preset": "medium"}),
    ".webm": ("libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4"}),
    ".gif": ("gif", "rgb8", {}),
}


def write_video(path: str | Path, frames: np.ndarray, fps: float = 16.0) -> Path:
    """Write a video file; its ending (.mp4, .webm or .gif) says in which format.

    Args:
        path: where to; an existing file is replaced.
        frames: [F, H, W, 3] uint8 rgb; H and W even for mp4 and webm.
        fps: frames a second, above 0.

    Returns: the path.
    Raises: ValueError: the ending is unknown or the frames are not [F, H, W, 3] uint8.
    """
    path = Path(path)
    if path.suffix not in _CODECS:
        raise ValueError(f"cannot write {path.name!r}: the name must end in {', '.join(_CODECS)}")
    _check(frames)
    import av  # here, not above: drawing and asking work without PyAV

    codec, pixel_format, options = _CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixel_format
        stream.thread_count = 1  # the bytes must not depend on the number of cores
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: str | Path, frames: np.ndarray) -> Path:
    """Write ``frame_0000.png``, ``frame_0001.png``, ... ([F, H, W, 3] uint8 rgb) into a folder, made if missing."""
    folder = Path(folder)
    _check(frames)
    import av  # here, not above: drawing and asking work without PyAV

    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        context = av.CodecContext.create("png", "w")
        context.width, context.height, context.pix_fmt = frame.shape[1], frame.shape[0], "rgb24"
        context.time_base = Fraction(1, 1)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        data = b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode()])
        (folder / f"frame_{number:04d}.png").write_bytes(data)
    return folder


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are [F, H, W, 3] uint8 with F at least 1, got {frames.shape} {frames.dtype}")
