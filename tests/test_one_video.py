"""`prunevid chat`'s video: encoded once, and its answers are those of `generate` on the whole conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.cli.ask import bundled_clip
from prunevid_qwen.cli.one_video import OneVideo

QUESTIONS = ("What color is the last object?", "What shape is the first object?")


def conversation(clip: str, said: list[str]) -> list[dict[str, Any]]:
    made = [{"role": "assistant" if n % 2 else "user", "content": said[n]} for n in range(len(said))]
    made[0]["content"] = [{"type": "video", "video": clip}, {"type": "text", "text": said[0]}]  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("name", ["bundled", "bundled-qwen3vl"])
def test_answers_are_those_of_the_whole_conversation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = bundled_clip()[0]
    model: Any = PrunedVLM.from_pretrained(name, config=get_config("paper"), device="cpu")
    encoded: list[int] = []
    stock = EncodedVideos.encode
    monkeypatch.setattr(
        EncodedVideos, "encode", lambda self, *given, **named: encoded.append(1) or stock(self, *given, **named)
    )
    asked: list[list[int]] = []
    stock_generate = model.model.generate

    def generate(**inputs: Any) -> Any:
        asked.append(inputs["input_ids"][0].tolist())
        return stock_generate(**inputs)

    monkeypatch.setattr(model.model, "generate", generate)
    video, told = OneVideo(model, clip), list[tuple[int, int]]()
    video._prepared = replace(video._prepared, seconds={"read": 1e3, "vision": 1e3, "total": 2e3})
    chunks = len(encoded)
    first, second = (video.chat(each, max_new_tokens=4) for each in QUESTIONS)
    assert chunks >= 1 and len(encoded) == chunks, "the video is encoded when it is opened, and never again"
    said = [QUESTIONS[0], first["answer"], QUESTIONS[1]]
    whole = [model.generate(messages=conversation(clip, said[:n]), max_new_tokens=4, return_stats=True) for n in (1, 3)]
    for ours, theirs in zip((first, second), whole, strict=True):
        assert ours["answer"] == theirs["answer"]
        for part in ("tokens", "input", "stage1", "stage2", "stage3"):
            assert ours["stats"][part] == theirs["stats"][part], part
    assert asked[:2] == asked[2:], "token by token"
    assert video.history == [*said, second["answer"]]
    seconds = [each["stats"]["seconds"] for each in (first, second)]
    for part, least in (("read", 1e3), ("vision", 1e3), ("total", 2e3)):
        assert seconds[0][part] >= least > seconds[1][part], "the video's are the first answer's"

    fewer = video.under(model.with_config(get_config("paper").replace(keep_ratio=0.1)))
    third = fewer.chat("How many objects are there?", max_new_tokens=4, keep_map=True)
    assert third["stats"]["tokens"]["after_stage2"] < second["stats"]["tokens"]["after_stage2"]
    assert len(fewer.history) == 6 and len(video.history) == 4
    assert third.kept.tokens == third["stats"]["tokens"]["visual"] and len(encoded) == chunks + 2 * chunks
    fewer.reset()
    assert fewer.chat(QUESTIONS[0], max_new_tokens=4)["stats"]["input"] == first["stats"]["input"]

    class Stops:
        def put(self, ids: Any) -> None:
            raise KeyboardInterrupt

        def end(self) -> None:
            told.append((0, 0))

    with pytest.raises(KeyboardInterrupt):
        video.chat("And then?", streamer=Stops())
    assert len(video.history) == 4 and told == [(0, 0)], "what was interrupted is forgotten"
    assert video.chat(QUESTIONS[1], max_new_tokens=1)["stats"]["input"]["prompt_tokens"] > 0
