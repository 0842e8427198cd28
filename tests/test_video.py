"""Reading real encoded files: each frame carries its number, so a test knows which one came back."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.video import pyav, read_video
from tests.media import (
    MATRICES,
    can_encode,
    cut,
    encode,
    frame,
    numbers_of,
    sound_only,
    turned,
    with_matrix,
)

FAST_VP9 = {"deadline": "realtime", "cpu-used": "8"}
# Name of the file: how it is encoded. 48 frames at 24 a second, except the gif.
FORMATS: dict[str, dict] = {
    "h264.mp4": {},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "11"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": FAST_VP9},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "h264.mkv": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "b_frames.avi": {},
    "h264.ts": {},
    "fragments.mp4": {"options": {"g": "12"}, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "loop.gif": {"codec": "gif", "pixel_format": "rgb8", "rate": 10, "frames": 20},
}


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Return a function from a name in FORMATS to its file, encoded once."""
    folder = tmp_path_factory.mktemp("videos")

    def find(name: str) -> Path:
        options = FORMATS[name]
        codec = options.get("codec", "libx264")
        if not can_encode(codec):
            pytest.skip(f"this PyAV has no encoder {codec} to make {name} with")
        path = folder / name
        return path if path.exists() else encode(path, **options)

    return find


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
        # 3 s and one mean frame of 1/3 s, over 4 frames.
        assert video.seconds_per_grid == pytest.approx(2 * (3 + 1 / 3) / 4, abs=1e-3)


def test_a_frame_nearest_to_several_times_is_repeated_and_reported(tmp_path):
    path = encode(tmp_path / "slides.mp4", frames=6, milliseconds=[0, 40, 80, 120, 4000, 8000])
    video = read_video(path, max_frames=5)
    assert video.indices == (0, 3, 4, 4, 5) or video.indices == (0, 3, 4, 5, 5) or len(set(video.indices)) == 4
    assert "the frame rate varies, 4 different frames are the nearest to 5" in video.warnings[0]


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
    with pytest.raises(MediaError, match=r"no frame between 0\.01 s and 0\.02 s"):
        read_video(library("h264.mp4"), start=0.01, end=0.02)


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
    seeks = count_seeks(monkeypatch)
    jumping = read_video(path, max_frames=5)
    jumps = len(seeks)
    monkeypatch.setattr(pyav, "SEEK_GAP", 10**9)
    straight = read_video(path, max_frames=5)
    assert len(seeks) == jumps, "the second pass was to decode from the start"
    assert numbers_of(straight.frames[:5]) == list(straight.indices)
    assert np.array_equal(jumping.frames, straight.frames) and jumping.warnings == straight.warnings == ()
    assert jumps > 0 or "intra-refresh" in str(options)


def count_seeks(monkeypatch) -> list[int]:
    seeks: list[int] = []
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
        container, stream = plain(path)
        return Watched(container), stream

    monkeypatch.setattr(pyav, "open_container", opened)
    return seeks


@pytest.mark.parametrize("name", ["чат видео 视频 🎬.mp4", "12:30 clip.mp4", "50%d #1?.mp4", "-dash.mp4"])
def test_unusual_names(library, tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(library("h264.mp4").read_bytes())
    assert read_video(path, max_frames=2).indices == (0, 47)
    monkeypatch.chdir(tmp_path)
    assert read_video(name, max_frames=2).source == name
    assert read_video(path.as_uri(), max_frames=2).source == str(path)


# What is broken, but not beyond use.


def test_a_webm_cut_short_is_read_and_reported_with_the_counts(library, tmp_path, caplog):
    path = cut(library("vp9.webm"), tmp_path / "cut.webm", 0.5)
    with caplog.at_level(logging.WARNING, "prunevid_qwen"):
        video = read_video(path, max_frames=4)
    there = round(video.duration * 24)
    assert 4 < there < 40 and numbers_of(video.frames) == list(video.indices)
    assert f"promises 2.00 s (about 48 frames), {there / 24:.2f} s ({there} frames) are there" in video.warnings[0]
    assert video.warnings[0] in caplog.text


def test_sound_that_goes_on_after_the_pictures_is_not_a_cut(tmp_path):
    path = encode(tmp_path / "longer.webm", "libvpx-vp9", frames=24, options=FAST_VP9, sound=3.0)
    assert read_video(path, max_frames=4).warnings == ()


def test_an_mp4_cut_short_is_read_as_far_as_it_decodes(tmp_path):
    whole = encode(
        tmp_path / "whole.mp4",
        size=(128, 256),
        options={"g": "12", "crf": "10"},
        container={"movflags": "faststart"},
    )
    video = read_video(cut(whole, tmp_path / "cut.mp4", 0.7), max_frames=6)
    assert len(video.indices) > 2 and numbers_of(video.frames)[: len(video.indices)] == list(video.indices)
    assert "its header promises 48 frames, " in video.warnings[0] and " are there" in video.warnings[0]


def test_a_gif_cut_short_is_reported(library, tmp_path):
    video = read_video(cut(library("loop.gif"), tmp_path / "cut.gif", 0.5), max_frames=4)
    assert "lacks the mark that ends a GIF" in video.warnings[0]


def test_frames_damaged_in_the_middle_are_left_out(tmp_path):
    # Keyframes every 12: what refers to a lost frame is wrong as well until the next of them.
    whole = encode(tmp_path / "whole.webm", "libvpx-vp9", options={**FAST_VP9, "g": "12"})
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    for number in (16, 47):  # two of the four that would be chosen
        at = content.index(packets[number])
        content[at : at + len(packets[number])] = bytes(len(packets[number]))
    path = tmp_path / "damaged.webm"
    path.write_bytes(content)
    video = read_video(path, max_frames=4)
    assert len(video.indices) == 4 and not {16, 47} & set(video.indices)
    assert numbers_of(video.frames) == list(video.indices)
    assert any("frames did not decode and were left out" in w for w in video.warnings)


def test_a_file_whose_frames_all_fail_to_decode_is_refused(library, tmp_path):
    whole = library("vp9.webm")
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        for packet in [bytes(p) for p in container.demux(video=0) if p.size]:
            at = content.index(packet)
            content[at : at + len(packet)] = bytes(len(packet))
    path = tmp_path / "ruined.webm"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"not one frame of .*ruined\.webm can be decoded .*copy or download it again"):
        read_video(path)


