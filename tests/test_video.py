"""Reading real encoded files: each frame carries its number, so a test knows which one came back."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.video import pyav, read_video
from tests.media import (
    FAST_VP9,
    FORMATS,
    MATRICES,
    Library,
    encode,
    frame,
    numbers_of,
    turned,
    with_matrix,
)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return Library(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_frames_asked_for_come_back(library, name):
    path = library(name)
    frames, rate = FORMATS[name].get("frames", 48), FORMATS[name].get("rate", 24)
    video = read_video(path, max_frames=8)
    assert numbers_of(video.frames) == list(video.indices)
    assert len(video.indices) == 8 and video.indices[0] == 0 and video.indices[-1] == frames - 1
    assert video.frames.dtype == np.uint8 and video.frames.shape == (8, 64, 128, 3) and video.size == (64, 128)
    # Matroska rounds to milliseconds.
    assert video.timestamps == pytest.approx([i / rate for i in video.indices], abs=1e-3)
    assert video.duration == pytest.approx(frames / rate, abs=2e-3)
    assert video.source_fps == pytest.approx(rate, rel=1e-3)
    assert video.seconds_per_grid == pytest.approx(2 * frames / rate / 8, abs=1e-3)
    assert video.backend == "pyav" and video.source == str(path) and video.warnings == () and video.padded == 0


def test_colours_and_the_place_of_things_survive(library):
    video = read_video(library("h264.mp4"), max_frames=2)
    assert np.abs(video.frames[0].astype(int) - frame(0)).mean() < 6
    assert video.frames[0, 60, 10, 0] > 180 and video.frames[0, 60, 120, 2] > 180


def test_frames_are_chosen_by_time_where_the_rate_varies(tmp_path):
    # A burst of 6 frames, then pauses: by number, 0 3 6 9 would be taken; by time, one each second.
    times = [0, 40, 80, 120, 160, 200, 1000, 1040, 2000, 3000]
    for name in ("variable.mp4", "variable.mkv"):
        video = read_video(encode(tmp_path / name, frames=10, milliseconds=times), max_frames=4)
        assert video.indices == (0, 6, 8, 9) and numbers_of(video.frames) == [0, 6, 8, 9]
        assert video.timestamps == pytest.approx([0, 1, 2, 3], abs=1e-3)
        assert video.seconds_per_grid == pytest.approx(2.0, abs=1e-3)  # two frames, one second each


def test_a_frame_on_the_screen_at_several_times_is_repeated_and_reported(tmp_path):
    path = encode(tmp_path / "slides.mp4", frames=6, milliseconds=[0, 40, 80, 120, 4000, 8000])
    video = read_video(path, max_frames=5)
    assert video.indices == (0, 3, 4, 4, 5)
    assert video.timestamps == pytest.approx([0, 2, 4, 6, 8], abs=0.02)
    assert "4 different frames are on the screen at 5" in video.warnings[0]


def test_odd_counts_are_padded_with_the_last_frame(library):
    video = read_video(library("h264.mp4"), max_frames=5)
    assert len(video.timestamps) == 5 and video.padded == 1 and video.frames.shape[0] == 6
    assert np.array_equal(video.frames[5], video.frames[4])
    assert video.seconds_per_grid == pytest.approx(2 * 2.0 / 5)


def test_a_short_video_gives_each_frame_once(tmp_path):
    three = read_video(encode(tmp_path / "three.mp4", frames=3), max_frames=16)
    assert three.indices == (0, 1, 2) and numbers_of(three.frames) == [0, 1, 2, 2]
    one = read_video(encode(tmp_path / "one.mp4", frames=1))
    assert one.indices == (0,) and one.frames.shape[0] == 2 and np.array_equal(*one.frames)
    assert one.duration == pytest.approx(1 / 24) and one.seconds_per_grid == pytest.approx(2 / 24)


def test_odd_sizes_come_back_whole(tmp_path):
    path = encode(tmp_path / "odd.webm", "libvpx-vp9", frames=9, size=(65, 131), options=FAST_VP9)
    video = read_video(path, max_frames=4)
    assert video.size == (65, 131) and numbers_of(video.frames) == list(video.indices)


def test_start_and_end_in_seconds(library):
    video = read_video(library("h264.mp4"), max_frames=3, start=0.5, end=1.0)
    assert video.indices == (12, 18, 24) and numbers_of(video.frames) == [12, 18, 24, 24]
    assert read_video(library("h264.mp4"), max_frames=2, start=1.5, end=100.0).indices == (36, 47)
    with pytest.raises(MediaError, match=r"start=5 s is beyond .*h264\.mp4, which lasts 2\.00 s"):
        read_video(library("h264.mp4"), start=5.0)
    assert read_video(library("h264.mp4"), start=0.01, end=0.02).indices == (0,)
    assert read_video(library("h264.mp4"), max_frames=2, start=0.51, end=1.01).indices == (12, 24)


def test_sampling_by_fps(library):
    assert read_video(library("h264.mp4"), sampling="fps", fps=3.0).indices == (0, 9, 19, 28, 38, 47)


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirroring_as_players_show_them(library, tmp_path, name):
    upright = read_video(library("h264.mp4"), max_frames=2).frames
    path = with_matrix(library("h264.mp4"), tmp_path / "turned.mp4", MATRICES[name])
    video = read_video(path, max_frames=2)
    for seen, original in zip(video.frames, upright, strict=True):
        assert np.array_equal(seen, turned(original, MATRICES[name]))
    assert video.size == video.frames.shape[1:3]


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        (".mp4", "libx264", {"bf": "3"}),
        (".mp4", "libx264", {"x264-params": "open-gop=1:bframes=3"}),
        (".mp4", "libx265", {"x265-params": "log-level=none:open-gop=1:bframes=4:keyint=12"}),
        (".mkv", "libx265", {"x265-params": "log-level=none:open-gop=1:bframes=4:keyint=12"}),
        (".mkv", "libx264", {"bf": "3"}),
        (".webm", "libvpx-vp9", FAST_VP9),
        (".mp4", "mpeg4", {"bf": "2"}),
        (".mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    ],
)
def test_seeking_gives_the_frames_that_decoding_from_the_start_gives(tmp_path, monkeypatch, suffix, codec, options):
    path = encode(tmp_path / f"long{suffix}", codec, frames=240, options={"g": "12", **options})
    seeks, passes = count_seeks(monkeypatch)
    jumping = read_video(path, max_frames=5)
    jumps = len(seeks)
    # A frame that a seek missed would be looked for from the beginning, in a second pass.
    assert len(passes) == 1 or "intra-refresh" in str(options)
    monkeypatch.setattr(pyav, "SEEK_GAP", 10**9)
    straight = read_video(path, max_frames=5)
    assert len(seeks) == jumps, "the second pass was to decode from the start"
    assert numbers_of(straight.frames[:5]) == list(straight.indices)
    assert np.array_equal(jumping.frames, straight.frames) and jumping.warnings == straight.warnings == ()
    assert jumps > 0 or "intra-refresh" in str(options)


def count_seeks(monkeypatch) -> tuple[list[int], list[str]]:
    seeks: list[int] = []
    passes: list[str] = []
    plain = pyav.open_container

    class Watched:
        def __init__(self, container):
            self.container = container

        def seek(self, *args, **kwargs):
            seeks.append(args[0])
            return self.container.seek(*args, **kwargs)

        def __getattr__(self, name):
            return getattr(self.container, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

    def opened(path):
        passes.append(path)
        container, stream = plain(path)
        return Watched(container), stream

    monkeypatch.setattr(pyav, "open_container", opened)
    return seeks, passes


@pytest.mark.parametrize("name", ["чат видео 视频 🎬.mp4", "12:30 clip.mp4", "50%d #1?.mp4", "-dash.mp4"])
def test_unusual_names(library, tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(library("h264.mp4").read_bytes())
    assert read_video(path, max_frames=2).indices == (0, 47)
    monkeypatch.chdir(tmp_path)
    assert read_video(name, max_frames=2).source == name
    assert read_video(path.as_uri(), max_frames=2).source == str(path)


def test_the_time_limit_names_the_file_and_the_knob(library, monkeypatch):
    path = library("h264.mp4")
    ticks = itertools.count(0.0, 0.01)
    monkeypatch.setattr("prunevid_qwen.video.video_read.time.monotonic", lambda: next(ticks))
    with pytest.raises(MediaError, match=r"reading .*h264\.mp4 took more than 0\.1 s: pass a larger time_limit"):
        read_video(path, time_limit=0.1)
    assert read_video(path, max_frames=2, time_limit=None).indices == (0, 47)
    with pytest.raises(ConfigError, match="time_limit is a number of seconds above 0"):
        read_video(path, time_limit=0)


def test_no_more_frames_are_held_than_were_chosen(tmp_path, monkeypatch):
    path = encode(tmp_path / "long.mp4", frames=100, options={"g": "100"})
    converted: list[int] = []
    plain = pyav._as_shown
    monkeypatch.setattr(pyav, "_as_shown", lambda *given: converted.append(1) or plain(*given))
    read_video(path, max_frames=4)
    assert len(converted) == 4


def test_importing_the_readers_loads_no_decoder():
    script = (
        "import sys, prunevid_qwen.video as v; "
        "print([m for m in ('av', 'torch', 'cv2', 'decord', 'torchcodec', 'PIL', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
