"""``prunevid eval check``: videos, images and frame folders that are broken, cut short, odd, or fine."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.datasets.check import promised_bytes
from tests import benchmark_folders as folders
from tests.benchmark_fixtures import asking, look, of_media
from tests.benchmark_folders import FAST_VP9, RATE, SIZE, Clips, mvbench_record, put_frames
from tests.media import cut, encode

pytestmark = pytest.mark.usefixtures("empty_cache")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("suffix", "break_it", "said"),
    [
        (".mp4", lambda path: path.write_bytes(b""), "empty (0 bytes)"),
        (".mp4", lambda path: path.write_text("<html>404 Not Found"), "text file"),
        (".mp4", _half, "truncated"),
        (".avi", lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read as a video"),
        (".mp4", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    ],
    ids=["zero_bytes", "text", "mp4_without_moov", "avi_cut", "lfs_pointer"],
)
def test_broken_files_are_found_without_decoding(
    suffix: str, break_it: Callable[[Path], object], said: str, tmp_path: Path, clips: Clips
) -> None:
    break_it(clips.put(tmp_path / "video" / "vlnqa" / f"a{suffix}"))
    report = look(asking(tmp_path, "egocentric_navigation", [mvbench_record("x", 1, f"a{suffix}")]))
    assert of_media(report) == [("unreadable", f"a{suffix}")] and said in report.problems[-1].why
    assert report.askable == 0 and any(step.startswith("download ") for step in report.next_steps)


@pytest.mark.parametrize(
    ("name", "codec", "options", "share"),
    [
        ("index_first.mp4", "libx264", {"movflags": "faststart"}, 0.7),
        ("a.webm", "libvpx-vp9", {}, 0.66),
        ("a.mkv", "libx264", {}, 0.9),
        ("a.avi", "mpeg4", {}, 0.9),
    ],
)
def test_a_file_cut_short_that_opens_is_found_by_its_length(
    name: str, codec: str, options: dict[str, str], share: float, tmp_path: Path
) -> None:
    how = FAST_VP9 if codec == "libvpx-vp9" else {}
    made = encode(tmp_path / name, codec, frames=24, rate=12, size=SIZE, options=how, container=options)
    assert promised_bytes(made) == made.stat().st_size
    place = tmp_path / "video" / "vlnqa"
    place.mkdir(parents=True)
    cut(made, place / name, share)
    report = look(asking(tmp_path, "egocentric_navigation", [mvbench_record("x", 1, name)]))
    assert of_media(report) == [("damaged", name)] and "cut short" in report.problems[-1].why
    assert report.askable == 1  # what is left can be asked about, and is said to be damaged


def test_a_stream_that_promises_no_length_is_no_shorter_than_it(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    for content, promised in (
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7, None),  # what recorders write
        (b"\x1a\x45\xdf\xa3\x81\x00\x18\x53\x80\x67\x40\x03", 15),
        (b"\x1a\x45\xdf\xa3\x80nope", None),
        (b"\x1a\x45\xdf\xa3\x00", None),
        (b"RIFF\xff\xff\xff\xffAVI ", None),
        (b"\0\0\0\x08ftyp\0\0\0\0mdat", 8),  # the last box goes to the end
        (b"\0\0\0\x08ftyp\0\0\0\x01mdat" + (99).to_bytes(8, "big"), 107),
        (b"\0\0\0\x08ftyp\0\0\0\x04mdat", 8),  # no box is that short
        (b"\0\0\0\x08ftyp\0\0\x10\0\1\2\3\4", 8),  # what follows is no box
        (b"\x1a\x45\xdf\xa3" + bytes(9) + b"\x18\x53\x80\x67\x81", None),
        (b"GIF89a", None),
    ):
        path.write_bytes(content)
        assert promised_bytes(path) == promised, content


def test_damage_inside_is_found_by_decoding(tmp_path: Path, clips: Clips, capsys: Any) -> None:
    place = tmp_path / "video" / "vlnqa"
    clips.put(place / "good.mp4")
    noise = bytearray(clips.put(place / "noise.mp4").read_bytes())
    begin, end = noise.index(b"mdat") + 4, noise.rindex(b"moov") - 4
    noise[begin:end] = random.Random(0).randbytes(end - begin)
    (place / "noise.mp4").write_bytes(bytes(noise))
    streamed = bytearray(
        encode(tmp_path / "s.webm", "libvpx-vp9", frames=24, rate=12, size=SIZE, options=FAST_VP9).read_bytes()
    )
    at = streamed.index(b"\x18\x53\x80\x67") + 4
    streamed[at : at + 8] = b"\x01" + b"\xff" * 7  # no length, as a recorder that could not seek back
    (place / "cut.webm").write_bytes(bytes(streamed[: len(streamed) * 2 // 3]))
    videos = ("good.mp4", "cut.webm", "noise.mp4")
    asking(tmp_path, "egocentric_navigation", [mvbench_record("x", 1, video) for video in videos])
    assert of_media(look(tmp_path)) == []
    report = look(tmp_path, decode=True)
    assert of_media(report) == [("damaged", "cut.webm"), ("unreadable", "noise.mp4")] and report.askable == 2
    assert main(["eval", "check", "mvbench", str(tmp_path), "--decode"]) == 4
    assert "unreadable: " in capsys.readouterr().out


def test_odd_videos_that_are_fine(tmp_path: Path, clips: Clips) -> None:
    place = tmp_path / "video" / "vlnqa" / 'it\'s "left" 左'
    place.mkdir(parents=True)
    encode(place / "one frame.mp4", frames=1, rate=RATE, size=SIZE)
    encode(place / "varying.mkv", frames=8, size=SIZE, milliseconds=(0, 40, 80, 500, 520, 1500, 1600, 3000))
    encode(place / "moving.gif", "gif", frames=6, rate=10, size=SIZE, pixel_format="rgb8")
    encode(place / "av1.mp4", "libsvtav1", frames=4, rate=RATE, size=(64, 64), options={"preset": "12"})
    part = encode(place / "joined.ts", frames=4, rate=RATE, size=SIZE).read_bytes()
    (place / "joined.ts").write_bytes(part * 2)  # a warning, and no damage
    letters = [Image.new("P", (64, 64), color) for color in (0, 1)]
    letters[0].save(place / "letters.gif", save_all=True, append_images=letters[1:], transparency=0, duration=100)
    clips.put(place / "matroska.mkv")
    clips.put(place / "web.webm")
    records = [mvbench_record("x", 1, f"{place.name}/{path.name}") for path in sorted(place.iterdir())]
    report = look(asking(tmp_path, "egocentric_navigation", records), decode=True)
    assert of_media(report) == [] and report.askable == 8


def test_frame_folders(tmp_path: Path) -> None:
    place = tmp_path / "video" / "tvqa" / "frames_fps3_hq"
    put_frames(place / "one", 1)
    put_frames(place / "upper", 3, suffix=".JPG")
    (put_frames(place / "thumbs", 11) / "Thumbs.db").write_bytes(b"x")
    put_frames(place / "gaps", 12)
    for number in (4, 7):
        (place / "gaps" / f"{number:05d}.jpg").unlink()
    put_frames(place / "late", 3, first=3)
    (place / "empty").mkdir()
    (place / "broken").mkdir()
    (place / "broken" / "00001.jpg").write_bytes(b"no jpg")
    put_frames(place / "cut", 3)
    _half(place / "cut" / "00003.jpg")
    (place / "a_file").write_bytes(b"")
    everything = ("one", "upper", "thumbs", "gaps", "late", "empty", "broken", "cut", "gone", "a_file")
    bound = {"start": 0.0, "end": 1.0}
    asking(tmp_path, "episodic_reasoning", [mvbench_record("x", 1, name, **bound) for name in everything])
    report = look(tmp_path)
    expected = [("damaged", "gaps"), ("damaged", "late"), ("unreadable", "empty"), ("unreadable", "broken")]
    expected += [("missing", "gone"), ("unreadable", "a_file")]
    assert of_media(report) == expected
    why = {Path(p.path).name: p.why for p in report.problems}
    assert why["gaps"].startswith("2 of 12 frames are not there (number 4, 7)") and why["gone"] == "a folder of frames"
    assert why["late"].startswith("2 of 5 frames are not there (number 1, 2)")
    assert ("unreadable", "cut") in of_media(look(tmp_path, decode=True))
    assert [r.media[0].kind for r in report.dataset.records] == ["frames"] * 9 + ["video"]


@pytest.mark.parametrize("broken", ["text", "cut"])
def test_broken_images(broken: str, tmp_path: Path) -> None:
    root = folders.vstar(tmp_path)
    path = root / "direct_attributes" / "sa_2.jpg"
    if broken == "text":
        path.write_text("404")
    else:
        Image.effect_noise((200, 200), 90).save(path)
        _half(path)
    (root / "relative_position" / "sa_3.png").unlink()
    found = [("unreadable", "sa_2.jpg")] if broken == "text" else []
    assert of_media(look(root, name="vstar")) == [*found, ("missing", "sa_3.png")]
    assert of_media(look(root, True, "vstar")) == [("unreadable", "sa_2.jpg"), ("missing", "sa_3.png")]
