"""When pictures are shown: clocks that begin anew, pictures that stay, gaps that differ."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video import read_video
from prunevid_qwen.video.indexed import read_frames
from prunevid_qwen.video.timeline import _without_jumps
from tests.media import cut, encode, frame, numbers_of


def part(path: Path, numbers: range, begins: float, **options: str) -> Path:
    """Numbered frames at 25 a second in a container of the name's kind, the first at ``begins`` seconds."""
    with av.open(str(path), "w", format="mpegts" if path.suffix == ".ts" else "vob") as out:
        stream = out.add_stream("libx264" if path.suffix == ".ts" else "mpeg2video", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        stream.codec_context.thread_count = 1
        packets = []
        for place, number in enumerate(numbers):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture.pts, picture.time_base = place, Fraction(1, 25)
            packets += stream.encode(picture)
        for packet in packets + stream.encode(None):
            late = round(begins / packet.time_base)
            packet.pts, packet.dts = packet.pts + late, packet.dts + late
            out.mux(packet)
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("second", [0.013, 0.1, 0.3])
@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("suffix", [".ts", ".vob"])
def test_parts_whose_clock_begins_anew_follow_each_other(tmp_path, suffix, b_frames, second):
    parts = [
        part(tmp_path / f"{name}{suffix}", numbers, begins, bf=b_frames)
        for name, numbers, begins in (("a", range(12), 0.0), ("b", range(12, 24), second), ("c", range(24, 34), second))
    ]
    path = joined(tmp_path / f"joined{suffix}", *parts)
    for backend in ("pyav", "opencv"):
        if backend == "opencv":
            pytest.importorskip("cv2")
        video = read_video(path, max_frames=100, backend=backend)
        assert numbers_of(video.frames) == list(range(34)) == list(video.indices)
        assert video.timestamps == pytest.approx([i / 25 for i in range(34)], abs=2e-3)
        assert video.duration == pytest.approx(34 / 25, abs=2e-3)
        assert len(video.warnings) == 1 and "begins anew" in video.warnings[0]
    by_number = read_frames(path, lambda count, rate: [0, 13, count - 1])
    assert numbers_of(by_number.frames) == [0, 13, 33]


@pytest.mark.parametrize("suffix", [".ts", ".vob"])
def test_parts_whose_clock_jumps_ahead_follow_each_other(tmp_path, suffix):
    parts = [part(tmp_path / f"a{suffix}", range(12), 3.0), part(tmp_path / f"b{suffix}", range(12, 24), 4000.0)]
    path = joined(tmp_path / f"joined{suffix}", *parts)
    for backend in ("pyav", "opencv"):
        if backend == "opencv":
            pytest.importorskip("cv2")
        video = read_video(path, max_frames=100, backend=backend)
        assert numbers_of(video.frames) == list(range(24)) == list(video.indices)
        assert video.timestamps == pytest.approx([i / 25 for i in range(24)], abs=2e-3)
        assert video.duration == pytest.approx(24 / 25, abs=2e-3) and len(video.warnings) == 1
    assert numbers_of(read_video(path, start=0.5).frames) == list(range(12, 24))


@pytest.mark.parametrize("clocks", [(0.0, 1000.0, 0.1), (1000.0, 0.1, 2000.0), (5000.0, 0.1, 1000.0)])
def test_parts_whose_clock_does_both_follow_each_other_too(tmp_path, clocks):
    """The last packets of a part look damaged to FFmpeg: they are not, and all frames come."""
    parts = [part(tmp_path / f"{i}.ts", range(6 * i, 6 * i + 6), begins) for i, begins in enumerate(clocks)]
    video = read_video(joined(tmp_path / "joined.ts", *parts), max_frames=100)
    assert numbers_of(video.frames) == list(range(18)) == list(video.indices)
    assert video.timestamps == pytest.approx([i / 25 for i in range(18)], abs=2e-3)
    assert video.duration == pytest.approx(18 / 25, abs=2e-3)
    assert all("clock" in warning for warning in video.warnings) and 1 <= len(video.warnings) <= 2


def test_a_picture_that_stays_while_the_sound_goes_on_is_no_jump(tmp_path):
    seconds = (0.0, 1.0, 2.0, 30.0, 31.0)
    with_sound = [float(second) for second in range(31)]
    assert _without_jumps(seconds, with_sound) == (seconds, 0)
    assert _without_jumps(seconds, [0.0, 1.0, 2.0, 30.0]) == ((0.0, 1.0, 2.0, 3.0, 4.0), 1)
    slow = tuple(20.0 * i for i in range(4))  # a picture every 20 s is how this recording is
    assert _without_jumps(slow, []) == (slow, 0)


def test_a_playlist_with_a_discontinuity(tmp_path):
    part(tmp_path / "a.ts", range(6), 0.0)
    part(tmp_path / "b.ts", range(6, 12), 0.02)
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.24,\na.ts\n#EXT-X-DISCONTINUITY\n"
        "#EXTINF:0.24,\nb.ts\n#EXT-X-ENDLIST\n"
    )
    video = read_video(tmp_path / "list.m3u8")
    assert numbers_of(video.frames) == list(range(12))
    assert "begins anew" in video.warnings[0]


