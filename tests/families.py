"""The families as the tests see them: each is one row, and every oracle runs over all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prunevid_qwen.adapters.tiny import SIDE
from tests.models import make_inputs, tiny_model

_IMAGE = ("image", SIDE, SIDE)


@dataclass(frozen=True)
class Family:
    """One row.

    Args:
        cases: prompts by name, as `make_inputs` takes them: "one" is one row with one image or video, "batch" has rows
            of unlike length, several images or videos in one of them, and a text.
        tower: the vision tower's name among the root's modules.
        pixels: arguments that bring them.
        asks: the function that `generate` hands the whole prompt: the root's for its positions, or the model's.
        positions: leading dimensions of the position ids that the decoder is given, before [B, S].
        options: of a config, without which stage 1 finds nothing to do.
    """

    cases: Mapping[str, Any]
    tower: str
    pixels: tuple[str, ...]
    asks: str
    positions: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


_QWEN_CASES = {
    "one": [[("text", 4), ("video", 4, 4, 5), ("text", 6)]],
    "batch": [
        [("text", 4), ("video", 4, 4, 5), ("text", 6)],
        [("text", 3), ("image", 3, 3), ("text", 2), ("video", 2, 4, 4), ("text", 7)],
        [("text", 8)],
    ],
}
_QWEN = (_QWEN_CASES, "visual", ("pixel_values_videos", "pixel_values"), "get_rope_index", (4,))
FAMILIES = {
    "qwen2_5_vl": Family(*_QWEN), "qwen2_vl": Family(*_QWEN),
    "llava": Family(
        {
            "one": [[("text", 5), _IMAGE, ("text", 6)]],
            "batch": [
                [("text", 5), _IMAGE, ("text", 6)],
                [("text", 3), _IMAGE, _IMAGE, ("text", 2), _IMAGE, ("text", 7)],
                [("text", 8)],
            ],
        },
        "vision_tower", ("pixel_values",), "_expand_inputs_for_generation", (), {"merge_images": True},
    ),
}  # fmt: skip


def family_model(family: str, attention: str = "sdpa") -> Any:
    """The tiny model of a family, the same object each time."""
    return tiny_model(attention, family)


def family_inputs(family: str, case: str) -> dict[str, Any]:
    """Inputs of one of its cases."""
    return make_inputs(FAMILIES[family].cases[case], family=family)


def member(family: str, case: str, b: int) -> dict[str, Any]:
    """Cut one row, its pads and the pixels of others off."""
    inputs, samples = family_inputs(family, case), FAMILIES[family].cases[case]
    valid = inputs["attention_mask"][b].bool()
    out = {name: x[b : b + 1, valid] for name, x in inputs.items() if x.shape[:2] == inputs["input_ids"].shape}
    for name, pixels, grid in (
        ("image", "pixel_values", "image_grid_thw"), ("video", "pixel_values_videos", "video_grid_thw"),
    ):  # fmt: skip
        counts = [sum(item[0] == name for item in sample) for sample in samples]
        first, count = sum(counts[:b]), counts[b]
        if not count:
            continue
        sizes = torch.ones(sum(counts), dtype=torch.long)
        if grid in inputs:
            sizes, out[grid] = inputs[grid].prod(-1), inputs[grid][first : first + count]
        out[pixels] = inputs[pixels][int(sizes[:first].sum()) : int(sizes[: first + count].sum())]
        if name == "video" and "second_per_grid_ts" in inputs:
            out["second_per_grid_ts"] = inputs["second_per_grid_ts"][first : first + count]
    return out
