"""Write a trained model as a folder that every supported version of transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from research.bundled_model.fast_forward import PIXEL_MEAN, PIXEL_STD
from research.bundled_model.tokenizer import build_tokenizer

PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    # the size the model was trained on; larger pictures are made smaller
    "max_pixels": 12544,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": list(PIXEL_MEAN),
    "image_std": list(PIXEL_STD),
}


def export_model(model: Any, folder: Path) -> Path:
    """Write weights (bfloat16 safetensors), configs, tokenizer, chat template and image settings.

    Args:
        model: the trained ``Qwen2_5_VLForConditionalGeneration``; it is left in bfloat16.
        folder: where to; made if missing, files of the same names are replaced.
    Returns: the folder.
    """
    return write_model(model, build_tokenizer(), {"preprocessor_config.json": PREPROCESSOR}, folder)


def write_model(model: Any, tokenizer: Any, settings: Mapping[str, dict[str, Any]], folder: Path) -> Path:
    """Write a toy of any architecture.

    Args:
        model: the trained model; it is left in bfloat16.
        tokenizer: of `word_tokenizer`.
        settings: of pictures and videos; name of the file -> content.
        folder: where to; made if missing, files of the same names are replaced.
    Returns: the folder.
    """
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _edit(folder / "config.json", _older_rope_keys)
    _edit(folder / "tokenizer_config.json", _plain_tokenizer_class)
    for name, content in settings.items():
        _write(folder / name, content)
    (folder / "model.safetensors").chmod(0o644)  # it is written readable by its owner alone
    return folder


def _older_rope_keys(config: dict[str, Any]) -> None:
    """Name the rotary settings as releases before ``rope_parameters`` did; later ones read these names too."""
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = {"type": "mrope", "rope_type": "default", **rope}
    config["vision_config"].pop("rope_parameters", None)


def _plain_tokenizer_class(config: dict[str, Any]) -> None:
    """Name a class that all versions have; the special tokens stand in tokenizer.json, which all of them read."""
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("backend", "extra_special_tokens", "additional_special_tokens"):
        config.pop(key, None)


def _edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    _write(path, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
