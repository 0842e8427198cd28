"""Frames of a video in chunks: those of the whole, and a thread that reads ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid_qwen import MediaError, PruneVidConfig
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene, write_frames
from prunevid_qwen.moving_shapes.drawing import render
from prunevid_qwen.video import FramesChanged, open_video, read_video
from prunevid_qwen.video import pyav as pyav_reader
from prunevid_qwen.video.prefetch import Prefetch
from prunevid_qwen.video.video_read import Deadline
from tests.media import FORMATS, Library, cut, encode, frame, losing

ASKED = "what color is the circle ?"
CONFIG = PruneVidConfig()
SMALL = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
# 112 x 112 pixels are 16 tokens a temporal position
CHUNKED = CONFIG.replace(vision_chunk_tokens=40)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("prunevid")]
    assert left == []


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("v") / "frames", render(make_scene(2), 11))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("formats"))


def streamed(source: Any, size: int = 4, **options: Any) -> tuple[np.ndarray, Any, list[int]]:
    """All frames of a stream, its record, and the lengths of its chunks, of the last time they were handed out."""
    stream = open_video(source, **options)
    while True:
        try:
            chunks = list(stream.chunks(size))
            break
        except FramesChanged:
            continue
    assert stream.count == sum(map(len, chunks))
    assert stream.size == chunks[0].shape[1:3]
    return np.concatenate(chunks), stream.video(), [len(chunk) for chunk in chunks]


def assert_same(whole: Any, frames: np.ndarray, record: Any) -> None:
    assert np.array_equal(frames, whole.frames)
    assert record.frames.shape == (0, *whole.frames.shape[1:])
    for name in vars(whole):
        if name not in ("frames", "warnings"):
            assert getattr(record, name) == getattr(whole, name), name


# ---- frames


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("options", [{"max_frames": 7}, {"max_frames": 100}, {"max_frames": 9, "start": 0.3, "end": 1}])
def test_a_stream_has_the_frames_of_the_whole(library: Library, name: str, options: dict[str, Any]) -> None:
    whole = read_video(library(name), **options)
    frames, record, lengths = streamed(library(name), **options)
    assert_same(whole, frames, record)
    assert record.warnings == whole.warnings
    assert all(length == 4 for length in lengths[:-1])


@pytest.mark.parametrize("backend", ["opencv", "decord"])
def test_other_backends_stream_too(library: Library, backend: str) -> None:
    pytest.importorskip({"opencv": "cv2", "decord": "decord"}[backend])
    whole = read_video(library("h264.mp4"), backend=backend, max_frames=9)
    frames, record, _ = streamed(library("h264.mp4"), backend=backend, max_frames=9)
    assert_same(whole, frames, record)


def test_images_and_arrays_stream_too(other: Path) -> None:
    for source in (other, [frame(i) for i in range(5)], np.stack([frame(i) for i in range(6)])):
        frames, record, _ = streamed(source)
        assert_same(read_video(source), frames, record)


def test_a_frame_that_is_the_nearest_twice_comes_twice(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mkv", frames=8, milliseconds=[0, 40, 80, 120, 160, 200, 5000, 10000])
    frames, record, _ = streamed(path, max_frames=7)
    assert_same(read_video(path, max_frames=7), frames, record)
    assert len(set(record.indices)) < len(record.indices)
    assert any("frame rate varies" in warning for warning in record.warnings)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "h264.ts", "vp9.webm", "loop.gif"])
@pytest.mark.parametrize("max_frames", [8, 100])
def test_damage_makes_a_stream_choose_as_the_whole_does(library: Library, tmp_path: Path, name: str, max_frames: int):
    """Bytes in the middle are zeros: some frames decode to nothing, others are chosen, the stream starts anew."""
    content = bytearray(library(name).read_bytes())
    for share in (0.35, 0.5, 0.65):
        at = int(len(content) * share)
        content[at : at + 200] = bytes(200)
    path = tmp_path / name
    path.write_bytes(bytes(content))
    try:
        whole = read_video(path, max_frames=max_frames)
    except MediaError as error:
        with pytest.raises(MediaError) as caught:
            streamed(path, max_frames=max_frames)
        assert str(caught.value) == str(error)
        return
    frames, record, _ = streamed(path, max_frames=max_frames)
    assert record.indices == whole.indices
    assert frames.shape == whole.frames.shape


@pytest.mark.parametrize("lost", [{0}, {20}, {47}, {0, 1, 2, 30}, set(range(10, 40))])
@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts"])
def test_lost_frames_are_replaced_as_in_the_whole(
    library: Library, monkeypatch: pytest.MonkeyPatch, lost: set[int], name: str
) -> None:
    losing(lost, monkeypatch)
    for max_frames in (6, 100):
        whole = read_video(library(name), max_frames=max_frames)
        frames, record, _ = streamed(library(name), max_frames=max_frames)
        assert_same(whole, frames, record)
        assert record.warnings == whole.warnings


def test_what_a_seek_passes_over_is_looked_for_from_the_beginning(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is wrong: with seeks frame 20 is never met, without them it is."""
    real = pyav_reader._by_tick

    def by_tick(path: str, wanted: dict[int, int], timeline: Any, keys: tuple[int, ...], *rest: Any) -> Any:
        return (each for each in real(path, wanted, timeline, keys, *rest) if not keys or each[0] != 20)

    monkeypatch.setattr(pyav_reader, "_by_tick", by_tick)
    whole = read_video(library("h264.mp4"), max_frames=100)
    assert 20 in whole.indices
    frames, record, _ = streamed(library("h264.mp4"), max_frames=100)
    assert_same(whole, frames, record)