# What cannot be read: each message says what came, what was expected and what to do.


def broken(kind: str, folder: Path, library) -> Path:
    path = folder / f"{kind.replace(' ', '_')}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("<html><title>404 Not Found</title>\n")
    elif kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    elif kind == "no moov":
        cut(library("h264.mp4"), path, 0.6)
    elif kind == "cut header":
        cut(library("vp9.webm"), path, 0.02)
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes())
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04" + bytes(100))
    elif kind == "sound only":
        sound_only(path)
    elif kind == "folder of text":
        path.mkdir()
        (path / "notes.txt").write_text("no frames")
    elif kind == "empty folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", r"empty\.mp4 is empty \(0 bytes\): copy or download it again"),
        ("text", r"text file \(it begins '<html><title>404 Not Found.*download the video again"),
        ("lfs", r"Git LFS pointer.*git lfs pull"),
        ("no moov", r"without its complete index \(the moov box\), so it was truncated.*download it again"),
        ("cut header", r"truncated.*again"),
        ("noise", r"4096 bytes are no video format.*ffmpeg"),
        ("zip", r"it is a ZIP file: pass a video"),
        ("sound only", r"has no video in it, only audio: pass a file with a video stream"),
        ("folder of text", r"holds no frame: expected images .*found 1 other files, such as notes\.txt"),
        ("empty folder", r"holds no frame: .*found nothing"),
        ("missing", r"no video at .*missing\.mp4: .* holds 0 other files, check the name"),
    ],
)
def test_what_is_no_video_is_refused_with_the_next_step(library, tmp_path, kind, said):
    with pytest.raises(MediaError, match=said):
        read_video(broken(kind, tmp_path, library))


def test_a_missing_path_offers_the_nearest_name(tmp_path):
    (tmp_path / "Holiday2024.MP4").touch()
    with pytest.raises(MediaError, match=r"no video at .*; did you mean .*Holiday2024\.MP4\?"):
        read_video(tmp_path / "holiday_2024.mp4")
    with pytest.raises(MediaError, match=r"the folder .*nowhere does not exist either"):
        read_video(tmp_path / "nowhere" / "a.mp4")


def test_a_file_that_may_not_be_read(library, monkeypatch):
    path = library("h264.mp4")

    def refuse(*args, **kwargs):  # root may read everything, so that file modes prove nothing in CI
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MediaError, match=r"h264\.mp4 cannot be opened \(Permission denied\): check its permissions"):
        read_video(path)


@pytest.mark.parametrize("url", ["http://example.org/a.mp4", "https://example.org/a.mp4", "s3://bucket/a.mp4"])
def test_no_url_is_fetched(url, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    with pytest.raises(MediaError, match=r"nothing is downloaded here: download it first"):
        read_video(url)


def test_something_that_is_no_source():
    with pytest.raises(MediaError, match="got int"):
        read_video(3)
    with pytest.raises(MediaError, match="an empty path"):
        read_video("")


def test_the_time_limit_names_the_file_and_the_knob(library, monkeypatch):
    path = library("h264.mp4")
    ticks = itertools.count(0.0, 0.01)
    monkeypatch.setattr("prunevid_qwen.video.record.time.monotonic", lambda: next(ticks))
    with pytest.raises(MediaError, match=r"reading .*h264\.mp4 took more than 0\.1 s: pass a larger time_limit"):
        read_video(path, time_limit=0.1)
    assert read_video(path, max_frames=2, time_limit=None).indices == (0, 47)
    with pytest.raises(ConfigError, match="time_limit is a number of seconds above 0"):
        read_video(path, time_limit=0)


def test_no_more_frames_are_held_than_were_chosen(tmp_path, monkeypatch):
    path = encode(tmp_path / "long.mp4", frames=100, options={"g": "100"})
    converted: list[int] = []
    plain = pyav._as_shown
    monkeypatch.setattr(pyav, "_as_shown", lambda f: converted.append(1) or plain(f))
    read_video(path, max_frames=4)
    assert len(converted) == 4


def test_importing_the_readers_loads_no_decoder():
    script = (
        "import sys, prunevid_qwen.video as v; "
        "print([m for m in ('av', 'torch', 'cv2', 'decord', 'torchcodec', 'PIL', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
