"""A conversation goes on from a cache: its answer is that of `generate` by hand, and nothing is read again."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from prunevid_qwen import (
    ConfigError,
    PruneVidConfig,
    PruneVidError,
    PruneVidQwen25VL,
    UnsupportedError,
    get_paper_config,
    pruned,
)
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.answers.stage_log import stage_lines
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene, write_video
from prunevid_qwen.moving_shapes.drawing import render
from prunevid_qwen.stage2_select.uniform import Uniform
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer
from tests.media import folder
from tests.models import CACHE

PAPER = get_paper_config().replace(min_cluster_tokens=1)
KEEP = PruneVidConfig(tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1, position_scheme="hf")
FIRST, SECOND, THIRD = "what color is the circle ?", "what is left of it ?", "how many shapes are there ?"
AS_LONG = FIRST.replace("circle", "square")
OUT = {"return_dict_in_generate": True, "output_logits": True}
TOKENS = 6
OTHER = render(make_scene(3), 6)


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    """Its weights are random, so its answers are words that nobody would tokenize so."""
    made = PruneVidQwen25VL(build_model(0).eval(), PAPER, tokenizer=build_tokenizer())
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    made.preprocessor.media = MediaReader(small, small)
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("v") / "scene.mp4", render(make_scene(1), 16), fps=4)


def user(text: str, *media: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*media, {"type": "text", "text": text}] if media else text}


def ask(model: PruneVidQwen25VL, *talk: dict[str, Any], **given: Any) -> Any:
    return model.generate(messages=list(talk), **{"max_new_tokens": TOKENS, **given})


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


class Talk:
    """A first answer about a video, and what the conversation is up to the second question."""

    def __init__(self, model: PruneVidQwen25VL, video: Path, **given: Any) -> None:
        self.model, self.shows = model, {"type": "video", "video": str(video)}
        self.first = ask(model, user(FIRST, self.shows), **{**OUT, **given})
        self.cache = self.first["past_key_values"]
        self.said = said(self.first["answer"])
        self.whole = (user(FIRST, self.shows), self.said, user(SECOND))


@pytest.fixture
def talk(model: PruneVidQwen25VL, video: Path) -> Talk:
    return Talk(model, video)


def by_hand(model: PruneVidQwen25VL, first: dict[str, Any], questions: list[str], ends: bool) -> list[Any]:
    """What a client writes on the stock model: the generated ids, the end of the turn, the new question, the cache."""
    tokenizer = model.tokenizer
    given: dict[str, Any] = model.preprocessor.batch([model.preprocessor.sample([first], model.config)])
    outputs = []
    for question in [*questions, None]:
        outputs.append(model.model.generate(**given, **OUT, max_new_tokens=TOKENS, do_sample=False, **ending(ends)))
        ids = outputs[-1].sequences[0].tolist()
        text = f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = (ids[:-1] if ends else ids) + tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = torch.tensor([ids])
        given = {"input_ids": whole, "attention_mask": torch.ones_like(whole), CACHE: cache_of(outputs[-1])}
    return outputs


class Silent(LogitsProcessor):
    """The second token of an answer is one that no text shows: tokenized anew the answer has others than were made."""

    token, steps = build_tokenizer().convert_tokens_to_ids("<|vision_end|>"), 0

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return scores.index_fill(1, torch.tensor([self.token]), torch.inf) if self.steps == 2 else scores


def ending(ends: bool) -> dict[str, Any]:
    """How an answer is made: its last token is the end of the turn, as models end one, or a word."""
    forced = {"forced_eos_token_id": build_tokenizer().eos_token_id} if ends else {}
    return {"logits_processor": LogitsProcessorList([Silent()]), **forced}


@pytest.mark.parametrize("ends", [False, True], ids=["cut_off", "ended"])
@pytest.mark.parametrize(
    "config",
    [KEEP, KEEP.replace(enable_stage1=False), PAPER, PAPER.replace(enable_cache_compression=False)],
    ids=["kept", "kept_by_stage_2", "paper", "without_stage_3"],
)
def test_a_follow_up_is_the_one_by_hand(
    model: PruneVidQwen25VL, video: Path, config: PruneVidConfig, ends: bool
) -> None:
    """With everything kept that is stock's own, bit for bit; else that of `pruned`. A third turn goes on likewise."""
    ours = model.with_config(config)
    told = [user(FIRST, {"type": "video", "video": str(video)})]
    with nullcontext() if config.keep_ratio == 1 else pruned(model.model, config):
        hand = by_hand(ours, told[0], [SECOND, THIRD], ends)
    cache: dict[str, Any] = {}
    for wanted, question in zip(hand, [SECOND, THIRD, ""], strict=True):
        result = ask(ours, *told, **cache, **OUT, do_sample=False, **ending(ends))
        assert torch.equal(result["output"].sequences, wanted.sequences)
        assert all(map(torch.equal, result["output"].logits, wanted.logits))
        assert wanted.sequences[0, 1 - TOKENS] == Silent.token
        cache = {"past_key_values": result["past_key_values"]}
        told += [said(result["answer"]), user(question)]
        ask(ours, user("what is new ?"))  # another call counts its own positions


