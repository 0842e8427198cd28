"""Chat messages as other software hands them over, and texts of any length in what is said of them."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen.cli.request import Request
from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.errors import ConfigError, MediaError, PruneVidError, UnknownOption, excerpt
from prunevid_qwen.evaluation.datasets.choices import letter_of
from prunevid_qwen.evaluation.lmms_plugin.requests import chat_question, read_generation
from prunevid_qwen.evaluation.tasks.batch_questions import read_questions
from prunevid_qwen.inputs.messages import Item, read_item, read_messages
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.inputs.sources import videos_of
from prunevid_qwen.loading import check_source, choose_device
from prunevid_qwen.reducer import reducer_class
from prunevid_qwen.video import read_image, read_video
from research.bundled_model.tokenizer import build_tokenizer
from tests.media import encode, frame

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
    filled[1]["image_url"] = {"url": None, "detail": None}  # of a struct each field
    told = text_of({"role": "user", "content": filled, "tool_calls": None, "annotations": []})
    assert told.replace("Why?", "") == text_of({"role": "user", "content": [item, ASKED]})


def test_an_assistant_who_says_nothing() -> None:
    user, silent = {"role": "user", "content": "What?"}, {"role": "assistant", "content": None}
    assert text_of(user, silent, user) == text_of(user, {"role": "assistant", "content": ""}, user)
    assert "None" not in text_of(user, silent, user)
    nothing: dict[str, Any] = {"role": "assistant", "content": []}
    assert list(read_messages([user, nothing])) == [("user", "What?")]
    assert text_of(user, nothing, user) == text_of(user, silent, user)
    assert list(read_messages([user, silent])) == [("user", "What?")]
    assert text_of(user, silent) == text_of(user)  # an answer not begun is one to give


def test_text_without_reading_is_that_of_reading() -> None:
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    reader = Preprocessor(build_tokenizer(), MediaReader(small, small), "qwen2_5_vl")
    shown = {"role": "user", "content": [{"type": "image", "image": frame(0)}, ASKED]}
    talk = [shown, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "Why?"}]
    missing = [{"role": "user", "content": [{"type": "image", "image": "nobody/looks.png"}, ASKED]}, *talk[1:]]
    assert reader.text(missing) == reader.sample(talk, PruneVidConfig()).text
    medium = reader.read_image(frame(0), PruneVidConfig())
    with pytest.raises(ConfigError, match="image"):  # read already, and called what it is not
        reader.sample([{"role": "user", "content": [{"type": "video", "video": medium}, ASKED]}], PruneVidConfig())


READ: list[tuple[dict[str, Any], Item]] = [
    ({"type": "video", "video": "a", "nframes": 8, "video_start": 1.0, "video_end": 2.0, "total_pixels": 7840},
     Item("video", "a", {"max_frames": 8, "sampling": "uniform", "start": 1.0, "end": 2.0, "total_pixels": 7840})),
    ({"video": "a", "fps": 1, "max_frames": 4, "min_pixels": 784, "max_pixels": 1568},
     Item("video", "a", {"fps": 1, "sampling": "fps", "max_frames": 4, "min_pixels": 784, "max_pixels": 1568})),
    ({"type": "video", "url": "a", "fps": 0.5, "min_frames": 4, "max_frames": 9.0},
     Item("video", "a", {"fps": 0.5, "sampling": "fps", "min_frames": 4, "max_frames": 9})),
    ({"type": "video", "video": "a", "resized_height": 280, "resized_width": 420},
     Item("video", "a", {"resized": (280, 420)})),
    ({"type": "video", "video": "a", "nframes": np.int64(8), "video_end": np.float32(2.5)},
     Item("video", "a", {"max_frames": 8, "sampling": "uniform", "end": 2.5})),
    ({"type": "image", "path": "a", "min_pixels": 784}, Item("image", "a", {"min_pixels": 784})),
    ({"type": "image", "image_url": "a"}, Item("image", "a")),
    ({"image_url": {"url": "a", "detail": None}, "type": None}, Item("image", "a")),
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
    "nframes and min_frames": ({"type": "video", "video": "a", "nframes": 8, "min_frames": 2}, "min_frames"),
    "one frame": ({"type": "video", "video": "a", "nframes": 1}, "nframes"),
    "half a frame": ({"type": "video", "video": "a", "max_frames": 2.5}, "max_frames.*2.5"),
    "no pixel": ({"type": "image", "image": "a", "min_pixels": 0}, "min_pixels"),
    "resized by half": ({"type": "image", "image": "a", "resized_height": 28}, "resized_width"),
    "resized and limited": ({"image": "a", "resized_height": 28, "resized_width": 28, "max_pixels": 784}, "max_pixels"),
    "a rate by another name": ({"type": "video", "video": "a", "sample_fps": 2}, "fps"),
    "base64": ({"type": "image", "base64": "AAAA"}, "base64"),
    "fps of an image": ({"type": "image", "image": "a", "fps": 2}, "fps"),
    "detail": ({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, "detail"),
    "no url": ({"type": "image_url", "image_url": {}}, "image_url"),
    "audio": ({"type": "input_audio", "input_audio": {}}, "input_audio"),
    "of another API": ({"type": "input_image", "image_url": "a"}, "did you mean 'image"),
    "type no text": ({"type": ["video"], "video": "a"}, "type"),
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
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "tool_calls"),
        ({"role": "user", "content": 3}, "3"), ({"role": None, "content": "What?"}, "role"),
        ({"role": "user", "content": ["What?"]}, "What"),
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


@pytest.mark.parametrize(("asked", "grid"), [((280, 420), (280, 420)), ((100, 50), (112, 56)), ((28, 28), (56, 56))])
def test_a_size_that_is_asked_for(asked: tuple[int, int], grid: tuple[int, int]) -> None:
    """As in Qwen's reader: multiples of 28, at least 4 tokens, and the limits on pixels bind it no more."""
    reader, config = MediaReader(), PruneVidConfig(max_pixels=128 * 784, total_pixels=256 * 784, vision_chunk_tokens=1)
    given: dict[str, Any] = {"resized_height": asked[0], "resized_width": asked[1]}
    video = read_item({"video": [frame(1)] * 4, **given})
    image = read_item({"image": frame(1), **given})
    frames, _, facts = reader.read_fitted(video.held, config, **video.options)
    feed = reader.open_video(video.held, config, dtype=torch.float32, **video.options)
    chunks = [chunk for chunk in feed if chunk is not None]
    feed.close()
    for side in (
        reader.read_video(video.held, config, **video.options).facts["resized"], facts["resized"],
        reader.read_image(image.held, config, **image.options).facts["resized"], list(frames.shape[1:3]),
        *((chunk.grid[0, 1:] * 14).tolist() for chunk in chunks),
    ):  # fmt: skip
        assert tuple(side) == grid
    assert len(chunks) == 2


