"""Videos that are damaged, cut short or no videos at all: what can be read is, and each message says what to do."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video import read_video
from tests.media import FAST_VP9, Library, cut, encode, numbers_of, sound_only


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return Library(tmp_path_factory.mktemp("videos"))


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


def test_a_video_that_changes_its_size_is_refused(library, tmp_path):
    other = encode(tmp_path / "other.ts", size=(128, 256), frames=24)
    path = tmp_path / "joined.ts"
    path.write_bytes(library("h264.ts").read_bytes() + other.read_bytes())
    with pytest.raises(MediaError, match=r"changes its size midway \(128x64, 256x128\): convert it"):
        read_video(path, max_frames=4)


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
    elif kind == "header alone":
        content = library("mpeg4.avi").read_bytes()
        path.write_bytes(content[: content.index(b"movi") + 4])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes())
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04" + bytes(100))
    elif kind in ("sound only", "sound with a sleeve"):
        sound_only(path, cover="sleeve" in kind)
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
        ("header alone", r"holds no frame, its header is all there is: it was truncated; copy or download it again"),
        ("noise", r"4096 bytes are no video format.*ffmpeg"),
        ("zip", r"it is a ZIP file: pass a video"),
        ("sound only", r"has no video in it, only audio: pass a file with a video stream"),
        ("sound with a sleeve", r"has no video in it, only a cover picture, audio: pass a file with a video stream"),
        ("folder of text", r"holds no frame: expected images .*found 1 other entry \(notes\.txt\)"),
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