@pytest.mark.parametrize("compress", [True, False], ids=["cut_caches", "whole_caches"])
def test_a_follow_up_after_several_steps(model: PruneVidQwen25VL, video: Path, compress: bool) -> None:
    cuts = tuple(Step(at, Uniform(0.7)) for at in (0, 1, 2))
    plan = Plan((*compile_plan(PAPER, 4).steps[:1], *cuts), compress)
    told = [user(FIRST, {"type": "video", "video": str(video)})]
    with pruned(model.model, plan):
        hand = by_hand(model, told[0], [SECOND, THIRD], False)
    ours, cache, steps = model.with_config(plan), None, []
    for question, wanted in zip([SECOND, THIRD, None], hand, strict=True):
        result = ask(ours, *told, past_key_values=cache, **OUT, **ending(False))
        cache = result["past_key_values"]
        assert torch.equal(result["output"].sequences, wanted.sequences)
        assert all(map(torch.equal, result["output"].logits, wanted.logits))
        told += [said(result["answer"]), user(question or "")]
        steps.append(result["stats"]["steps"])
    assert [row["where"] for row in steps[0]] == ["door", "layer 0", "layer 1", "layer 2"]
    assert all(row["tokens_out"] < row["tokens_in"] for row in steps[0]), (
        "the case prunes nothing, so it proves nothing"
    )
    assert steps[1:] == [[], []], "nothing is pruned anew"
    assert len(cache.spans) == (1 if compress else 4)


