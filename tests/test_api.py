"""PruneVidQwen25VL: what goes in, what comes out, what is refused. Weights are random; answers are not looked at."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prunevid_qwen import (
    ConfigError,
    MediaError,
    PruneVidQwen25VL,
    PruningNotApplied,
)
from prunevid_qwen.moving_shapes import make_scene
from prunevid_qwen.moving_shapes.drawing import render
from tests.api_model import ASKED, CONFIG, ask, model, other, picture, video
from tests.patience import PATIENCE

__all__ = ["model", "other", "picture", "video"]


def test_every_kind_of_source(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    frames = render(make_scene(2), 10)
    wanted = ask(model, other, ASKED)["stats"]["tokens"]
    for source in (sorted(other.iterdir()), [Image.fromarray(f) for f in frames], list(frames), frames):
        assert ask(model, source, ASKED)["stats"]["tokens"] == wanted
    two = ask(model, [video, other], ASKED)["stats"]["input"]["videos"]
    assert [v["frames"] for v in two] == [16, 10]


def test_images(model: PruneVidQwen25VL, picture: Path) -> None:
    stats = ask(model, images=[picture, Image.open(picture)], question="Compare them.")["stats"]
    assert len(stats["input"]["images"]) == 2
    assert not stats["stage1"]["applied"]
    assert "images pass unmerged" in stats["stage1"]["note"]
    assert stats["stage2"]["applied"] and stats["stage3"]["applied"]
    assert ask(model, images=picture, question=ASKED)["stats"]["tokens"]["visual"] * 2 == stats["tokens"]["visual"]


def test_text_alone(model: PruneVidQwen25VL) -> None:
    stats = ask(model, question="how many objects are there ?")["stats"]
    for stage in ("stage1", "stage2", "stage3"):
        assert not stats[stage]["applied"]
        assert stats[stage]["note"].startswith("nothing to do")
    assert stats["stage3"]["reduction_ratio"] == 0


def test_a_list_of_questions_is_one_batch(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    questions = [ASKED, "what shape appears first in the video ?"]
    shared = ask(model, video, questions)
    alone = [ask(model, video, question) for question in questions]
    assert [r["answer"] for r in shared] == [r["answer"] for r in alone]
    assert [r["stats"]["tokens"] for r in shared] == [r["stats"]["tokens"] for r in alone]
    each = ask(model, [video, other], questions)
    assert [r["stats"]["input"]["videos"][0]["frames"] for r in each] == [16, 10]
    assert each[1]["answer"] == ask(model, other, questions[1])["answer"]
    both = ask(model, [[video, other], other], questions)
    assert [len(r["stats"]["input"]["videos"]) for r in both] == [2, 1]


def test_messages(model: PruneVidQwen25VL, video: Path, picture: Path) -> None:
    message = {"role": "user", "content": [{"type": "video", "video": str(video)}, {"type": "text", "text": ASKED}]}
    result = ask(model, messages=[message])
    assert result["answer"] == ask(model, video, ASKED)["answer"]
    part = {"type": "video", "path": str(video), "max_frames": 4, "start": 1.0}
    fewer = {"role": "user", "content": [part, {"type": "image", "image": picture}, {"type": "text", "text": ASKED}]}
    stats = ask(model, messages=[{"role": "system", "content": "answer with one word"}, fewer])["stats"]
    assert stats["input"]["videos"][0]["frames"] == 4
    assert stats["input"]["videos"][0]["timestamps"][0] >= 1.0
    assert len(stats["input"]["images"]) == 1
    slow = {"role": "user", "content": [{"type": "video", "video": video, "fps": 1}, {"type": "text", "text": ASKED}]}
    assert ask(model, messages=[slow])["stats"]["input"]["videos"][0]["frames"] == 8  # of 8 seconds
    begun = [message, {"role": "assistant", "content": "the color is"}]
    asked = model.preprocessor.sample(begun, CONFIG)
    assert asked.text.endswith("<|im_start|>assistant\nthe color is")


def test_a_conversation_goes_on(model: PruneVidQwen25VL, video: Path) -> None:
    first = {"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]}
    again = [
        first,
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "how many objects are there ?"},
    ]
    assert (
        ask(model, messages=again)["stats"]["input"]["prompt_tokens"]
        > ask(model, messages=[first])["stats"]["input"]["prompt_tokens"]
    )


def test_generate_arguments_pass_through(model: PruneVidQwen25VL, video: Path) -> None:
    result = ask(
        model, video, ASKED, num_beams=2, num_return_sequences=2, output_scores=True, return_dict_in_generate=True
    )
    assert len(result["answers"]) == 2
    assert result["answers"][0] == result["answer"]
    assert result["output"].sequences.shape[0] == 2
    torch.manual_seed(0)
    ask(model, video, ASKED, do_sample=True, temperature=0.7)
    ask(model, video, ASKED, prompt_lookup_num_tokens=2)
    with pytest.raises(ValueError, match="num_beems"):
        ask(model, video, ASKED, num_beems=2)


def test_the_length_of_an_answer(model: PruneVidQwen25VL, video: Path) -> None:
    """512 tokens, unless transformers' own ways to say it are used."""
    from transformers import GenerationConfig

    prompt = ask(model, video, ASKED)["stats"]["input"]["prompt_tokens"]
    for given, new in (
        ({"generation_config": GenerationConfig(max_new_tokens=3, eos_token_id=None)}, 3),
        ({"max_length": prompt + 4, "eos_token_id": None}, 4),
        ({"max_new_tokens": 5, "eos_token_id": None}, 5),
    ):
        out = model.generate(video, ASKED, return_dict_in_generate=True, **given)["output"]
        assert out.sequences.shape[1] - prompt == new