def test_what_was_wrong_is_said_at_the_end(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pyav_reader.frames

    def frames(path: str, indices: list[int], timeline: Any, deadline: Deadline, notes: list[str]) -> Any:
        yield from real(path, indices, timeline, deadline, notes)
        notes.append("1 parts could not be decoded")

    monkeypatch.setattr(pyav_reader, "frames", frames)
    for max_frames in (6, 7):
        _, record, _ = streamed(library("h264.mp4"), max_frames=max_frames)
        assert record.warnings == (f"{library('h264.mp4')}: 1 parts could not be decoded",)


def test_a_lost_frame_is_not_waited_for_with_all_that_follow(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    losing({4}, monkeypatch)
    lossy, held = pyav_reader.frames, []

    def frames(*args: Any) -> Iterator[tuple[int, np.ndarray]]:
        held.append(0)
        for each in lossy(*args):
            held[-1] += 1
            yield each

    monkeypatch.setattr(pyav_reader, "frames", frames)
    with pytest.raises(FramesChanged):
        list(open_video(library("h264.mp4"), max_frames=100).chunks(4))
    assert held == [4 + 32 + 1]  # those before it, and as many as damage may put out of order


def test_a_file_that_decodes_to_other_frames_each_time_is_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fetch`, with which the choice was made, finds a frame that the decoder then does not give."""
    real = pyav_reader.frames
    monkeypatch.setattr(pyav_reader, "frames", lambda path, indices, *rest: real(path, indices[:-3], *rest))
    calls = []

    def fetch(path: str, indices: list[int], *rest: Any) -> Any:
        calls.append(indices)
        found, notes = real_fetch(path, indices, *rest)
        return (found if len(calls) < 3 else {}), notes

    real_fetch = pyav_reader.fetch
    monkeypatch.setattr(pyav_reader, "fetch", fetch)
    with pytest.raises(MediaError, match="smaller max_frames, another video_backend"):
        streamed(library("h264.mp4"), max_frames=40)


def test_a_change_of_size_and_a_cut_file_are_told_as_before(tmp_path: Path, library: Library) -> None:
    listed = [frame(0), frame(1), frame(2, 32, 64)]
    with pytest.raises(MediaError, match="differ in size"):
        open_video(listed)
    half = cut(library("h264.ts"), tmp_path / "half.ts", 0.5)
    frames, record, _ = streamed(half, max_frames=100)
    whole = read_video(half, max_frames=100)
    assert_same(whole, frames, record)
    assert record.warnings == whole.warnings


def test_a_size_that_changes_midway_is_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pyav_reader.frames

    def frames(*args: Any) -> Iterator[tuple[int, np.ndarray]]:
        return ((i, pixels[:32] if i > 20 else pixels) for i, pixels in real(*args))

    monkeypatch.setattr(pyav_reader, "frames", frames)
    with pytest.raises(MediaError, match=r"changes its size midway \(128x32, 128x64\)"):
        streamed(library("h264.mp4"))


def test_the_time_limit_is_for_reading_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("prunevid_qwen.video.video_read.time.monotonic", lambda: now[0])
    stream = open_video(library("h264.mp4"), max_frames=48, time_limit=1.0)
    for _ in stream.chunks(4):
        now[0] += 100.0  # an encoder that takes its time
    stream = open_video(library("h264.mp4"), max_frames=48, time_limit=1.0)
    real = Deadline.check

    def slow(self: Deadline) -> None:
        now[0] += 0.05
        real(self)

    monkeypatch.setattr(Deadline, "check", slow)
    with pytest.raises(MediaError, match="more than 1 s"):
        list(stream.chunks(4))


# ---- the thread


def test_a_thread_is_one_item_ahead_and_no_more() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(6):
            made.append(i)
            yield i

    with Prefetch(items()) as ahead:
        for expected in range(6):
            assert next(ahead) == expected
            assert len(made) <= expected + 2
        assert list(ahead) == []
        assert list(ahead) == []


def test_an_error_in_the_thread_comes_in_its_turn() -> None:
    for error in (MediaError("cut"), KeyboardInterrupt()):

        def items(error: BaseException = error) -> Iterator[int]:
            yield 1
            raise error

        ahead = Prefetch(items())
        assert next(ahead) == 1
        with pytest.raises(type(error)):
            next(ahead)
        assert list(ahead) == []


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_closing_stops_the_thread_and_closes_what_it_reads(taken: int) -> None:
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    ahead = Prefetch(items())
    for _ in range(taken):
        next(ahead)
    ahead.close()
    ahead.close()
    assert closed == [True]
    with pytest.raises(StopIteration):
        next(ahead)
