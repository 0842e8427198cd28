"""Write the second toy as a folder that every supported version of transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from research.bundled_model.export import write_model
from research.bundled_qwen3vl.fast_forward import PIXEL_MEAN, PIXEL_STD
from research.bundled_qwen3vl.tokenizer import build_tokenizer

_TOKEN = 28 * 28  # pixels
_PATCHES: dict[str, Any] = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": list(PIXEL_MEAN),
    "image_std": list(PIXEL_STD),
    "processor_class": "Qwen3VLProcessor",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "preprocessor_config.json": {
        # the size the model was trained on; larger pictures are made smaller
        "size": {"shortest_edge": 4 * _TOKEN, "longest_edge": 16 * _TOKEN},
        **_PATCHES,
        "image_processor_type": "Qwen2VLImageProcessorFast",
    },
    "video_preprocessor_config.json": {
        # of all frames together: 32 of 168 x 168, which a caller may ask for; by itself a frame gets 16 tokens
        "size": {"shortest_edge": 4 * _TOKEN, "longest_edge": 32 * 36 * _TOKEN},
        "max_video_tokens": 16,
        "cap_pixels_per_frame": True,
        **_PATCHES,
        "video_processor_type": "Qwen3VLVideoProcessor",
    },
}
"""The files beside the weights, with the names and keys of a published Qwen3-VL's."""


def export_model(model: Any, folder: Path) -> Path:
    """Write weights (bfloat16 safetensors), configs, tokenizer, chat template and the settings of pictures and videos.

    Args:
        model: the trained ``Qwen3VLForConditionalGeneration``; it is left in bfloat16.
        folder: where to; made if missing, files of the same names are replaced.
    Returns: the folder.
    """
    return write_model(model, build_tokenizer(), SETTINGS, folder)
