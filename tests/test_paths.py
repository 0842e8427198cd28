"""`file://` and a path, raw or percent-encoded: one meaning in the class, in `prunevid batch` and under lmms-eval."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image, features

import prunevid_qwen
from prunevid_qwen.cli.request import Request
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.task_media import ByConfig
from prunevid_qwen.evaluation.lmms_plugin.requests import chat_question
from prunevid_qwen.evaluation.tasks.batch_questions import missing_media, read_questions
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.sources import videos_of
from prunevid_qwen.video import open_video, read_video
from prunevid_qwen.video.indexed import read_frames
from prunevid_qwen.video.paths import local_path
from tests.media import folder, frame, numbers_of

CLIP = next(Path(prunevid_qwen.__file__).parent.joinpath("bundled", "clips").glob("*.mp4"))
NAMES = ("#1 cat.mp4", "what?.mp4", "50%20off.mp4", "100%.mp4", "a b ü.mp4", "x#t=1.mp4")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of videos, and beside them what cutting a name short or decoding it would find."""
    made = tmp_path / "d"
    made.mkdir()
    for name in NAMES:
        (made / name).write_bytes(CLIP.read_bytes())
    Image.fromarray(frame(9)).save(made / "thumbnail.png")
    (tmp_path / "50 off.mp4").write_bytes(b"")
    return made


def in_batch(path: str, at: Path) -> str:
    (at / "q.jsonl").write_text(json.dumps({"video": path, "question": "?"}))
    questions = read_questions(at / "q.jsonl")
    assert missing_media(questions) == []
    [media] = questions[0].media
    assert media.kind == "video"
    return media.path


def under_lmms_eval(path: str, at: Path) -> str:
    turn = {"role": "user", "content": [{"type": "video", "url": path}, {"type": "text", "text": "?"}]}
    [media] = chat_question("a", {}, [turn], None, "").media
    assert media.kind == "video"
    return media.path


def on_the_command_line(path: str, at: Path) -> str:
    Request(videos=(path,), question="?").check()
    return local_path(path)


def of_a_benchmark(path: str, at: Path) -> str:
    reading = ByConfig(PruneVidConfig(), MediaReader().video, MediaReader().image)
    return str(reading.read(Media("video", path)).facts["source"])


WAYS: dict[str, Callable[[str, Path], str]] = {
    "class": lambda path, at: read_video(path).source, "ask": on_the_command_line, "batch": in_batch,
    "lmms": under_lmms_eval, "benchmark": of_a_benchmark,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_url_is_the_raw_path_if_that_exists_else_the_decoded_one(way: str, name: str, place: Path) -> None:
    path = str(place / name)
    for given in (
        path, f"file://{path}", f"file://{quote(path)}", f"file://localhost{quote(path)}", f"FILE://{path}",
        f"file:{path}",
    ):  # fmt: skip
        assert WAYS[way](given, place) == path


def test_the_raw_path_wins_and_nothing_is_cut_off(tmp_path: Path) -> None:
    for name in ("a%20b.mp4", "a b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert local_path(f"file://{tmp_path}/a%20b.mp4") == f"{tmp_path}/a%20b.mp4"
    (tmp_path / "a%20b.mp4").unlink()
    assert local_path(f"file://{tmp_path}/a%20b.mp4") == f"{tmp_path}/a b.mp4"
    assert local_path(f"file://{tmp_path}/c.mp4#t=3") == f"{tmp_path}/c.mp4#t=3"


def test_a_path_object_of_a_file_url(place: Path) -> None:
    """pathlib takes one of the slashes away."""
    assert local_path(Path(f"file://{place}/what?.mp4")) == f"{place}/what?.mp4"
    assert local_path("file:x.mp4") == "file:x.mp4"  # a name


def test_relative_paths_of_a_batch_start_from_its_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent)  # where "50 off.mp4" is, and "50%20off.mp4" is not
    assert in_batch("file://50%20off.mp4", place) == str(place / "50%20off.mp4")
    monkeypatch.setenv("HOME", str(place))
    for way in WAYS.values():
        assert way("~/100%.mp4", place) == way("file://~/100%.mp4", place) == os.path.join(place, "100%.mp4")


def test_other_urls_are_refused_everywhere(tmp_path: Path) -> None:
    for way in WAYS:
        error = ConfigError if way == "batch" else MediaError
        for given in ("https://example.org/a.mp4", "data:video/mp4;base64,AAAA"):
            with pytest.raises(error):
                WAYS[way](given, tmp_path)


def test_a_folder_of_videos_is_no_slideshow_of_its_pictures(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", frames=2)
    assert read_video(path).frames.shape[0] == 2
    (path / ".thumbnails").mkdir()
    for name in (".hidden.mp4", "Thumbs.db", ".thumbnails/1.mp4"):
        (path / name).write_bytes(b"")
    assert read_video(path).frames.shape[0] == 2 and read_video(path).warnings == ()
    (path / "1.heic").write_bytes(b"")
    (path / "clips").mkdir()
    [warning] = read_video(path).warnings
    assert "2 images" in warning and "2 other entries (1.heic, ...)" in warning
    (path / "one.webm").write_bytes(b"")
    with pytest.raises(MediaError, match=r"\b1 video\b.*one\.webm.*\b2 images\b"):
        read_video(path)
    (path / "one.webm").unlink()
    for i in range(9):
        (path / f"clip{i}.MP4").write_bytes(b"")
    config = PruneVidConfig()
    reading = ByConfig(config, MediaReader().video, MediaReader().image)
    for ask in (
        lambda: read_video(path), lambda: open_video(f"file://{path}"), lambda: MediaReader().read_video(path, config),
        lambda: read_frames(str(path), lambda count, fps: (0,)), lambda: reading.read(Media("frames", str(path))),
    ):  # fmt: skip
        with pytest.raises(MediaError, match=r"\b9 videos\b.*clip0\.MP4.*\b2 images\b.*prunevid batch"):
            ask()
    frames = [str(path / f"frame{i}.png") for i in range(2)]
    assert read_video(frames).frames.shape[0] == 2  # the way out
    for picture in frames:
        os.remove(picture)
    with pytest.raises(MediaError, match="prunevid batch"):
        read_video(path)


@pytest.mark.parametrize("suffix", [".apng", ".avif", ".png", ".tiff", ".webp"])
def test_pictures_are_frames_in_a_folder_and_in_a_list(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / "d").mkdir()
    paths = [str(tmp_path / "d" / f"{i}{suffix}") for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(frame(i)).save(path, "PNG" if suffix == ".apng" else None)
    [video] = videos_of(paths)
    assert numbers_of(read_video(video, max_frames=4).frames) == [0, 1, 2, 2]
    assert numbers_of(read_video(tmp_path / "d", max_frames=4).frames) == [0, 1, 2, 2]


@pytest.mark.parametrize("name", ["a", "a.gif", "a.mp4"])
@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "PNG", "GIF"])
def test_an_animation_by_another_name(tmp_path: Path, kind: str, name: str) -> None:
    pages = [Image.fromarray(frame(i)) for i in range(4)]
    more = {"WEBP": {"lossless": True, "duration": 100}, "TIFF": {}}.get(kind, {"duration": 100})
    pages[0].save(tmp_path / name, kind, save_all=True, append_images=pages[1:], **more)
    assert numbers_of(read_video(tmp_path / name).frames) == [0, 1, 2, 3]


def test_a_picture_by_file_url(tmp_path: Path) -> None:
    Image.fromarray(frame(3)).save(tmp_path / "#1.png")
    assert (read_video([f"file://{tmp_path}/#1.png"]).frames[0] == frame(3)).all()