@pytest.mark.parametrize("form", ["video", "pictures", "frames", "text", "two"])
def test_nothing_is_read_again(
    model: PruneVidQwen25VL, video: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = render(make_scene(2), 6)
    shown: dict[str, Any] = {
        "video": {"video_path": video, "start": 0.5},
        "pictures": {"images": [frames[0], frames[3]]},
        "frames": {"video_path": frames},
        "text": {},
        "two": {"video_path": [video, video], "images": frames[1]},
    }[form]
    first = model.generate(**shown, question=FIRST, max_new_tokens=3, **OUT)
    videos = shown.get("video_path", [])
    items = [
        {"type": "video", "video": each, **({"start": 0.5} if form == "video" else {})}
        for each in (videos if isinstance(videos, list) else [videos])
    ]
    pictures = shown.get("images", [])
    items += [{"type": "image", "image": each} for each in (pictures if isinstance(pictures, list) else [pictures])]
    ran: list[str] = []
    for name in ("open_video", "read_video", "read_image", "read_fitted"):
        monkeypatch.setattr(model.preprocessor.media, name, lambda *_a, **_k: ran.append("read"))
    handle = model.model.model.visual.register_forward_pre_hook(lambda *_: ran.append("tower"))
    rows: list[int] = []
    decoder = model.model.model.language_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        talk = (user(FIRST, *items), said(first["answer"]), user(SECOND))
        second = ask(model, *talk, past_key_values=first["past_key_values"], max_new_tokens=2)
    finally:
        handle.remove()
        decoder.remove()
    assert ran == []
    held = second["stats"]["input"]
    assert held["cached_tokens"] == first["output"].sequences.shape[1] - 1
    assert rows == [held["prompt_tokens"] - held["cached_tokens"], 1]


def test_the_receipt_says_that_nothing_was_pruned_now(talk: Talk) -> None:
    stats = ask(talk.model, *talk.whole, past_key_values=talk.cache, max_new_tokens=3, eos_token_id=None)["stats"]
    before = talk.first["stats"]["stage3"]
    assert before["applied"] and stats["input"]["videos"] == []
    assert not any(stats[stage]["applied"] for stage in ("stage1", "stage2", "stage3"))
    assert all(stats[stage]["note"] for stage in ("stage1", "stage2", "stage3"))
    new = stats["input"]["prompt_tokens"] - stats["input"]["cached_tokens"]
    three, grown = stats["stage3"], before["cache_lengths"][0] + TOKENS - 1 + new
    assert three["cache_lengths"] == [grown] * len(before["cache_lengths"])
    assert three["original_length"] == stats["input"]["prompt_tokens"]
    assert three["reduction_ratio"] == pytest.approx(1 - grown / three["original_length"])
    held = sum(t.numel() * t.element_size() for layer in talk.cache.layers for t in (layer.keys, layer.values))
    assert three["cache_bytes"] == pytest.approx(held * grown / (grown + 2))
    assert stats["generated_tokens"] == 3 and stats["seconds"]["prefill"] > 0
    assert stats["seconds"]["decode"] == pytest.approx(2 * stats["seconds"]["decode_per_token"])


def test_stats_are_left_out_and_a_streamer_is_told(talk: Talk) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.sizes, self.ended = list[int](), 0

        def put(self, value: torch.Tensor) -> None:
            self.sizes.append(value.numel())

        def end(self) -> None:
            self.ended += 1

    streamer = Streamer()
    refused = Streamer()
    quiet = talk.model.with_config(PAPER.replace(collect_stats=False))  # another receipt is not another cache
    with pytest.raises(ConfigError):
        ask(quiet, user(FIRST), past_key_values=talk.cache, streamer=refused)
    result = ask(quiet, *talk.whole, past_key_values=talk.cache, streamer=streamer, max_new_tokens=3, eos_token_id=None)
    assert set(result) == {"answer"}
    assert streamer.sizes[1:] == [1, 1, 1] and streamer.ended == refused.ended == 1


def test_several_follow_ups_go_on_from_copies(talk: Talk) -> None:
    twice = [ask(talk.model, *talk.whole, past_key_values=copy.deepcopy(talk.cache), **OUT) for _ in range(2)]
    assert torch.equal(twice[0]["output"].sequences, twice[1]["output"].sequences)
    ask(talk.model, *talk.whole, past_key_values=talk.cache)
    with pytest.raises(ConfigError, match="deepcopy"):
        ask(talk.model, *talk.whole, past_key_values=talk.cache)


def test_a_cache_of_the_callers_own_is_filled_and_goes_on(model: PruneVidQwen25VL, video: Path, talk: Talk) -> None:
    cache = DynamicCache(config=model.model.config.get_text_config())
    first = ask(model, user(FIRST, talk.shows), past_key_values=cache)
    assert first["answer"] == talk.first["answer"] and "past_key_values" not in first
    wanted = ask(model, *talk.whole, past_key_values=talk.cache)
    assert ask(model, *talk.whole, past_key_values=cache)["answer"] == wanted["answer"]


def test_an_answer_that_was_cut_off_goes_on(model: PruneVidQwen25VL, talk: Talk) -> None:
    """As the longer answer at once: the last message is the assistant's."""
    longer = ask(model, user(FIRST, talk.shows), **OUT, max_new_tokens=TOKENS + 4, eos_token_id=None)["output"]
    goes_on = Talk(model, Path(talk.shows["video"]), eos_token_id=None)
    rest = ask(model, *goes_on.whole[:2], past_key_values=goes_on.cache, **OUT, max_new_tokens=4, eos_token_id=None)[
        "output"
    ]
    assert torch.equal(rest.sequences, longer.sequences)


REFUSED: dict[str, Any] = {
    "another_question": lambda t: {"messages": [user(SECOND, t.shows), *t.whole[1:]]},
    "another_question_as_long": lambda t: {"messages": [user(AS_LONG, t.shows), *t.whole[1:]]},
    "another_system": lambda t: {"messages": [{"role": "system", "content": "Be brief."}, *t.whole]},
    "another_answer": lambda t: {"messages": [t.whole[0], said("nonsense"), t.whole[2]]},
    "a_longer_answer": lambda t: {"messages": [t.whole[0], said(t.first["answer"] + " indeed"), t.whole[2]]},
    "no_answer": lambda t: {"messages": [t.whole[0], t.whole[2]]},
    "the_first_turn_alone": lambda t: {"messages": [t.whole[0]]},
    "another_range": lambda t: {"messages": [user(FIRST, {**t.shows, "start": 1.0}), *t.whole[1:]]},
    "another_video": lambda t: {"messages": [user(FIRST, {**t.shows, "video": OTHER}), *t.whole[1:]]},
    "no_video": lambda t: {"messages": [user(FIRST), *t.whole[1:]]},
    "the_question_alone": lambda t: {"question": SECOND},
    "a_question_too": lambda t: {"messages": t.whole, "question": SECOND},
    "the_video_again": lambda t: {"messages": t.whole, "video_path": t.shows["video"]},
    "another_config": lambda t: {"messages": t.whole, "model": t.model.with_config(PAPER.replace(keep_ratio=0.3))},
}  # fmt: skip
UNSUPPORTED: dict[str, Any] = {
    "a_new_video": lambda t: {"messages": [*t.whole[:2], user(SECOND, t.shows)]},
    "a_new_image": lambda t: {
        "messages": [*t.whole[:2], user(SECOND, {"type": "image", "image": np.zeros((56, 56, 3), np.uint8)})]
    },
    "beams": lambda t: {"messages": t.whole, "num_beams": 2},
    "several_answers": lambda t: {"messages": t.whole, "num_return_sequences": 2, "do_sample": True},
    "prompt_lookup": lambda t: {"messages": t.whole, "prompt_lookup_num_tokens": 3},
    "assistant": lambda t: {"messages": t.whole, "assistant_model": t.model.model},
}


@pytest.mark.parametrize("case", [*REFUSED, *UNSUPPORTED])
def test_what_the_cache_does_not_hold_is_refused(talk: Talk, case: str) -> None:
    """Before anything runs, so that the cache stays as it was."""
    decoder = talk.model.model.model.language_model
    ran: list[Any] = []
    handle = decoder.register_forward_pre_hook(lambda *_: ran.append(1))
    given = {"model": talk.model, **(REFUSED | UNSUPPORTED)[case](talk)}
    length = talk.cache.get_seq_length()
    with pytest.raises(ConfigError) as error:
        given.pop("model").generate(**given, past_key_values=talk.cache, max_new_tokens=2)
    handle.remove()
    assert isinstance(error.value, UnsupportedError) == (case in UNSUPPORTED) and not ran
    assert "scene.mp4" in str(error.value) or case != "no_video"
    assert talk.cache.get_seq_length() == length
    ask(talk.model, *talk.whole, past_key_values=talk.cache)


def test_a_video_that_was_written_anew_is_refused(model: PruneVidQwen25VL, video: Path, tmp_path: Path) -> None:
    own = Path(shutil.copy(video, tmp_path / "own.mp4"))
    held = Talk(model, own)
    write_video(own, render(make_scene(4), 12), fps=4)
    with pytest.raises(ConfigError, match=r"own\.mp4 \(changed since\)"):
        ask(model, *held.whole, past_key_values=held.cache)


def test_other_frames_are_another_video(model: PruneVidQwen25VL) -> None:
    frames, item = render(make_scene(2), 6), {"type": "video"}
    first = ask(model, user(FIRST, {**item, "video": frames}), **OUT)
    for shows in (frames[::-1], [*frames[1:], frames[0]], frames[:4]):
        with pytest.raises(ConfigError):
            talk = (user(FIRST, {**item, "video": shows}), said(first["answer"]), user(SECOND))
            ask(model, *talk, past_key_values=first["past_key_values"])
    talk = (user(FIRST, {**item, "video": frames.copy()}), said(first["answer"]), user(SECOND))
    ask(model, *talk, past_key_values=first["past_key_values"])


def test_a_file_is_the_same_however_it_is_named(talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(talk.shows["video"])
    monkeypatch.chdir(path.parent)
    for item in (
        {"type": "video", "video": f"file://{path}"}, {"type": "video", "path": path.name},
        {"type": "video_url", "video_url": {"url": f"file://{path}"}},
    ):  # fmt: skip
        ask(talk.model, user(FIRST, item), *talk.whole[1:], past_key_values=copy.deepcopy(talk.cache))


def test_a_frame_of_a_folder_that_was_written_anew_is_refused(model: PruneVidQwen25VL, tmp_path: Path) -> None:
    shows = {"type": "video", "video": str(folder(tmp_path / "f", frames=4))}
    first = ask(model, user(FIRST, shows), **OUT)
    (tmp_path / "f" / sorted(os.listdir(tmp_path / "f"))[1]).write_bytes(b"another")
    with pytest.raises(ConfigError, match="changed since"):
        ask(model, user(FIRST, shows), said(first["answer"]), user(SECOND), past_key_values=first["past_key_values"])


def test_what_is_no_cache_is_refused_by_its_type(talk: Talk) -> None:
    legacy = tuple((layer.keys, layer.values) for layer in talk.cache.layers)
    for wrong in (talk.first, talk.first["output"], legacy, [], "cache", False):
        with pytest.raises(ConfigError, match=type(wrong).__name__):
            ask(talk.model, *talk.whole, past_key_values=wrong)


def test_answer_asks_no_follow_up(talk: Talk) -> None:
    prepared = talk.model.prepare(messages=list(talk.whole))
    with pytest.raises(ConfigError, match="generate"):
        talk.model.answer(prepared, past_key_values=talk.cache, max_new_tokens=2)
    own = DynamicCache(config=talk.model.model.config.get_text_config())  # an empty one is the caller's to fill
    talk.model.answer(prepared, past_key_values=own, max_new_tokens=2)
    assert own.get_seq_length()


def test_what_is_made_of_the_question_is_not_taken_too(talk: Talk) -> None:
    prepared = talk.model.prepare(question=FIRST)
    for name in ("attention_mask", "input_ids", "pixel_values_videos"):
        with pytest.raises(ConfigError, match=name):
            talk.model.generate(question=FIRST, **{name: torch.ones(1, 3)})
        with pytest.raises(ConfigError, match=name):
            talk.model.answer(prepared, **{name: torch.ones(1, 3)})


def test_the_log_of_a_follow_up_says_what_its_receipt_says(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    loud = talk.model.with_config(PAPER.replace(verbose=True))
    stats = ask(loud, *talk.whole, past_key_values=talk.cache)["stats"]
    assert [record.message for record in caplog.records] == stage_lines(stats)
    assert "cache" in stage_lines(stats)[0]


def test_white_around_an_answer_is_no_other_answer(talk: Talk) -> None:
    """Results hold answers without it, and the model may have written some."""
    held = talk.cache.conversation
    talk.cache.conversation = dataclasses.replace(held, answer=f" {held.answer}\n")
    ask(talk.model, *talk.whole, past_key_values=talk.cache)


def test_caches_that_are_of_no_such_call_are_refused(model: PruneVidQwen25VL, talk: Talk) -> None:
    def refused(cache: Any, error: type[PruneVidError], whole: Any = talk.whole, by: Any = model) -> None:
        with pytest.raises(error) as caught:
            ask(by, *whole, past_key_values=cache)
        assert type(caught.value) is error

    several: list[dict[str, Any]] = [
        {"question": [FIRST, SECOND]},
        {"question": FIRST, "num_beams": 2},
        {"question": FIRST, "num_return_sequences": 2, "do_sample": True},
    ]
    for given in several:
        result = model.generate(talk.shows["video"], max_new_tokens=2, **OUT, **given)
        cache = (result[0] if isinstance(result, list) else result)["past_key_values"]
        refused(cache, UnsupportedError)
    inputs = model.preprocessor.batch([model.preprocessor.sample([talk.whole[0]], PAPER)])
    with pruned(model.model, PAPER):
        refused_later = cache_of(model.model.generate(**inputs, max_new_tokens=2, **OUT))
    refused(refused_later, ConfigError)
    other = PruneVidQwen25VL(copy.deepcopy(model.model), PAPER, tokenizer=model.tokenizer)
    refused(talk.cache, ConfigError, by=other)
    cropped = copy.deepcopy(talk.cache)
    cropped.crop(-1)
    refused(cropped, ConfigError)


def test_an_answer_that_ended_is_not_gone_on_with(model: PruneVidQwen25VL, video: Path) -> None:
    ended = Talk(model, video, **ending(True))
    with pytest.raises(ConfigError, match="nothing after"):
        ask(model, *ended.whole[:2], past_key_values=ended.cache)
