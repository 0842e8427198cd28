"""Small real media files, encoded on the spot with PyAV; every frame carries its number in its pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.video import pyav as pyav_reader

BITS = 8


def frame(number: int, height: int = 64, width: int = 128) -> np.ndarray:
    """uint8 RGB [height, width, 3]: stripes above spell the number in binary, below left is red, right is blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    half = height // 2
    for bit in range(BITS):
        left, right = width * bit // BITS, width * (bit + 1) // BITS
        picture[:half, left:right] = 230 if number >> bit & 1 else 20
    picture[half:, : width // 2] = (220, 30, 30)
    picture[half:, width // 2 :] = (30, 30, 220)
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number that `frame` wrote into an upright picture, after any encoder."""
    height, width = picture.shape[:2]
    row = picture[height // 4].astype(int).mean(axis=1)
    return sum(1 << bit for bit in range(BITS) if row[int(width * (bit + 0.5) / BITS)] > 125)


def numbers_of(frames: np.ndarray) -> list[int]:
    return [number_of(f) for f in frames]


def can_encode(codec: str) -> bool:
    try:
        av.codec.Codec(codec, "w")
    except Exception:
        return False
    return True


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 48,
    rate: int = 24,
    size: tuple[int, int] = (64, 128),
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    milliseconds: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
    sound: float = 0.0,
) -> Path:
    """Write ``frames`` numbered frames; ``milliseconds`` gives each its own time (a variable frame rate)."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1  # encoders spin while they wait: minutes, beside other work
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        audio = out.add_stream("aac" if path.suffix == ".mp4" else "libopus", rate=48000) if sound else None
        for i in range(frames):
            picture = av.VideoFrame.from_ndarray(frame(i, *size), format="rgb24")
            if milliseconds is None:
                picture.pts, picture.time_base = i, Fraction(1, rate)
            else:
                picture.pts, picture.time_base = milliseconds[i], Fraction(1, 1000)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        if audio is not None:
            _write_sound(out, audio, sound)
    return path


def _write_sound(out: av.container.OutputContainer, audio: av.AudioStream, seconds: float) -> None:
    for start in range(0, int(seconds * 48000), 960):
        samples = av.AudioFrame.from_ndarray(np.zeros((2, 960), np.float32), format="fltp", layout="stereo")
        samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
        out.mux(audio.encode(samples))
    out.mux(audio.encode(None))


FAST_VP9 = {"deadline": "realtime", "cpu-used": "8"}
# Name of the file: how it is encoded. 48 frames at 24 a second, except the gif.
FORMATS: dict[str, dict] = {
    "h264.mp4": {},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none:frame-threads=1"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "11", "svtav1-params": "lp=1"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": FAST_VP9},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "h264.mkv": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "b_frames.avi": {},
    "h264.ts": {},
    "fragments.mp4": {"options": {"g": "12"}, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "loop.gif": {"codec": "gif", "pixel_format": "rgb8", "rate": 10, "frames": 20},
}


class Library:
    """The files of FORMATS, each encoded when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str) -> Path:
        options = FORMATS[name]
        codec = options.get("codec", "libx264")
        if not can_encode(codec):
            pytest.skip(f"this PyAV has no encoder {codec} to make {name} with")
        path = self.folder / name
        return path if path.exists() else encode(path, **options)


def sound_only(path: Path, seconds: float = 0.5, cover: bool = False) -> Path:
    """Sound, with a picture for its sleeve if ``cover``: containers store that as a video stream of one frame."""
    with av.open(str(path), "w") as out:
        audio = out.add_stream("aac", rate=48000)
        if cover:
            sleeve = out.add_stream("mjpeg", rate=1)
            sleeve.height, sleeve.width, sleeve.pix_fmt = 64, 128, "yuvj420p"
            sleeve.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(frame(0), format="rgb24")
            picture.pts, picture.time_base = 0, Fraction(1, 1)
            out.mux(sleeve.encode(picture))
            out.mux(sleeve.encode(None))
        _write_sound(out, audio, seconds)
    return path


def folder(path: Path, frames: int = 12, suffix: str = ".png") -> Path:
    """frame0, frame1, ..., frame10: an order by characters would put frame10 before frame2."""
    path.mkdir()
    for i in range(frames):
        Image.fromarray(frame(i)).save(path / f"frame{i}{suffix}")
    return path


def cut(source: Path, target: Path, share: float) -> Path:
    """The first ``share`` of a file's bytes, as a download that broke off leaves it."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


# Rows (a, b, u), (c, d, v), (x, y, w) of the matrix in an MP4's track header, as phones write them.
MATRICES = {
    "quarter_right": (0, 1, 0, -1, 0, 0, 0, 0, 1),
    "quarter_left": (0, -1, 0, 1, 0, 0, 0, 0, 1),
    "half": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "mirror": (-1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flip_and_quarter": (0, 1, 0, 1, 0, 0, 0, 0, 1),
}


def with_matrix(source: Path, target: Path, matrix: Sequence[int]) -> Path:
    """A copy of an MP4 with another display matrix: PyAV cannot write one, so its bytes are replaced."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd")
    assert content[at + 4] == 0, "a version 0 track header"
    units = [v * (1 << 30 if i % 3 == 2 else 1 << 16) for i, v in enumerate(matrix)]
    content[at + 44 : at + 80] = struct.pack(">9i", *units)
    target.write_bytes(content)
    return target


def turned(picture: np.ndarray, matrix: Sequence[int]) -> np.ndarray:
    """What a player shows of ``picture`` under ``matrix``, pixel by pixel: (x, y) goes to (a x + c y, b x + d y)."""
    a, b, _, c, d = matrix[:5]
    height, width = picture.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    to_x, to_y = a * xs + c * ys, b * xs + d * ys
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.empty((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[to_y, to_x] = picture
    return shown


def losing(lost: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make PyAV's reader lose frames by their index."""
    real_frames, real_fetch = pyav_reader.frames, pyav_reader.fetch

    def frames(path: str, indices: list[int], *rest: Any) -> Iterator[tuple[int, np.ndarray]]:
        return (each for each in real_frames(path, indices, *rest) if each[0] not in lost)

    def fetch(path: str, indices: list[int], *rest: Any) -> Any:
        found, notes = real_fetch(path, indices, *rest)
        return {i: pixels for i, pixels in found.items() if i not in lost}, notes

    monkeypatch.setattr(pyav_reader, "frames", frames)
    monkeypatch.setattr(pyav_reader, "fetch", fetch)