def test_several_answers_to_each_of_several_questions(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    """Rows of the batch, sequences and receipts are three countings: each question gets its own of all of them."""
    questions, sources = [ASKED, "what shape appears first in the video ?"], [video, other]
    many = ask(
        model, sources, questions, num_beams=3, num_return_sequences=2, max_new_tokens=4, return_dict_in_generate=True
    )
    for i, (source, question) in enumerate(zip(sources, questions, strict=True)):
        alone = ask(model, source, question, max_new_tokens=4)["stats"]
        texts = model.tokenizer.batch_decode(many[i]["output"].sequences[2 * i : 2 * i + 2], skip_special_tokens=True)
        assert all(text.endswith(answer) for text, answer in zip(texts, many[i]["answers"], strict=True))
        assert len(many[i]["answers"]) == 2
        for part in ("input", "tokens", "stage1", "stage2", "stage3"):
            assert many[i]["stats"][part] == alone[part]


def test_streamer(model: PruneVidQwen25VL, video: Path) -> None:
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(model.tokenizer, True, timeout=PATIENCE, skip_special_tokens=True)
    answer = ask(model, video, ASKED, streamer=streamer)["answer"]
    assert "".join(streamer).strip() == answer
    with pytest.raises(ConfigError, match="one question"):
        ask(model, video, [ASKED, ASKED], streamer=streamer)
    assert "".join(streamer) == ""  # was told of the end, though no token came
    assert "".join(read_again(model, video, streamer)).strip() == answer


def read_again(model: PruneVidQwen25VL, video: Path, streamer: Any) -> list[str]:
    """The texts of another call on a streamer that was used before."""
    ask(model, video, ASKED, streamer=streamer)
    return list(streamer)


def test_a_streamer_is_told_of_the_end_once_on_every_way_out(
    model: PruneVidQwen25VL, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counts:
        ended = tokens = 0

        def put(self, value: torch.Tensor) -> None:
            self.tokens += 1

        def end(self) -> None:
            self.ended += 1

    def told(error: type[BaseException] | None, call: Any) -> Counts:
        streamer = Counts()
        with pytest.raises(error) if error else nullcontext():
            call(streamer)
        assert streamer.ended == 1
        return streamer

    prepared = model.prepare(video, ASKED)
    told(None, lambda to: ask(model, video, ASKED, streamer=to))
    told(None, lambda to: model.answer(prepared, max_new_tokens=2, streamer=to))
    assert not told(MediaError, lambda to: ask(model, tmp_path / "none.mp4", ASKED, streamer=to)).tokens
    assert not told(ConfigError, lambda to: ask(model, video, streamer=to)).tokens
    for stop in (ValueError, KeyboardInterrupt):
        monkeypatch.setattr(Counts, "put", lambda self, value, stop=stop: throw(stop))
        told(stop, lambda to: ask(model, video, ASKED, streamer=to))
        told(stop, lambda to: model.answer(prepared, max_new_tokens=2, streamer=to))
    monkeypatch.setattr(Counts, "put", lambda self, value: None)
    monkeypatch.setattr("prunevid_qwen.model.check_applied", lambda *given: throw(PruningNotApplied))
    told(PruningNotApplied, lambda to: ask(model, video, ASKED, streamer=to))  # after the stock call ended it


def throw(error: type[BaseException]) -> None:
    raise error()
