"""Tiny models of families that the library's processor reads for, in folders, as `from_pretrained` finds a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.adapters.tiny import PATCH, SIDE, tiny_model
from prunevid_qwen.adapters.tiny.newlines import PINPOINTS
from tests.llava import tiny_tokenizer

PIXELS = SIDE * PATCH
_SQUARE = {"height": PIXELS, "width": PIXELS}
_CROPPED = {"size": {"shortest_edge": PIXELS}, "crop_size": _SQUARE}
_CLIP = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_TILES = {**_CROPPED, "image_grid_pinpoints": PINPOINTS}

PROCESSORS: dict[str, dict[str, Any]] = {
    "llava_next": {
        "processor_class": "LlavaNextProcessor", **_CLIP,
        "image_processor": {"image_processor_type": "LlavaNextImageProcessor", **_TILES},
    },
    "llava_next_video": {
        "processor_class": "LlavaNextVideoProcessor", **_CLIP, "video_processor": _CROPPED,
        "image_processor": {"image_processor_type": "LlavaNextImageProcessor", **_TILES},
    },
    "llava_onevision": {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": SIDE**2,
        "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_3",
        "image_processor": {
            "image_processor_type": "LlavaOnevisionImageProcessor", "size": _SQUARE, "image_grid_pinpoints": PINPOINTS,
        },
        "video_processor": {"size": _SQUARE},
    },
    "video_llava": {
        "processor_class": "VideoLlavaProcessor", **_CLIP, "video_processor": _CROPPED,
        "image_processor": {"image_processor_type": "VideoLlavaImageProcessor", **_CROPPED},
    },
}  # fmt: skip
"""What ``processor_config.json`` says of each."""


def save_folder(folder: Path, family: str, weights: bool = True) -> Path:
    """Write weights or the config alone, the tokenizer, and the processor's settings."""
    with torch.random.fork_rng():  # the library draws what has one dimension: the class embedding
        torch.manual_seed(0)
        model = tiny_model(family)
    (model if weights else model.config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(PROCESSORS[family]), encoding="utf-8")
    return folder
