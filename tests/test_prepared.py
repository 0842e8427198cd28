"""What is read and encoded once answers as `generate` does, under any config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config, get_paper_config
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.inputs.prepared import limited
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene
from prunevid_qwen.moving_shapes.drawing import render
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer

CONFIG = get_paper_config()
ASKED = "what color is the circle ?"
SMALL = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    made = PruneVidQwen25VL(build_model(0).eval(), CONFIG, tokenizer=build_tokenizer())
    made.preprocessor.media = MediaReader(SMALL, SMALL)
    return made


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Two videos of different lengths and two pictures of different sizes, without a file."""
    pictures = [Image.fromarray(render(make_scene(3), 2)[0]), Image.new("RGB", (56, 84), "navy")]
    return {"video_path": [render(make_scene(1), 8), render(make_scene(2), 6)], "images": pictures}


@pytest.fixture
def counted(model: PruneVidQwen25VL, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count how often a video is opened, an image read, and the vision tower's first layer runs."""
    counted = {"open_video": 0, "read_image": 0, "tower": 0}
    media = model.preprocessor.media

    def counting(name: str) -> Any:
        real = getattr(media, name)

        def call(*given: Any, **named: Any) -> Any:
            counted[name] += 1
            return real(*given, **named)

        return call

    monkeypatch.setattr(model.preprocessor, "media", _Media(media, counting("open_video"), counting("read_image")))

    def note(*_: Any) -> None:
        counted["tower"] += 1

    handle = adapter_for(model.model).parts.vision.patch_embed.register_forward_pre_hook(note)
    yield counted
    handle.remove()


class _Media:
    def __init__(self, media: MediaReader, open_video: Any, read_image: Any) -> None:
        self._media, self.open_video, self.read_image = media, open_video, read_image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._media, name)


def logits(model: PruneVidQwen25VL, run: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    result = run(max_new_tokens=3, return_dict_in_generate=True, output_scores=True, eos_token_id=None)
    return torch.stack(result["output"].scores), result["stats"]


@pytest.mark.parametrize("config", [CONFIG, get_baseline_config()], ids=["paper", "baseline"])
def test_a_prepared_answer_is_generates(model: PruneVidQwen25VL, shown: dict[str, Any], config: Any) -> None:
    """Bit for bit, and the receipts say the same, though the media were encoded under another config."""
    prepared = model.prepare(question=ASKED, **shown)
    other = model.with_config(config)
    ours, stats = logits(model, lambda **how: other.answer(prepared, **how))
    theirs, expected = logits(model, lambda **how: other.generate(question=ASKED, return_stats=True, **shown, **how))
    assert torch.equal(ours, theirs)
    assert stats.keys() == expected.keys()
    for row in (*stats["steps"], *expected["steps"]):
        assert row.pop("seconds") > 0
    assert [key for key in stats if key != "seconds" and stats[key] != expected[key]] == []


def test_media_are_read_and_encoded_once(
    model: PruneVidQwen25VL, shown: dict[str, Any], counted: dict[str, int]
) -> None:
    prepared = model.prepare(question=ASKED, **shown)
    once = dict(counted)
    assert once == {"open_video": 2, "read_image": 2, "tower": 3}  # a video each, both images together
    for config in (CONFIG, get_baseline_config(), CONFIG):
        model.with_config(config).answer(prepared, max_new_tokens=1)
    assert counted == once


def test_seconds_of_reading_and_vision_are_shared(model: PruneVidQwen25VL, shown: dict[str, Any]) -> None:
    prepared = model.prepare(question=ASKED, **shown)
    seconds = [
        model.with_config(config).answer(prepared, max_new_tokens=2, eos_token_id=None)["stats"]["seconds"]
        for config in (CONFIG, get_baseline_config())
    ]
    for each in seconds:
        assert each["read"] == prepared.seconds["read"] > 0
        assert each["vision"] >= prepared.seconds["vision"] > 0
        assert each["total"] >= prepared.seconds["total"] >= each["read"]
        parts = ("read", "vision", "merge", "select", "compact", "prefill")
        assert each["first_token"] == pytest.approx(sum(each[part] for part in parts))


def test_a_list_of_questions(model: PruneVidQwen25VL, shown: dict[str, Any]) -> None:
    questions = [ASKED, "how many objects are there ?"]
    video = shown["video_path"][0]
    prepared = model.prepare(video, questions)
    answers = model.answer(prepared, max_new_tokens=2)
    assert [each["answer"] for each in answers] == [
        each["answer"] for each in model.generate(video, questions, max_new_tokens=2)
    ]


def test_a_selector_that_looks_into_the_encoder(shown: dict[str, Any]) -> None:
    """Taps are kept with the features: glimpse answers what was prepared, and so does whoever prunes nothing."""
    config = CONFIG.replace(enable_stage1=False, selector="glimpse", keep_threshold=0.5)
    bundled = PruneVidQwen25VL("bundled", config, device="cpu")
    prepared = bundled.prepare(shown["video_path"][0], ASKED)
    ours = bundled.answer(prepared, max_new_tokens=1)["stats"]["tokens"]
    theirs = bundled.generate(shown["video_path"][0], ASKED, max_new_tokens=1, return_stats=True)["stats"]["tokens"]
    assert ours == theirs and ours["after_stage2"] < ours["visual"]
    whole = bundled.with_config(get_baseline_config()).answer(prepared, max_new_tokens=1)["stats"]["tokens"]
    assert whole["after_stage2"] == whole["visual"] == ours["visual"]


def test_an_answer_has_the_limit_of_generate() -> None:
    assert limited({}) == limited({"max_new_tokens": None}) == {"max_new_tokens": 512}
    for given in ({"max_new_tokens": 3}, {"max_length": 90}, {"generation_config": object()}):
        assert limited(given) == given
