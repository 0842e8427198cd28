"""Files that hold several videos, and files that libraries show otherwise than PyAV does."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video import read_image, read_video
from tests.media import MATRICES, encode, frame, numbers_of, with_matrix

Size = tuple[int, int]


def several(path: Path, *videos: tuple[range, Size], default: int | None = None) -> Path:
    """One stream for each range of numbers, at 24 a second."""
    with av.open(str(path), "w") as out:
        streams = []
        for place, (_, size) in enumerate(videos):
            stream = out.add_stream("libx264", rate=24, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.codec_context.thread_count = 1
            if default is not None:
                stream.disposition = av.stream.Disposition.default if place == default else 0
            streams.append(stream)
        packets = []
        for stream, (numbers, size) in zip(streams, videos, strict=True):
            for at, number in enumerate(numbers):
                picture = av.VideoFrame.from_ndarray(frame(number, *size), format="rgb24")
                picture.pts, picture.time_base = at, Fraction(1, 24)
                packets += stream.encode(picture)
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


SMALL, LARGE = (64, 128), (128, 256)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize(
    ("videos", "best"),
    [
        ([(range(0, 1), LARGE), (range(10, 22), SMALL)], 1),  # a still beside a video
        ([(range(0, 12), SMALL), (range(100, 112), LARGE)], 1),  # a preview beside a video
        ([(range(0, 12), LARGE), (range(100, 112), SMALL)], 0),
    ],
)
def test_the_best_stream_is_read_and_a_warning_says_so(tmp_path, suffix, videos, best):
    video = read_video(several(tmp_path / f"two{suffix}", *videos), max_frames=12)
    numbers, size = videos[best]
    assert numbers_of(video.frames) == list(numbers) and video.size == size
    assert len(video.warnings) == 1 and f"stream {best}" in video.warnings[0]


def test_of_equal_streams_the_default_is_read(tmp_path):
    path = several(tmp_path / "two.mkv", (range(0, 12), SMALL), (range(100, 112), SMALL), default=1)
    assert numbers_of(read_video(path, max_frames=2).frames) == [100, 111]


@pytest.mark.parametrize(("backend", "library"), [("opencv", "cv2"), ("decord", "decord")])
def test_backends_that_choose_a_stream_by_themselves_refuse(tmp_path, backend, library):
    pytest.importorskip(library)
    path = several(tmp_path / "two.mp4", (range(0, 12), SMALL), (range(100, 112), LARGE))
    with pytest.raises(MediaError, match="2 videos"):
        read_video(path, backend=backend)
    assert read_video(encode(tmp_path / "one.mp4", frames=4), backend=backend).warnings == ()


OTHERS = [("opencv", "cv2"), ("decord", "decord")]


@pytest.mark.parametrize(("backend", "library"), OTHERS)
@pytest.mark.parametrize("name", MATRICES)
def test_mirrored_frames_are_refused_where_they_would_come_unmirrored(tmp_path, backend, library, name):
    pytest.importorskip(library)
    path = with_matrix(encode(tmp_path / "up.mp4", frames=4), tmp_path / "turned.mp4", MATRICES[name])
    a, b, _, c, d = MATRICES[name][:5]
    if a * d - b * c < 0:
        with pytest.raises(MediaError, match=r"mirrored.*pyav"):
            read_video(path, backend=backend)
    else:
        seen = read_video(path, backend=backend).frames.astype(int)
        assert np.abs(seen - read_video(path).frames).max() <= 3


def coloured(path: Path, space: int, primaries: int, transfer: int) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        codec = stream.codec_context
        codec.thread_count, codec.color_range = 1, 1
        codec.colorspace, codec.color_primaries, codec.color_trc = space, primaries, transfer
        for at in range(3):
            planes = np.full((96, 128), 110 + 20 * at, np.uint8)
            planes[64:80], planes[80:] = 90, 200  # a strong red
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts = at
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("backend", "library"), OTHERS)
@pytest.mark.parametrize(
    ("colours", "alike"),
    [
        ((1, 1, 1), True),
        ((5, 6, 6), True),
        ((9, 9, 14), False),
        ((9, 9, 16), False),
        ((9, 9, 18), False),
        ((1, 12, 13), False),
        ((2, 2, 16), False),
        ((1, 8, 1), False),  # film
        ((1, 10, 17), False),  # XYZ
        ((1, 1, 9), False),  # logarithmic
        ((8, 1, 1), False),  # YCgCo
        ((12, 1, 1), False),
        ((7, 7, 7), True),
        ((1, 22, 13), True),
    ],
)
def test_colours_are_the_same_or_refused(tmp_path, backend, library, colours, alike):
    pytest.importorskip(library)
    path = coloured(tmp_path / "c.mp4", *colours)
    if alike:
        seen = read_video(path, backend=backend).frames.astype(int)
        shown = read_video(path)
        assert np.abs(seen - shown.frames).max() <= 3 and shown.warnings == ()
    else:
        with pytest.raises(MediaError, match=r"colours.*pyav"):
            read_video(path, backend=backend)


def test_colours_that_pyav_cannot_convert_are_a_media_error(tmp_path):
    path = coloured(tmp_path / "c.mp4", 8, 1, 1)  # YCgCo
    try:
        video = read_video(path)
    except MediaError as error:
        assert "8" in str(error)
    else:  # an FFmpeg that can
        assert video.frames.shape[3] == 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_frame_beside_which_stands_data_of_a_kind_without_a_name(tmp_path, orientation):
    """FFmpeg 8 hands EXIF over, and the views of a spatial video; PyAV 18 has no name for them."""
    exif, path = Image.Exif(), tmp_path / "picture"
    exif[0x0112] = orientation
    Image.fromarray(frame(5)).save(path, "JPEG", exif=exif, quality=95)
    seen, right = read_video(path).frames[0].astype(int), read_image(path)
    assert seen.shape == right.shape and np.abs(seen - right).mean() < 8


def test_white_is_put_below_transparent_frames(tmp_path):
    """A GIF of letters on nothing: they would be black on black."""
    pages = []
    for at in range(4):
        levels = np.zeros((64, 128), np.uint8)
        levels[8:24, 8 + 8 * at : 24 + 8 * at] = 1
        page = Image.fromarray(levels, mode="P")
        page.putpalette([0, 0, 0, 10, 20, 30])
        pages.append(page)
    path = tmp_path / "letters.gif"
    pages[0].save(path, save_all=True, append_images=pages[1:], transparency=0, disposal=2, duration=100)
    for video in (read_video(path), read_video(path, max_frames=2)):
        for at, pixels in zip(video.indices, video.frames, strict=True):
            expected = np.full((64, 128, 3), 255)
            expected[8:24, 8 + 8 * at : 24 + 8 * at] = (10, 20, 30)
            assert np.abs(pixels - expected).max() <= 1
        assert len(video.warnings) == 1 and "white" in video.warnings[0]
    for backend, library in OTHERS:
        if importlib.util.find_spec(library):
            with pytest.raises(MediaError, match="transparent"):
                read_video(path, backend=backend)