def test_fewest_frames_at_a_rate(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=40, rate=10)  # 4 s
    for given, count in (
        ({"fps": 1}, 4), ({"fps": 1, "min_frames": 10}, 10), ({"fps": 4, "min_frames": 10}, 16),
        ({"fps": 1, "min_frames": 100, "max_frames": 200}, 40),
    ):  # fmt: skip
        item = read_item({"video": str(path), **given})
        assert MediaReader().read_video(item.held, PruneVidConfig(), **item.options).facts["frames"] == count
    item = read_item({"video": str(path), "min_frames": 17})
    with pytest.raises(ConfigError, match=r"17.*max_frames=16"):
        MediaReader().read_video(item.held, PruneVidConfig(), **item.options)


def test_arrays_that_pandas_makes_of_lists() -> None:
    content = np.array([{"image": None, **ASKED}], dtype=object)
    messages: Any = np.array([{"role": "user", "content": content}], dtype=object)
    assert list(read_messages(messages)) == [("user", [Item("text", "What?")])]


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


def asked(line: Any, folder: Path) -> None:
    (folder / "q.jsonl").write_text(json.dumps(line))
    read_questions(folder / "q.jsonl")


def under_lmms_eval(item: dict[str, Any]) -> None:
    chat_question("a", {}, [{"role": "user", "content": [item]}], None, "")


