"""Videos in chunks, from pixels to the answer: what came whole before comes the same, and never whole."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen import ConfigError, MediaError, PruneVidConfig, PruneVidQwen25VL, get_config, pruned
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.inputs.qwen.media import Chunk, MediaReader, Medium, VideoFeed
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene, write_frames, write_video
from prunevid_qwen.moving_shapes.drawing import render
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer
from tests.media import Library, losing
from tests.pruned_generation import skip_if_the_library_mixes_beams_up
from tests.tolerances import LOGITS, close, tokens_apart

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
def model() -> PruneVidQwen25VL:
    made = PruneVidQwen25VL(build_model(0).eval(), CONFIG, tokenizer=build_tokenizer())
    made.preprocessor.media = MediaReader(SMALL, SMALL)
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("v") / "scene.mp4", render(make_scene(1), 32), fps=4)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("v") / "frames", render(make_scene(2), 11))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("formats"))


# ---- pixels


def chunks_of(feed: Any) -> list[Chunk]:
    got: list[Chunk] = []
    for chunk in feed:
        if chunk is None:
            got.clear()
        else:
            got.append(chunk)
    return got


@pytest.mark.parametrize("tokens", [1, 16, 40, 10**6, None])
def test_a_feed_has_the_pixels_of_the_whole(video: Path, other: Path, tokens: int | None) -> None:
    reader = MediaReader(SMALL, SMALL)
    for source, given in ((video, {}), (other, {"total_pixels": 6 * 5000}), (video, {"max_frames": 5})):
        whole = reader.read_video(source, CONFIG, **given)
        feed = reader.open_video(source, CONFIG.replace(vision_chunk_tokens=tokens), dtype=torch.bfloat16, **given)
        chunks = chunks_of(feed)
        assert torch.equal(torch.cat([chunk.pixels for chunk in chunks]), whole.pixels.bfloat16())
        assert {chunk.whole for chunk in chunks} == {int(whole.grid[0, 0])}
        assert feed.facts(whole.grid) == (whole.seconds_per_grid, whole.facts)
        if tokens is not None:
            assert all(len(c.pixels) <= 4 * tokens or int(c.grid[0, 0]) == 1 for c in chunks)
        if int(whole.grid[0, 0]) == 8:  # positions of 16 tokens
            assert len(chunks) == {1: 8, 16: 8, 40: 4}.get(tokens or 0, 1)


def test_limits_that_contradict_each_other_are_refused_on_opening(video: Path) -> None:
    reader = MediaReader(SMALL, SMALL)
    with pytest.raises(ConfigError, match="total_pixels"):
        reader.open_video(video, CONFIG, dtype=torch.float32, total_pixels=800)


# ---- answers


def logits_of(model: PruneVidQwen25VL, config: PruneVidConfig, *args: Any, **kwargs: Any) -> Any:
    same = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    return model.with_config(config).generate(*args, **{**same, **kwargs})


@pytest.mark.usefixtures("scores_apart")
@pytest.mark.parametrize("tokens", [None, 16, 40])
def test_a_stream_is_answered_as_the_whole(model: PruneVidQwen25VL, video: Path, tokens: int | None) -> None:
    """Bit for bit what the stock path, with all pixels at once, computes."""
    content = [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]
    inputs = model.preprocessor.batch([model.preprocessor.sample([{"role": "user", "content": content}], CONFIG)])
    with pruned(model.model, CONFIG):
        whole = model.model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True, output_logits=True)
    ours = logits_of(model, CONFIG.replace(vision_chunk_tokens=tokens), video, ASKED)["output"]
    tokens_apart(whole.logits)
    assert torch.equal(ours.sequences, whole.sequences)
    for one, other_one in zip(ours.logits, whole.logits, strict=True):
        if tokens is None:
            assert torch.equal(one, other_one)
        close(one, other_one, LOGITS)


@pytest.fixture
def towers_calls(model: PruneVidQwen25VL) -> Iterator[list[int]]:
    """How many patches each call gives to the tower's first layer."""
    calls: list[int] = []
    embed = model.model.model.visual.patch_embed
    handle = embed.register_forward_pre_hook(lambda _module, args: calls.append(args[0].shape[0]))
    yield calls
    handle.remove()


