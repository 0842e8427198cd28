"""A small random PruneVidQwen25VL, and media to ask it about: for the tests of the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen import (
    PruneVidQwen25VL,
    get_paper_config,
)
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene, write_frames, write_video
from prunevid_qwen.moving_shapes.drawing import render
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer

CONFIG = get_paper_config()
ASKED = "what color is the circle ?"


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    made = PruneVidQwen25VL(build_model(0).eval(), CONFIG, tokenizer=build_tokenizer())
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    made.preprocessor.media = MediaReader(small, small)
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("v") / "scene ü.mp4", render(make_scene(1), 32), fps=4)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("v") / "frames", render(make_scene(2), 10))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "a.png"
    Image.fromarray(render(make_scene(3), 2)[0]).save(path)
    return path


def ask(model: PruneVidQwen25VL, *args: Any, **kwargs: Any) -> Any:
    return model.generate(*args, **{"max_new_tokens": 2, **kwargs})
