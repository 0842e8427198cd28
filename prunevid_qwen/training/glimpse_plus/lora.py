"""LoRA on the decoder's layers, and the model folder that it becomes: a stock one, which any program reads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.folder_json import read_json
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe

_PIXELS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json", "chat_template.json")


def adapted_layers(model: Any) -> list[str]:
    """Name every Linear of the decoder's layers: not the vision encoder, not the head."""
    inside = {module for layer in adapter_for(model).parts.layers for module in layer.modules()}
    return [name for name, module in model.named_modules() if module in inside and isinstance(module, nn.Linear)]


def lora_config(model: Any, recipe: GlimpsePlusRecipe) -> Any:
    """Return peft's config for a stock model."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=adapted_layers(model),
    )


def write_merged(adapted: Any, source: str, preprocessor: Any, folder: Path) -> Path:
    """Merge adapters into their model and write a model folder; the adapters are gone afterwards.

    Args:
        adapted: peft's model, on any device.
        source: folder or hub id of the stock model, for the settings of its pixels.
        preprocessor: whose tokenizer is written beside it.
        folder: appears whole or not at all.

    Returns: the folder.
    """
    beside = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    merged = adapted.merge_and_unload()
    merged.save_pretrained(beside)
    preprocessor.tokenizer.save_pretrained(beside)
    for name in _PIXELS:
        content = read_json(source, name, {})
        if content:
            (beside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)
    return folder
