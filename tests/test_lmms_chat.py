"""lmms-eval's chat messages as media and a question, without lmms-eval."""

from __future__ import annotations

import dataclasses
import enum
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.task import tasks_of
from prunevid_qwen.evaluation.engine.task_media import HeldImage, read_media
from prunevid_qwen.evaluation.lmms_plugin.requests import TOGETHER, ByRequest, ChatQuestion, chat_question
from prunevid_qwen.evaluation.protocol.protocol import protocol_named
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from tests.media import frame

PLAIN: dict[str, Any] = {"max_new_tokens": 4}


def turn(*content: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def text(said: str = "What?") -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_messages_become_media_and_a_question(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    picture = Image.fromarray(frame(3))
    asked = chat_question(
        "task/7",
        PLAIN,
        [
            turn(text("Be brief."), role="system"),
            turn(
                {"type": "video", "url": "a.mp4", "start_time": 1.5, "end_time": 2.0},
                {"type": "video", "url": str(tmp_path / "frames")},
                {"type": "video", "url": {"path": "file:///b.mp4", "video_start": 3, "video_end": 4}},
                text("{0} <image>"),
                {"type": "image", "url": "c.png"},
                {"type": "image", "url": picture},
            ),
        ],
        None,
        "",
    )
    held = asked.media[4]
    assert asked.media[:4] == (
        Media("video", "a.mp4", 1.5, 2.0),
        Media("frames", str(tmp_path / "frames")),
        Media("video", "/b.mp4", 3, 4),
        Media("image", "c.png"),
    )
    assert isinstance(held, HeldImage) and held.path == "task/7, image 4"
    assert held.image is not None and np.array_equal(held.image, frame(3))
    items = [{"type": "video", "video": number} for number in range(5)]
    assert asked.messages(items, ()) == [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "user", "content": [items[0], items[1], items[2], text("{0} <image>"), items[3], items[4]]},
    ]


def test_system_and_prefill_are_ours() -> None:
    given = [turn(text("Theirs."), role="system"), turn(text())]
    assert chat_question("a", PLAIN, given, "Ours.", "(").messages((), ()) == [
        turn(text("Ours."), role="system"), turn(text()), turn(text("("), role="assistant"),
    ]  # fmt: skip
    assert chat_question("a", PLAIN, given, None, "").messages((), ()) == given
    with pytest.raises(ConfigError, match="begins the assistant's answer itself"):
        chat_question("a", PLAIN, [turn(text()), turn(text("It"), role="assistant")], None, "(")


@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        ({"type": "audio", "url": "a.wav"}, ConfigError, "'audio'"),
        ({"type": "video", "url": "https://example.org/a.mp4"}, MediaError, "nothing is downloaded"),
        ({"type": "image", "url": "data:image/png;base64,AAAA"}, MediaError, "no image"),
        ({"type": "text", "text": None}, ConfigError, "text"),
        ({"type": "video", "url": [frame(1)]}, MediaError, "is a path, got list"),
        ({"type": "image", "url": 3}, MediaError, "got int"),
        ({"type": "video", "url": "a.mp4", "fps": 2}, ConfigError, "fps"),
        ({"type": "image", "url": "a.png", "max_pixels": 784}, ConfigError, "max_pixels"),
        ({"type": "video", "url": {"path": "a.mp4", "nframes": 2}}, ConfigError, "nframes"),
        ({"type": "text", "text": "What?", "cache_control": {}}, ConfigError, "cache_control"),
        ("What?", ConfigError, "What?"),
    ],
)
def test_content_that_cannot_be_asked(item: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        chat_question("a", PLAIN, [turn(item, text())], None, "")
    assert said in str(raised.value)


def test_none_says_nothing_in_a_description_of_a_video_either() -> None:
    none = dict.fromkeys(("video_start", "video_end", "video", "fps"))
    item = {"type": "video", "url": {"path": "a.mp4", **none}, "start_time": 1.0, "end_time": 2.0, "text": None}
    assert chat_question("a", PLAIN, [turn(item, text())], None, "").media == (Media("video", "a.mp4", 1.0, 2.0),)


@pytest.mark.parametrize("message", ["What?", {"content": "What?"}, {"role": None, "content": "What?"}])
def test_what_is_no_message(message: Any) -> None:
    with pytest.raises(ConfigError, match="role"):
        chat_question("a", PLAIN, [message], None, "")


def test_what_was_done_to_the_colours_of_a_held_image_is_said() -> None:
    item = {"type": "image", "url": Image.new("RGBA", (56, 56))}
    [held] = chat_question("a", PLAIN, [turn(item, text())], None, "").media
    facts = ByRequest(protocol_named("lmms", "mvbench"), PixelOptions(), PixelOptions()).read(held).facts
    assert len(facts["warnings"]) == 1 and "white" in facts["warnings"][0]


@pytest.mark.parametrize("content", [None, 3])
def test_a_message_of_the_user_without_content(content: Any) -> None:
    silent = {"role": "assistant", "content": None}  # it called a tool
    asked = chat_question("a", PLAIN, [turn(text()), silent, turn(text())], None, "")
    assert [len(message["content"]) for message in asked.messages((), ())] == [1, 0, 1]
    with pytest.raises(ConfigError, match="content"):
        chat_question("a", PLAIN, [{"role": "user", "content": content}], None, "")


def test_any_fault_of_a_file_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = ByRequest(protocol_named("lmms", "mvbench"), PixelOptions(), PixelOptions())
    held = HeldImage("image", "task/1, image 0", image=frame(5))
    found = reading.read(held)
    assert found.frames.shape[0] == 1 and found.frames.shape[1] * found.frames.shape[2] >= 256 * 784
    missing = read_media(reading, (Media("video", str(tmp_path / "gone.mp4")),))
    assert missing.error is not None and "gone.mp4" in missing.error
    monkeypatch.setattr("prunevid_qwen.evaluation.engine.task_media.fitted_frame", lambda *_: 1 / 0)
    broken = read_media(reading, (dataclasses.replace(held, path="task/2, image 0"),))
    assert broken.error == "task/2, image 0 cannot be read: ZeroDivisionError: division by zero"


def test_the_pyav_that_lmms_eval_wants_says_flags_that_are_no_numbers() -> None:
    from prunevid_qwen.video.streams import _is_picture as _is_picture

    flags = enum.Flag("Disposition", {"default": 1, "attached_pic": 0x400})  # PyAV 13 to 15
    for disposition in (flags["attached_pic"], 0x400, 0x401):
        assert _is_picture(types.SimpleNamespace(disposition=disposition))
    for stream in (types.SimpleNamespace(disposition=flags["default"]), types.SimpleNamespace()):
        assert not _is_picture(stream)


def test_neighbours_about_one_video_are_one_task() -> None:
    def question(number: int, path: str, generation: dict[str, Any] = PLAIN, error: str | None = None) -> ChatQuestion:
        return ChatQuestion(str(number), generation, media=(Media("video", path),), error=error)

    other = {"max_new_tokens": 5}
    asked = [question(0, "a"), question(1, "a"), question(2, "b"), question(3, "a"), question(4, "a", other)]
    asked += [question(5, "a", other, "gone"), *(question(6 + number, "c") for number in range(TOGETHER + 1))]
    found = [[each.id for each, _ in task.questions] for task in tasks_of(iter(asked), ["paper"], TOGETHER)]
    long = [str(6 + number) for number in range(TOGETHER)]
    assert found == [["0", "1"], ["2"], ["3", "4", "5"], long, [str(6 + TOGETHER)]]
    assert [each.generation["max_new_tokens"] for each in asked[3:5]] == [4, 5]