DOORS: dict[str, Callable[[str, Path], Any]] = {
    "video": lambda text, _: read_video(text),
    "image": lambda text, _: read_image(text),
    "url": lambda text, _: read_video(f"https://{text}"),
    "file url": lambda text, _: read_video(f"file:///{text}"),
    "data": lambda text, _: read_video(f"data:video/mp4;base64,{text}"),
    "image data": lambda text, _: read_image(f"data:image/png;base64,{text}"),
    "data without end": lambda text, _: read_image(f"data:{text}"),
    "message": lambda text, _: list(read_messages([{"role": text}])),
    "message key": lambda text, _: list(read_messages([{"role": "user", "content": "a", text: 1}])),
    "content": lambda text, _: list(read_messages([{"role": text, "content": {text}}])),
    "content none": lambda text, _: list(read_messages([{"role": text, "content": None}])),
    "item": lambda text, _: read_item(text),
    "type": lambda text, _: read_item({"type": text}),
    "item key": lambda text, _: read_item({"type": "video", "video": "a", text: 1}),
    "item keys": lambda text, _: read_item({"type": "video", text: 1}),
    "text key": lambda text, _: read_item({**ASKED, text: 1}),
    "text": lambda text, _: read_item({"type": "text", "text": [text]}),
    "image_url": lambda text, _: read_item({"type": "image_url", "image_url": [text]}),
    "image_url key": lambda text, _: read_item({"type": "image_url", "image_url": {"url": "a", text: 1}}),
    "option": lambda text, _: PruneVidConfig(**{text: 1}),
    "choice": lambda text, _: PruneVidConfig(token_order=text),
    "share": lambda text, _: PruneVidConfig(tau=text),  # type: ignore[arg-type]
    "count": lambda text, _: PruneVidConfig(max_frames=text),  # type: ignore[arg-type]
    "layer": lambda text, _: PruneVidConfig(pruning_layer=text),  # type: ignore[arg-type]
    "preset": lambda text, _: get_config(text),
    "config file": lambda text, _: get_config(f"{text}.json"),
    "model": lambda text, _: check_source(f"./{text}"),
    "batch url": lambda text, folder: asked({"video": f"https://{text}", "question": "?"}, folder),
    "selector": lambda text, _: reducer_class(text),
    "backend": lambda text, _: read_video("a", backend=text),
    "limit": lambda text, _: read_video("a", time_limit=text),  # type: ignore[arg-type]
    "start": lambda text, _: read_video("a", start=text),  # type: ignore[arg-type]
    "device": lambda text, _: choose_device(f"cuda:{text}"),
    "option of the command line": lambda text, _: Request(videos=(text,), question="?").check(),
    "batch id": lambda text, folder: asked({"id": [text], "video": "a", "question": "?"}, folder),
    "batch question": lambda text, folder: asked({"video": "a", "question": [text]}, folder),
    "batch messages": lambda text, folder: asked({"messages": [{"role": "user", "content": [text]}]}, folder),
    "batch line": lambda text, folder: asked([text], folder),
    "answer of a benchmark": lambda text, _: letter_of(text, "text", [text + "a", text + "b"], "line 1"),
    "lmms": lambda text, _: under_lmms_eval({"type": text}),
    "lmms url": lambda text, _: under_lmms_eval({"type": "video", "url": f"http://{text}"}),
    "lmms argument": lambda text, _: read_generation({"temperature": text}),
    "hub": lambda text, _: check_source(text.replace(" ", "")),
    "batch data": lambda text, folder: asked({"video": f"data:image/png;base64,{text}", "question": "?"}, folder),
}


@pytest.mark.parametrize("text", [LONG, " ".join(LONG)], ids=["a word", "words"])
@pytest.mark.parametrize("door", DOORS)
def test_no_message_holds_more_than_200_characters_of_the_input(door: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(PruneVidError) as refused:
        DOORS[door](text, tmp_path)
    assert sum(letter >= LONG[0] for letter in str(refused.value)) <= 200


@pytest.mark.parametrize("name", [LONG[:80], " ".join(LONG[:40])], ids=["a word", "words"])
def test_nor_of_the_path_of_a_file_that_is_there(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = tmp_path.joinpath(*[name] * 8)  # up to 240 bytes each, near what a file system takes
    deep.mkdir(parents=True)
    video = encode(deep / "a.mp4", milliseconds=[0, 100, 200, 5000], frames=4)
    assert read_video(video).source == str(video)  # a receipt has it whole
    (deep / "b.mp4").write_text("no video")
    (deep / "c.png").write_text("no picture")
    said = list(caplog.messages)
    assert said  # a frame rate that varies is warned of
    (deep / "d").mkdir()
    for number, size in enumerate((28, 56)):
        Image.fromarray(frame(1, size, size)).save(deep / "d" / f"{number}.png")
    (deep / "e.mp4").write_bytes(video.read_bytes()[:-300])
    for wrong in (deep / "b.mp4", [deep / "c.png"], deep, deep / "d", deep / "e.mp4", deep / "gone.mp4"):
        with pytest.raises(MediaError) as refused:
            read_video(wrong)
        said.append(str(refused.value))
    for asked_for in ({"start": 99.0}, {"time_limit": 1e-9}, {"backend": "decord"}):
        if asked_for != {"backend": "decord"} or importlib.util.find_spec("decord"):
            with pytest.raises(MediaError) as refused:
                read_video(deep / ("b.mp4" if "backend" in asked_for else "a.mp4"), **asked_for)
            said.append(str(refused.value))
    for each in said:
        assert sum(letter >= LONG[0] for letter in each) <= 200, each


def test_the_middle_of_a_long_text_is_left_out() -> None:
    assert excerpt("a" * 200) == "a" * 200 and excerpt(["a"]) == "['a']"
    assert len(excerpt(LONG)) <= 200 and excerpt(LONG).startswith(LONG[:50]) and excerpt(LONG).endswith(LONG[-50:])