def test_pixels_never_exist_whole(
    model: PruneVidQwen25VL, video: Path, towers_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower gets chunks, and of the chunks two at most are alive: one in use, one ready or being made."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    real = VideoFeed._chunk

    def noted(self: VideoFeed, *args: Any) -> Chunk:
        chunk = real(self, *args)
        made.append(weakref.ref(chunk.pixels))
        return chunk

    monkeypatch.setattr(VideoFeed, "_chunk", noted)

    def progress(_done: int, _frames: int) -> None:
        alive.append(sum(ref() is not None for ref in made))

    logits_of(model, CHUNKED.replace(max_frames=32), video, ASKED, progress=progress)
    assert towers_calls == [2 * 64] * 8
    assert len(alive) == len(made) == 8
    assert max(alive) <= 2


@pytest.mark.usefixtures("scores_apart")
def test_questions_that_share_a_video_encode_it_once(
    model: PruneVidQwen25VL, video: Path, other: Path, towers_calls: list[int]
) -> None:
    questions = [ASKED, "what shape appears first in the video ?", ASKED]
    shared = model.generate(video, questions, max_new_tokens=2)
    assert towers_calls == [8 * 64]
    towers_calls.clear()
    alone = [model.generate(video, question, max_new_tokens=2) for question in questions]
    assert [each["answer"] for each in alone] == [each["answer"] for each in shared]
    towers_calls.clear()
    mixed = model.generate([[video, other], other, video], questions, max_new_tokens=2)
    assert sorted(towers_calls) == [6 * 64, 8 * 64]
    assert mixed[2]["answer"] == shared[2]["answer"]


@pytest.mark.usefixtures("scores_apart")
@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_batches_of_videos_and_images_in_chunks(
    model: PruneVidQwen25VL, video: Path, other: Path, arguments: dict[str, int]
) -> None:
    if arguments:
        skip_if_the_library_mixes_beams_up()
    picture = render(make_scene(3), 2)[0]
    call = ([[video, other], other], [ASKED, "how many objects are there ?"])
    ours = logits_of(model, CHUNKED, *call, images=[picture], **arguments)
    whole = logits_of(model, CHUNKED.replace(vision_chunk_tokens=None), *call, images=[picture], **arguments)
    for one, other_one in zip(ours, whole, strict=True):
        assert one["answer"] == other_one["answer"]
        for part in ("input", "tokens", "stage1", "stage2", "stage3"):
            assert one["stats"][part] == other_one["stats"][part]
        assert one["stats"]["input"]["videos"][-1]["frames"] == 11
    for a, b in zip(ours[0]["output"].logits, whole[0]["output"].logits, strict=True):
        close(a, b, LOGITS)


def test_a_medium_that_was_read_is_encoded_and_one_from_elsewhere_refused(model: PruneVidQwen25VL, video: Path) -> None:
    read = model.preprocessor.media.read_video(video, CONFIG)
    text = {"type": "text", "text": ASKED}
    ask = [{"role": "user", "content": [{"type": "video", "video": read}, text]}]
    plain = model.generate(video, ASKED, max_new_tokens=2)
    assert model.generate(messages=ask, max_new_tokens=2)["answer"] == plain["answer"]
    held = Medium("video", torch.zeros(len(read.pixels), 2), read.grid, 1.0, {})
    ask[0]["content"] = [{"type": "video", "video": held}, text]
    with pytest.raises(ConfigError, match="encoded elsewhere"):
        model.generate(messages=ask, max_new_tokens=2)
    feed = model.preprocessor.media.open_video(video, CONFIG, dtype=torch.float32)
    ask[0]["content"] = [{"type": "video", "video": feed}, text]
    with pytest.raises(ConfigError, match="not encoded yet"):
        model.preprocessor.batch([model.preprocessor.sample(ask, CONFIG)])
    feed.close()


@pytest.mark.usefixtures("scores_apart")
def test_damage_that_comes_to_light_late_gives_the_answer_of_the_whole(
    model: PruneVidQwen25VL, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing({30}, monkeypatch)
    seen: list[tuple[int, int]] = []
    config = CHUNKED.replace(max_frames=32)
    ours = logits_of(model, config, video, ASKED, progress=lambda *at: seen.append(at))
    content = [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]
    sample = model.preprocessor.sample([{"role": "user", "content": content}], config)
    with pruned(model.model, config):
        inputs = model.preprocessor.batch([sample])
        whole = model.model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True, output_logits=True)
    tokens_apart(whole.logits)
    assert torch.equal(ours["output"].sequences, whole.sequences)
    assert ours["stats"]["input"]["videos"][0]["frames"] == 31
    assert (0, 32) in seen and seen[-1] == (32, 32)


def test_progress_counts_all_videos_once(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    seen: list[tuple[int, int]] = []
    model.with_config(CHUNKED).generate(
        [[video, other], other], [ASKED, ASKED], max_new_tokens=1, progress=lambda *at: seen.append(at)
    )
    assert [done for done, _ in seen] == [4, 8, 12, 16, 20, 24, 28]
    assert {frames for _, frames in seen} == {28}


def test_errors_and_interruptions_leave_no_thread(
    model: PruneVidQwen25VL, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = CHUNKED.replace(max_frames=32)

    def stop(_done: int, _frames: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.with_config(many).generate(video, ASKED, progress=stop)
    with pytest.raises(MediaError, match=r"missing\.mp4"):  # the first is open by then
        model.with_config(many).generate([[video, "missing.mp4"]], [ASKED])
    with pytest.raises(MediaError, match="more than"):
        model.with_config(many.replace(video_time_limit=1e-9)).generate(video, ASKED)
    with pytest.raises(ValueError, match="num_beems"):
        model.with_config(many).generate(video, ASKED, num_beems=2)
    monkeypatch.setattr("prunevid_qwen.inputs.qwen.feed.video_pixels", lambda *_a, **_k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.with_config(many).generate(video, ASKED)
    assert "forward" not in vars(model.model.model.visual)


def test_the_parts_of_the_clock_are_no_more_than_the_whole(model: PruneVidQwen25VL, video: Path) -> None:
    seconds = logits_of(model, CHUNKED.replace(max_frames=32), video, ASKED)["stats"]["seconds"]
    parts = sum(seconds[part] for part in ("read", "vision", "merge", "select", "compact", "prefill", "decode"))
    assert 0 < seconds["read"] < seconds["total"]
    assert parts <= seconds["total"]


def test_reading_that_the_encoder_hides_is_not_counted(
    model: PruneVidQwen25VL, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds are counted by a clock that only the encoder moves, so none of them is reading."""
    now = [0.0]
    monkeypatch.setattr("prunevid_qwen.inputs.encoding.time.perf_counter", lambda: now[0])
    tower = model.model.model.visual
    handle = tower.patch_embed.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 5.0))
    try:
        seconds = logits_of(model, CHUNKED, video, ASKED)["stats"]["seconds"]
    finally:
        handle.remove()
    assert seconds["vision"] == 4 * 5.0
    assert seconds["read"] == 0.0


def test_tensors_that_leave_may_be_changed_in_place(model: PruneVidQwen25VL, video: Path) -> None:
    out = logits_of(model, CONFIG, video, ASKED)["output"]
    assert not out.sequences.is_inference()
    out.sequences.zero_()
    cache_of(out).layers[0].keys.zero_()
    modes: list[bool] = []
    handle = model.model.lm_head.register_forward_pre_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    settings = model.model.generation_config
    try:
        model.generate(video, ASKED, max_new_tokens=1)
        model.generate(video, ASKED, max_new_tokens=1, return_dict_in_generate=True)
        settings.return_dict_in_generate = True
        model.generate(video, ASKED, max_new_tokens=1)
    finally:
        settings.return_dict_in_generate = None
        handle.remove()
    assert modes == [True, False, False]


def test_training_goes_on_after_an_answer(model: PruneVidQwen25VL, video: Path) -> None:
    model.generate(video, ASKED, max_new_tokens=1)
    content = [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]
    inputs = model.preprocessor.batch([model.preprocessor.sample([{"role": "user", "content": content}], CONFIG)])
    model.model(**inputs).logits.sum().backward()
    assert model.model.lm_head.weight.grad is not None
    model.model.zero_grad(set_to_none=True)


def test_a_chunk_size_that_makes_no_sense_is_refused() -> None:
    for wrong in (0, -1, 1.5, True, "8"):
        with pytest.raises(ConfigError, match="vision_chunk_tokens is a whole number of at least 1"):
            get_config("paper").replace(vision_chunk_tokens=wrong)
    assert get_config("paper").replace(vision_chunk_tokens=None).vision_chunk_tokens is None
