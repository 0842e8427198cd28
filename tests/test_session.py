"""An open video: its answers are those of fresh calls, and the encoder runs once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen import ConfigError, MediaError, PrunedVLM, PruneVidQwen25VL, get_config
from prunevid_qwen.answers.session import OpenVideo
from prunevid_qwen.moving_shapes import make_scene
from prunevid_qwen.moving_shapes.drawing import render
from tests.api_model import ASKED, ask, model, other, video
from tests.receipts import differences
from tests.stock_folders import save_folder

__all__ = ["model", "other", "video"]

QUESTIONS = (ASKED, "what shape appears first in the video ?", "how many objects are there ?")


def steps(answer: Any) -> list[list[int]]:
    return [step.group.tolist() for step in answer.kept.steps]


@pytest.fixture
def runs(model: PruneVidQwen25VL) -> Any:
    """Number of calls of the vision tower that made features."""
    counted = []
    hook = model.model.model.visual.blocks[0].register_forward_hook(lambda *_: counted.append(1))
    yield counted
    hook.remove()


def test_answers_are_those_of_fresh_calls_and_the_encoder_runs_once(
    model: PruneVidQwen25VL, video: Path, runs: list[int]
) -> None:
    for preset in ("paper", "recommended", "fast", "baseline", "fastv"):
        own = model.with_config(get_config(preset))
        fresh = [own.generate(video, each, max_new_tokens=3, keep_map=True) for each in QUESTIONS]
        del runs[:]
        with own.open(video) as opened:
            encoded = len(runs)
            answers = [opened.ask(each, max_new_tokens=3, keep_map=True) for each in QUESTIONS]
            again = opened.ask(QUESTIONS[0], max_new_tokens=3, keep_map=True)
            together = opened.ask(list(QUESTIONS), max_new_tokens=3, keep_map=True)
        assert len(runs) == encoded > 0, preset
        for answer, alone in zip([*answers, again, *together], [*fresh, fresh[0], *fresh], strict=True):
            assert answer["answer"] == alone["answer"] and steps(answer) == steps(alone), preset
            assert answer.kept.question == alone.kept.question
            assert answer["stats"]["tokens"] == alone["stats"]["tokens"]


def test_the_receipt_says_what_was_reused(model: PruneVidQwen25VL, video: Path) -> None:
    with model.open(video) as opened:
        stats = [opened.ask(each, max_new_tokens=1)["stats"] for each in QUESTIONS[:2]]
        assert opened.bytes == stats[0]["session"]["video_bytes"] > 0
    assert [each["session"]["question"] for each in stats] == [1, 2]
    assert [each["session"]["vision"] for each in stats] == ["encoded", "reused"]
    assert [each["session"]["prefix"] for each in stats] == ["made", "reused"]
    assert stats[1]["session"]["prefix_bytes"] > 0 and stats[1]["session"]["why"] is None
    assert not list(differences(stats[1]))
    assert opened.bytes == 0
    with model.open(video) as opened:
        assert set(opened.ask(ASKED, max_new_tokens=1, return_stats=False)) == {"answer"}


def test_a_conversation_is_that_of_messages(model: PruneVidQwen25VL, video: Path) -> None:
    show = {"type": "video", "video": str(video)}
    with model.open(video) as opened:
        first = opened.chat(ASKED, max_new_tokens=3)
        second = opened.chat("and then ?", max_new_tokens=3, keep_map=True)
        said = [
            {"role": "user", "content": [show, {"type": "text", "text": ASKED}]},
            {"role": "assistant", "content": first["answer"]},
            {"role": "user", "content": "and then ?"},
        ]
        fresh = model.generate(messages=said, max_new_tokens=3, keep_map=True)
        assert second["answer"] == fresh["answer"] and steps(second) == steps(fresh)
        assert [each["role"] for each in opened.history] == ["user", "assistant"] * 2
        opened.reset()
        assert opened.history == [] and opened.chat(ASKED, max_new_tokens=3)["answer"] == first["answer"]


def test_what_cannot_share_a_prefix_says_why(model: PruneVidQwen25VL, video: Path) -> None:
    own = model.with_config(get_config("cdpruner"))
    with own.open(video) as opened:
        answers = opened.ask(list(QUESTIONS), max_new_tokens=2, keep_map=True)
        single = opened.ask(QUESTIONS[1], max_new_tokens=2, keep_map=True)
    fresh = own.generate(video, QUESTIONS[1], max_new_tokens=2, keep_map=True)
    assert steps(answers[1]) == steps(single) == steps(fresh)
    said = single["stats"]["session"]
    assert said["prefix"] is None and "cdpruner" in said["why"] and said["prefix_bytes"] == 0


def test_a_probe_runs_beside_the_whole_prompt(video: Path) -> None:
    toy = PruneVidQwen25VL("bundled", get_config("glimpse"), device="cpu")
    with toy.open(video) as opened:
        first, second = (opened.ask(each, max_new_tokens=2, keep_map=True) for each in QUESTIONS[:2])
    assert [each["stats"]["session"]["prefix"] for each in (first, second)] == [None, None]
    assert second["stats"]["session"]["why"] and second["stats"]["session"]["vision"] == "reused"
    assert steps(second) == steps(toy.generate(video, QUESTIONS[1], max_new_tokens=2, keep_map=True))


def test_another_config_has_a_prefix_of_its_own(model: PruneVidQwen25VL, video: Path) -> None:
    with model.open(video) as opened:
        opened.ask(ASKED, max_new_tokens=1)
        other = opened.under(get_config("fastv"))
        answers = [other.ask(each, max_new_tokens=2, keep_map=True) for each in QUESTIONS]
        again = opened.ask(QUESTIONS[1], max_new_tokens=2, keep_map=True)
    assert [each["stats"]["session"]["prefix"] for each in answers] == ["made", "reused", "reused"]
    fresh = model.with_config(get_config("fastv")).generate(video, QUESTIONS[2], max_new_tokens=2, keep_map=True)
    assert steps(answers[2]) == steps(fresh) and answers[2]["answer"] == fresh["answer"]
    assert again["stats"]["session"]["prefix"] == "reused"
    assert steps(again) == steps(ask(model, video, QUESTIONS[1], keep_map=True))


def test_an_answer_that_was_stopped_is_not_remembered(model: PruneVidQwen25VL, video: Path) -> None:
    class Stopped:
        def put(self, _value: Any) -> None:
            raise KeyboardInterrupt

        def end(self) -> None:
            pass

    with model.open(video) as opened:
        with pytest.raises(KeyboardInterrupt):
            opened.chat(ASKED, max_new_tokens=3, streamer=Stopped())
        assert opened.history == []
        assert opened.chat(ASKED, max_new_tokens=3)["answer"] == ask(model, video, ASKED, max_new_tokens=3)["answer"]


def test_a_range_and_several_videos(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    with model.open(video, start=1.0, end=3.0) as opened:
        wanted = ask(model, video, ASKED, start=1.0, end=3.0)
        own = opened.ask(ASKED, max_new_tokens=2)
        assert own["stats"]["input"] == wanted["stats"]["input"] and own["answer"] == wanted["answer"]
    with model.open([video, other]) as opened:
        assert (
            opened.ask(ASKED, max_new_tokens=2)["stats"]["tokens"]
            == ask(model, [video, other], ASKED)["stats"]["tokens"]
        )


def test_what_is_refused(model: PruneVidQwen25VL, video: Path, tmp_path: Path) -> None:
    opened = model.open(video)
    for question in ("", [], ["a", " "], None, 3):
        with pytest.raises(ConfigError):
            opened.ask(question)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="single question"):
        opened.ask(["a", "b"], streamer=object())
    with pytest.raises(ConfigError):
        opened.chat(" ")
    opened.close()
    opened.close()
    with pytest.raises(ConfigError, match="open the video again"):
        opened.ask(ASKED)
    with pytest.raises(MediaError):
        model.open(tmp_path / "none.mp4")


def test_other_weights_of_the_encoder_are_refused(model: PruneVidQwen25VL, video: Path) -> None:
    weight = next(model.model.model.visual.parameters())
    with model.open(video) as opened:
        opened.ask(ASKED, max_new_tokens=1)
        with torch.no_grad():
            weight.add_(0.5)
        try:
            with pytest.raises(ConfigError, match="open the video again"):
                opened.ask(ASKED, max_new_tokens=1)
        finally:
            with torch.no_grad():
                weight.sub_(0.5)


def test_a_config_that_reads_otherwise_needs_a_session_of_its_own(model: PruneVidQwen25VL, video: Path) -> None:
    with model.open(video) as opened, pytest.raises(ConfigError, match="max_frames"):
        opened.under(model.config.replace(max_frames=4))


def test_threads_take_turns_in_a_conversation(model: PruneVidQwen25VL, video: Path) -> None:
    with model.open(video) as opened, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: opened.chat(ASKED, max_new_tokens=1), range(6)))
        assert len(opened.history) == 12
    assert sorted(each["stats"]["session"]["question"] for each in answers) == [1, 2, 3, 4, 5, 6]


def test_twenty_questions_hold_no_more_than_one(model: PruneVidQwen25VL, video: Path) -> None:
    prefixes: set[int] = set()
    with model.open(video) as opened:
        opened.ask(ASKED, max_new_tokens=1)
        held = opened.bytes
        for number in range(19):
            stats = opened.ask(f"{ASKED} {number}", max_new_tokens=1)["stats"]
            prefixes = {*prefixes, stats["session"]["prefix_bytes"]}
        assert opened.bytes == held and len(prefixes) == 1


def test_a_family_whose_videos_are_not_encoded_ahead_says_so(tmp_path: Path) -> None:
    frames = render(make_scene(3), 8)
    llava = PrunedVLM(save_folder(tmp_path, "llava_onevision"), get_config("paper"), device="cpu")
    with llava.open(frames) as opened:
        answers = [opened.ask(each, max_new_tokens=2, keep_map=True) for each in ("what color ?", "what shape ?")]
    assert isinstance(opened, OpenVideo) and opened.bytes == 0
    assert [each["stats"]["session"]["vision"] for each in answers] == ["encoded", "encoded"]
    assert answers[1]["stats"]["session"]["why"]
    fresh = llava.generate(frames, "what shape ?", max_new_tokens=2, keep_map=True)
    assert answers[1]["answer"] == fresh["answer"] and steps(answers[1]) == steps(fresh)
