"""Checkpoints in the format of LLaVA's authors: flat configs and weights by other names than transformers has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_EXAMPLES = {
    "llava": "llava-hf/llava-1.5-7b-hf", "llava_next": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_next_video": "llava-hf/LLaVA-NeXT-Video-7B-hf",
    "llava_onevision": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
}  # fmt: skip


def conversion_of(config: Mapping[str, Any]) -> str | None:
    """Say what to load instead of such a checkpoint; None for one of transformers' own format.

    Some share a ``model_type`` with transformers' own and no name of a weight: loaded as they are, all would be random.

    Args:
        config: the JSON of its config.
    """
    made = [
        name for name in config.get("architectures") or () if re.fullmatch(r"(Multimodal)?Llava\w*ForCausalLM", name)
    ]
    if not made and "mm_vision_tower" not in config and "mm_projector_type" not in config:
        return None
    what = made[0] if made else "LLaVA"
    newline = config.get("mm_newline_position")
    if newline in ("grid", "frame"):
        each = "row of a frame" if newline == "grid" else "frame"
        return (
            f"a {what} whose videos have a newline after each {each} (mm_newline_position={newline!r}, as LLaVA-Video "
            f"has it), which no class of transformers makes: pass a llava_onevision, such as "
            f"{_EXAMPLES['llava_onevision']}, whose videos have one newline"
        )
    family = _family_of(config, what)
    return (
        f"a {what} in the format of LLaVA's authors, which transformers does not load: convert it to a {family} with "
        f"the script convert_{family}_weights_to_hf.py of transformers' repository, or pass a converted one, such as "
        f"{_EXAMPLES[family]}"
    )


def _family_of(config: Mapping[str, Any], what: str) -> str:
    """Return the ``model_type`` of transformers that the config maps onto."""
    if "Qwen" in what and "siglip" in str(config.get("mm_vision_tower")):
        return "llava_onevision"
    if config.get("mm_spatial_pool_mode") or config.get("mm_resampler_type") == "spatial_pool":
        return "llava_next_video"
    return "llava_next" if str(config.get("image_aspect_ratio")).startswith("anyres") else "llava"
