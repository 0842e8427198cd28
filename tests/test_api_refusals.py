"""Loading, wrong calls and threads: what the API refuses, says, and lets happen at once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import utils as hub
from transformers.utils import logging as transformers_logging

from prunevid_qwen import (
    ConfigError,
    MediaError,
    PruneVidQwen25VL,
    SetupError,
    UnsupportedError,
    loading,
)
from prunevid_qwen.errors import UnknownOption
from prunevid_qwen.moving_shapes import make_scene
from prunevid_qwen.moving_shapes.drawing import render
from tests.api_model import ASKED, CONFIG, ask, model, video

__all__ = ["model", "video"]


def test_loading_is_quiet_under_a_tested_release_unless_info_is_asked_for(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_logging.enable_progress_bar()  # whatever an earlier test left

    def bars(level: int, tested: tuple[str, ...]) -> bool:
        monkeypatch.setattr(loading, "TESTED", tested)
        with caplog.at_level(level, "prunevid_qwen"):
            loading.load_model(loading.bundled_model(), "cpu", {})
        assert transformers_logging.is_progress_bar_enabled() and not hub.are_progress_bars_disabled()
        return "\r" in capsys.readouterr().err

    this = (transformers.__version__,)
    assert not bars(logging.WARNING, this)
    assert bars(logging.INFO, this) and bars(logging.WARNING, ())


def test_loading_from_a_folder(model: PruneVidQwen25VL, video: Path, tmp_path: Path) -> None:
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 3136, "max_pixels": 112 * 112}))
    loaded = PruneVidQwen25VL.from_pretrained(
        str(tmp_path), config=CONFIG, device="cpu", dtype="float32", attn_implementation="eager", local_files_only=True
    )
    stats = ask(loaded, video, ASKED)["stats"]
    assert (stats["dtype"], stats["attn_implementation"], stats["device"]) == ("float32", "eager", "cpu")
    assert loaded.preprocessor.media.video.max_pixels == 112 * 112
    for wrong, meant in (
        ("keep_ratio", r"PruneVidConfig\(keep_ratio="),
        ("attn_implementatoin", "did you mean 'attn_"),
    ):
        with pytest.raises(UnknownOption, match=meant):
            PruneVidQwen25VL(tmp_path, CONFIG, device="cpu", **{wrong: 1})
    mapped = PruneVidQwen25VL(tmp_path, CONFIG, device_map="cpu", dtype=torch.bfloat16)
    assert mapped.model.dtype == torch.bfloat16


WRONG = {
    "no question": ({}, ConfigError, "no question"),
    "blank question": ({"question": "  "}, ConfigError, "no question"),
    "a dict of questions": ({"question": {"What?": 1}}, ConfigError, "no question"),
    "one blank of two": ({"question": ["a", ""]}, ConfigError, "no question"),
    "messages and question": ({"messages": [{"role": "user", "content": "a"}], "question": "a"}, ConfigError, "alone"),
    "no messages": ({"messages": []}, ConfigError, "empty"),
    "seconds beside messages": (
        {"messages": [{"role": "user", "content": "a"}], "start": 1.0}, ConfigError, "own item",
    ),
    "seconds without a video": ({"question": "a", "end": 1.0}, ConfigError, "end.*video_path"),
    "no role": ({"messages": [{"content": "a"}]}, ConfigError, "role and content"),
    "item without source": (
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, ConfigError, "has its source",
    ),
    "item with an unknown key": (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4", "max_frame": 3}]}]},
        ConfigError, "did you mean 'max_frames'",
    ),
    "placeholder in the text": ({"question": "what is <|video_pad|> ?"}, ConfigError, "placeholders"),
    "missing file": ({"video_path": "missing.mp4", "question": "a"}, MediaError, "missing.mp4"),
    "missing image": ({"images": "missing.png", "question": "a"}, MediaError, "missing.png"),
    "no videos": ({"video_path": [], "question": "a"}, ConfigError, "empty list"),
    "frames and videos": ({"video_path": ["a.mp4", "a.png"], "question": "a"}, ConfigError, "mixes"),
    "other number of videos": ({"video_path": ["a.mp4"] * 3, "question": ["a", "b"]}, ConfigError, "3 entries for 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(model: PruneVidQwen25VL, case: str) -> None:
    given, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        model.generate(**given)


def test_end_before_start(model: PruneVidQwen25VL, video: Path) -> None:
    with pytest.raises(ConfigError, match="end"):
        model.generate(video, ASKED, start=3.0, end=1.0)


def test_wrong_models(tmp_path: Path, model: PruneVidQwen25VL) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        PruneVidQwen25VL("./nowhere")
    with pytest.raises(ConfigError, match=r"config\.json"):
        PruneVidQwen25VL(tmp_path)
    with pytest.raises(SetupError, match=r"hf download Qwen/Qwen2\.5-VL-7B-Instruct --local-dir"):
        PruneVidQwen25VL()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UnsupportedError, match="llama"):
        PruneVidQwen25VL(tmp_path)
    with pytest.raises(ConfigError, match="tokenizer"):
        PruneVidQwen25VL(model.model)
    with pytest.raises(ConfigError, match="for loading"):
        PruneVidQwen25VL(model.model, tokenizer=model.tokenizer, dtype="float32")
    with pytest.raises(UnsupportedError, match="Linear"):
        PruneVidQwen25VL(torch.nn.Linear(2, 2), tokenizer=model.tokenizer)
    with pytest.raises(ConfigError, match="device_map"):
        PruneVidQwen25VL("bundled", device="cpu", device_map="auto")
    with pytest.raises(ConfigError, match="PruneVidConfig"):
        PruneVidQwen25VL("bundled", config={"keep_ratio": 0.4})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_asked_for_and_absent(model: PruneVidQwen25VL) -> None:
    with pytest.raises(SetupError, match="GPU"):
        PruneVidQwen25VL(model.model, device="cuda", tokenizer=model.tokenizer)


def test_threads_take_turns(model: PruneVidQwen25VL) -> None:
    from concurrent.futures import ThreadPoolExecutor

    frames = np.stack([render(make_scene(4), 4)[i] for i in range(4)])
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(model, frames, ASKED)["answer"], range(4)))
    assert len(set(answers)) == 1


def test_a_hub_id_without_its_owner_is_refused_before_the_network_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"Qwen/Qwen2\.5-VL-7B-Instruct"):
        PruneVidQwen25VL("Qwen2.5-VL-7B-Instruct")