def test_backends_that_find_frames_by_their_times_refuse_such_a_clock(tmp_path):
    pytest.importorskip("decord")
    path = joined(tmp_path / "j.ts", part(tmp_path / "a.ts", range(6), 0.0), part(tmp_path / "b.ts", range(6), 0.02))
    with pytest.raises(MediaError, match="pyav"):
        read_video(path, backend="decord")


def slides(path: Path, begins: list[float], stay: list[float]) -> Path:
    """Numbered pictures that stay on the screen, as screen recorders write them."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        packets = []
        for number, at in enumerate(begins):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture.pts, picture.time_base = round(at * 1000), Fraction(1, 1000)
            packets += stream.encode(picture)
        for packet, seconds in zip(packets + stream.encode(None), stay, strict=True):
            packet.duration = round(seconds * 1000)
            out.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_picture_stays_on_the_screen_until_the_end(tmp_path, suffix):
    path = slides(tmp_path / f"slides{suffix}", [0, 5, 10], [5, 5, 50])
    video = read_video(path, max_frames=12)
    assert video.duration == pytest.approx(60.0) and video.seconds_per_grid == pytest.approx(10.0)
    assert numbers_of(video.frames) == [0, 1] + [2] * 10 and video.timestamps == pytest.approx(range(0, 60, 5))
    for start, end, expected in ((20, None, {2}), (2, 4, {0}), (6, 9, {1}), (6, 30, {1, 2}), (59, 99, {2})):
        assert set(numbers_of(read_video(path, start=start, end=end).frames)) == expected
    alone = read_video(path, start=20.0, end=24.0)
    assert alone.timestamps == (20.0,) and alone.seconds_per_grid == pytest.approx(8.0)
    with pytest.raises(MediaError, match=r"60\.00"):
        read_video(path, start=60.0)


def test_a_last_picture_that_is_brief_ends_when_the_file_says(tmp_path):
    video = read_video(slides(tmp_path / "two.mp4", [0, 20], [20, 1]))
    assert video.duration == pytest.approx(21.0) and numbers_of(video.frames)[-1] == 1


def test_what_a_cut_file_promises_is_no_picture_that_stays(tmp_path):
    whole = encode(tmp_path / "w.mp4", size=(128, 256), options={"crf": "10"}, container={"movflags": "faststart"})
    video = read_video(cut(whole, tmp_path / "cut.mp4", 0.6), max_frames=6)
    assert video.duration < 1.9 and len(set(video.indices)) == 6


def test_few_uneven_frames_are_told_at_their_times(tmp_path):
    path = slides(tmp_path / "uneven.mp4", [0, 1, 2, 3, 60], [1, 1, 1, 57, 0.04])
    for how in ({}, {"sampling": "fps", "fps": 1.0, "max_frames": 64}):
        video = read_video(path, **how)
        told = [i * video.seconds_per_grid / 2 for i in range(len(video.timestamps))]
        assert told == pytest.approx(video.timestamps, abs=1e-6)
        shown = [0, 1, 2, 3, 60]
        assert numbers_of(video.frames[: len(told)]) == [
            max(i for i in range(5) if shown[i] <= time + 1e-6) for time in told
        ]
        assert len(video.warnings) == 1
    assert video.duration == pytest.approx(60.04)


def test_what_parts_that_are_missing_promise_is_no_picture_that_stays(tmp_path):
    flags = "dash+frag_keyframe+empty_moov+global_sidx"
    whole = encode(tmp_path / "w.mp4", options={"g": "12"}, container={"movflags": flags})
    content = whole.read_bytes()
    second = content.index(b"moof", content.index(b"moof") + 4) - 4  # the box begins with its length
    (tmp_path / "first_part.mp4").write_bytes(content[:second])
    video = read_video(tmp_path / "first_part.mp4", max_frames=6)
    assert video.duration == pytest.approx(0.5, abs=0.01) and len(set(video.indices)) == 6
