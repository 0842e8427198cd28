"""Chat messages as other software hands them over, and texts of any length in what is said of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.errors import ConfigError, MediaError, PruneVidError, UnknownOption, shown
from prunevid_qwen.evaluation.bulk_questions import read_questions
from prunevid_qwen.loading import check_source
from prunevid_qwen.media import MediaReader
from prunevid_qwen.messages import Item, read_item, read_messages
from prunevid_qwen.pixels import PixelOptions
from prunevid_qwen.preprocessor import Preprocessor
from prunevid_qwen.sources import videos_of
from prunevid_qwen.training.tokenizer import build_tokenizer
from prunevid_qwen.video import read_image, read_video
from tests.media import frame

ASKED = {"type": "text", "text": "What?"}


def text_of(*messages: dict[str, Any]) -> str:
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    reader = Preprocessor(build_tokenizer(), MediaReader(small, small), "qwen2_5_vl")
    return reader.sample(messages, PruneVidConfig()).text


def test_keys_that_are_none_are_as_if_they_were_not_there() -> None:
    clip = np.stack([frame(i) for i in range(4)])
    item = {"type": "video", "video": clip, "fps": 2.0}
    none = dict.fromkeys(("text", "image", "path", "image_url", "max_pixels", "anything"))
    filled = [{**none, **item}, {**none, "video": None, **ASKED}, {**none, "type": None, "text": "Why?"}]
    told = text_of({"role": "user", "content": filled, "tool_calls": None})
    assert told.replace("Why?", "") == text_of({"role": "user", "content": [item, ASKED]})


def test_an_assistant_who_says_nothing() -> None:
    user, silent = {"role": "user", "content": "What?"}, {"role": "assistant", "content": None}
    assert text_of(user, silent, user) == text_of(user, {"role": "assistant", "content": ""}, user)
    assert "None" not in text_of(user, silent, user)
    assert list(read_messages([user, silent])) == [("user", "What?")]
    assert text_of(user, silent) == text_of(user)  # an answer not begun is one to give


READ: list[tuple[dict[str, Any], Item]] = [
    ({"type": "video", "video": "a", "nframes": 8, "video_start": 1.0, "video_end": 2.0, "total_pixels": 7840},
     Item("video", "a", {"max_frames": 8, "sampling": "uniform", "start": 1.0, "end": 2.0, "total_pixels": 7840})),
    ({"video": "a", "fps": 1, "max_frames": 4, "min_pixels": 784, "max_pixels": 1568},
     Item("video", "a", {"fps": 1, "sampling": "fps", "max_frames": 4, "min_pixels": 784, "max_pixels": 1568})),
    ({"type": "image", "path": "a", "min_pixels": 784}, Item("image", "a", {"min_pixels": 784})),
    ({"type": "image_url", "image_url": {"url": "a", "detail": "auto"}}, Item("image", "a")),
    ({"type": "image_url", "image_url": "a", "max_pixels": 784}, Item("image", "a", {"max_pixels": 784})),
    ({"type": "video_url", "video_url": {"url": "a"}, "fps": 2}, Item("video", "a", {"fps": 2, "sampling": "fps"})),
]  # fmt: skip


@pytest.mark.parametrize(("given", "item"), READ, ids=[str(n) for n in range(len(READ))])
def test_the_fields_own_keys(given: dict[str, Any], item: Item) -> None:
    assert read_item(given) == item


REFUSED: dict[str, tuple[Any, str]] = {
    "text None": ({"type": "text", "text": None}, "text"),
    "text under another key": ({"type": "text", "content": "What?"}, "content"),
    "text no text": ({"type": "text", "text": 3}, "3"),
    "text with more": ({**ASKED, "cache_control": {}}, "cache_control"),
    "no source": ({"type": "video", "video": None}, "video"),
    "two sources": ({"type": "video", "video": "a", "path": "b"}, "path"),
    "two starts": ({"type": "video", "video": "a", "start": 1, "video_start": 1}, "video_start"),
    "nframes and fps": ({"type": "video", "video": "a", "nframes": 8, "fps": 2}, "nframes"),
    "nframes and max_frames": ({"type": "video", "video": "a", "nframes": 8, "max_frames": 2}, "max_frames"),
    "min_frames": ({"type": "video", "video": "a", "min_frames": 2}, "nframes"),
    "resized": ({"type": "image", "image": "a", "resized_height": 28}, "min_pixels"),
    "fps of an image": ({"type": "image", "image": "a", "fps": 2}, "fps"),
    "detail": ({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, "detail"),
    "no url": ({"type": "image_url", "image_url": {}}, "image_url"),
    "audio": ({"type": "input_audio", "input_audio": {}}, "input_audio"),
    "no item": ("What?", "What"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_by_name(case: str) -> None:
    item, named = REFUSED[case]
    with pytest.raises(ConfigError, match=named):
        read_item(item)


def test_messages_that_are_none() -> None:
    wrong: Any
    for wrong, named in (
        ({"role": "user", "content": None}, "user"), ({"role": "user"}, "content"), ("What?", "role"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "tool_calls"),
        ({"role": "user", "content": 3}, "3"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            list(read_messages([wrong]))
    with pytest.raises(UnknownOption, match="min_pixels"):
        read_item({"type": "image", "image": "a", "min_pixls": 784})


def test_min_pixels_enlarge_a_video_and_an_image() -> None:
    reader, small, config = MediaReader(), frame(1, 28, 28), PruneVidConfig()
    enough: dict[str, Any] = {"min_pixels": 300 * 784, "max_pixels": 2000 * 784}
    for medium in (
        reader.read_image(small, config, **enough), reader.read_video([small] * 2, config, **enough),
        reader.read_image(small, config, min_pixels=300 * 784),
    ):  # fmt: skip
        assert 300 <= medium.grid[0, 1:].prod() // 4 <= 400
    frames, _, _ = reader.read_fitted([small] * 2, config, **enough)
    assert 300 <= frames.shape[1] * frames.shape[2] // 784 <= 400
    with pytest.raises(ConfigError, match="2000"):
        reader.read_image(small, config, min_pixels=2000, max_pixels=1000)


# ---- data URIs


def uri(data: bytes, head: str = "image/png;base64") -> str:
    return f"data:{head}," + base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame(5)).save(file, "PNG")
    return file.getvalue()


def test_a_picture_in_a_data_uri(png: bytes) -> None:
    plain = uri(png)
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in png)
    broken = plain[:60] + "\n" + plain[60:].rstrip("=")
    safe = plain.partition(",")[0] + "," + base64.urlsafe_b64encode(png).decode()
    for given in (plain, percent, broken, safe, plain.replace("data:", "DATA:", 1), plain.replace("image/png", "")):
        assert np.array_equal(read_image(given), frame(5))
    medium = MediaReader().read_image(plain, PruneVidConfig())
    assert len(medium.facts["source"]) < 200
    assert videos_of([plain, plain]) == [[plain, plain]] and (read_video([plain] * 2).frames[0] == frame(5)).all()
    prompt = text_of({"role": "user", "content": [{"type": "image_url", "image_url": {"url": plain}}, ASKED]})
    assert prompt.count("<|image_pad|>") == 1


def test_a_data_uri_that_holds_no_picture(png: bytes) -> None:
    noise = np.random.default_rng(0).bytes(30_000)
    for wrong in (uri(noise, "image/jpeg;base64"), "data:image/png;base64", uri(png) + "*", uri(png[:50])):
        with pytest.raises(MediaError) as refused:
            read_image(wrong)
        assert len(str(refused.value)) < 500
    with pytest.raises(MediaError) as refused:
        read_video(uri(noise, "video/mp4;base64"))
    assert len(str(refused.value)) < 500


# ---- long input

LONG = "".join(chr(0x4E00 + i) for i in range(5000))  # no two characters alike


def asked(line: dict[str, Any], folder: Path) -> None:
    (folder / "q.jsonl").write_text(json.dumps(line))
    read_questions(folder / "q.jsonl")


DOORS: dict[str, Callable[[Path], Any]] = {
    "video": lambda _: read_video(LONG),
    "image": lambda _: read_image(LONG),
    "url": lambda _: read_video(f"https://{LONG}"),
    "file url": lambda _: read_video(f"file:///{LONG}"),
    "data": lambda _: read_video(f"data:video/mp4;base64,{LONG}"),
    "image data": lambda _: read_image(f"data:image/png;base64,{LONG}"),
    "data without end": lambda _: read_image(f"data:{LONG}"),
    "message": lambda _: list(read_messages([{"role": LONG}])),
    "message key": lambda _: list(read_messages([{"role": "user", "content": "a", LONG: 1}])),
    "content": lambda _: list(read_messages([{"role": LONG, "content": {LONG}}])),
    "content none": lambda _: list(read_messages([{"role": LONG, "content": None}])),
    "item": lambda _: read_item(LONG),
    "type": lambda _: read_item({"type": LONG}),
    "item key": lambda _: read_item({"type": "video", "video": "a", LONG: 1}),
    "item keys": lambda _: read_item({"type": "video", LONG: 1}),
    "text key": lambda _: read_item({**ASKED, LONG: 1}),
    "text": lambda _: read_item({"type": "text", "text": [LONG]}),
    "image_url": lambda _: read_item({"type": "image_url", "image_url": [LONG]}),
    "image_url key": lambda _: read_item({"type": "image_url", "image_url": {"url": "a", LONG: 1}}),
    "option": lambda _: PruneVidConfig(**{LONG: 1}),
    "choice": lambda _: PruneVidConfig(token_order=LONG),
    "share": lambda _: PruneVidConfig(tau=LONG),  # type: ignore[arg-type]
    "count": lambda _: PruneVidConfig(max_frames=LONG),  # type: ignore[arg-type]
    "layer": lambda _: PruneVidConfig(pruning_layer=LONG),  # type: ignore[arg-type]
    "preset": lambda _: get_config(LONG),
    "config file": lambda _: get_config(f"{LONG}.json"),
    "model": lambda _: check_source(f"./{LONG}"),
    "batch url": lambda folder: asked({"video": f"https://{LONG}", "question": "?"}, folder),
    "batch data": lambda folder: asked({"image": f"data:image/png;base64,{LONG}", "question": "?"}, folder),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_message_holds_more_than_200_characters_of_the_input(door: str, tmp_path: Path) -> None:
    with pytest.raises(PruneVidError) as refused:
        DOORS[door](tmp_path)
    assert sum(letter >= LONG[0] for letter in str(refused.value)) <= 200


def test_the_middle_of_a_long_text_is_left_out() -> None:
    assert shown("a" * 200) == "a" * 200 and shown(["a"]) == "['a']"
    assert len(shown(LONG)) <= 200 and shown(LONG).startswith(LONG[:50]) and shown(LONG).endswith(LONG[-50:])
