"""Tiny families of LLaVA's kind: a CLIP or SigLIP tower that is given whole images of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prunevid_qwen.adapters.tiny.family import IMAGE, PATCH, SIDE, TinyBatch, TinyFamily


def clip(**more: Any) -> dict[str, Any]:
    """Describe a tiny CLIP tower of SIDE x SIDE patches, which the library projects to the decoder's width."""
    return {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": SIDE * PATCH, "patch_size": PATCH, "projection_dim": 32, **more,
    }  # fmt: skip


def _llava(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": {**text, "model_type": "llama"}, "vision_config": clip(), "image_token_index": IMAGE,
        "image_seq_length": SIDE**2, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip


class LlavaMedia:
    """Images of one grid, with nothing around them."""

    def __init__(self) -> None:
        self.pixels: list[torch.Tensor] = []

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of one; return its token ids and their types."""
        if (kind, *size) != ("image", SIDE, SIDE):
            raise ValueError(f'a tiny llava shows ("image", {SIDE}, {SIDE}), got {(kind, *size)}')
        self.pixels.append(torch.randn(3, SIDE * PATCH, SIDE * PATCH, generator=numbers))
        return [IMAGE] * SIDE**2, [1] * SIDE**2

    def inputs(self, first: int, last: int) -> dict[str, Any]:
        """Return what `generate` takes of those made from ``first`` on to before ``last``."""
        shown = self.pixels[first:last]
        return {"pixel_values": torch.stack(shown)} if shown else {}


_IMAGES = TinyBatch(  # two of them side by side
    (
        (("text", 3), ("image", SIDE, SIDE), ("image", SIDE, SIDE), ("text", 5)),
        (("text", 2), ("image", SIDE, SIDE), ("text", 5)),
    ),
    (8, 7), ((16, 16), (16,)), ((8, 8), (8,)), {"merge_images": True},
)  # fmt: skip

LLAVA: Mapping[str, TinyFamily] = {
    "llava": TinyFamily("Llava", _llava, LlavaMedia, _IMAGES),
}
