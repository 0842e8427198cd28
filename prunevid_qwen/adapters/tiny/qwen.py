"""Tiny families of Qwen2's kind: images and videos of any grid, a start and an end token around each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from prunevid_qwen.adapters.tiny.family import END, IMAGE, MERGE, PATCH, START, VIDEO, VOCAB, TinyBatch, TinyFamily

OPENS, CLOSES = 6, 7  # around the time of a frame, as "<" and " seconds>"
IDS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
}  # fmt: skip


def _qwen(**vision: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    shared = {"depth": 1, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    return lambda text: {
        "text_config": {**text, "rope_parameters": rope}, "vision_config": {**shared, **vision},
        "tie_word_embeddings": False, **IDS,
    }  # fmt: skip


def _qwen3(**text: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def parts(given: dict[str, Any]) -> dict[str, Any]:
        made = _qwen(**_QWEN3)({**given, "head_dim": 16, **text})
        made["text_config"]["rope_parameters"]["mrope_interleaved"] = True
        return made

    return parts


def _qwen3_5(**text: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The first and the last layer have linear attention: no keys there, and a layer behind every cut that has none.

    From 8 layers on every fourth one attends, as in all published models.
    """

    def parts(given: dict[str, Any]) -> dict[str, Any]:
        depth = given["num_hidden_layers"]
        kinds = ["linear_attention", *["full_attention"] * (depth - 2), "linear_attention"]
        if depth >= 8:
            kinds = ["linear_attention" if (layer + 1) % 4 else "full_attention" for layer in range(depth)]
        rope = {
            "rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        }  # fmt: skip
        made = _qwen(**_QWEN3_5)({**given, "head_dim": 16, "layer_types": kinds, **_LINEAR, **text})
        made["text_config"]["rope_parameters"] = rope
        return made

    return parts


class QwenMedia:
    """Images and videos of any grid; videos are still scenes with noise.

    Args:
        seconds: the family is told the seconds between temporal positions.
    """

    def __init__(self, seconds: bool = False) -> None:
        self.seconds = seconds
        self.made: list[tuple[str, list[int], torch.Tensor, float]] = []  # kind, grid of patches, pixels, seconds

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of one; return its token ids and their types."""
        t, h, w = size if kind == "video" else (1, *size)
        videos = sum(each[0] == "video" for each in self.made)
        pixels = _scene(t, h * w, numbers)
        self.made.append((kind, [t, MERGE * h, MERGE * w], pixels, 2.25 + 0.5 * videos))
        return self.written(kind, t, h * w, numbers)

    def written(self, kind: str, t: int, cells: int, numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Write the ids and types of one of ``t`` frames."""
        which, token = (2, VIDEO) if kind == "video" else (1, IMAGE)
        n = t * cells
        return [START, *[token] * n, END], [0, *[which] * n, 0]

    def inputs(self, first: int, last: int) -> dict[str, Any]:
        """Return what `generate` takes of those made from ``first`` on to before ``last``."""
        out: dict[str, Any] = {}
        for kind, name, grid in (
            ("video", "pixel_values_videos", "video_grid_thw"), ("image", "pixel_values", "image_grid_thw"),
        ):  # fmt: skip
            shown = [each for each in self.made[first:last] if each[0] == kind]
            if shown:
                out[grid] = torch.tensor([each[1] for each in shown])
                out[name] = torch.cat([each[2] for each in shown])
                if self.seconds and kind == "video":
                    out["second_per_grid_ts"] = torch.tensor([each[3] for each in shown])
        return out


class StampedMedia(QwenMedia):
    """Qwen3-VL's: each frame of a video stands between brackets of its own, behind its time in some tokens of text."""

    def written(self, kind: str, t: int, cells: int, numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Write the ids and types of one of ``t`` frames."""
        if kind == "image":
            return super().written(kind, t, cells, numbers)
        ids: list[int] = []
        types: list[int] = []
        for frame in range(t):
            digits = torch.randint(10, VOCAB, (1 + frame % 2,), generator=numbers).tolist()
            ids += [OPENS, *digits, CLOSES, START, *[VIDEO] * cells, END]
            types += [0] * (len(digits) + 3) + [2] * cells + [0]
        return ids, types


def _scene(t: int, cells: int, numbers: torch.Generator) -> torch.Tensor:
    still = torch.randn(1, cells, MERGE * MERGE * 3 * 2 * PATCH * PATCH, generator=numbers)
    noise = torch.randn(t, cells, still.shape[-1], generator=numbers)
    moves = (torch.rand(1, cells, 1, generator=numbers) < 0.5).float()
    return (still + noise * (0.05 + moves)).reshape(t * cells * MERGE * MERGE, -1)


_SCENES = TinyBatch(  # an image, which passes, and videos
    (
        (("text", 2), ("image", 3, 3), ("text", 1), ("video", 2, 4, 4), ("text", 5)),
        (("text", 3), ("video", 3, 2, 4), ("text", 5)),
    ),
    (12, 10), ((9, 32), (24,)), ((9, 16), (12,)),
)  # fmt: skip
_STAMPED = replace(_SCENES, text=(21, 24))
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1}
_QWEN2_5 = {
    "hidden_size": 32, "intermediate_size": 48, "window_size": 56, "out_hidden_size": 64, "fullatt_block_indexes": [0],
    "tokens_per_second": 2,
}  # fmt: skip
_QWEN3 = {
    "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "depth": 3, "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1, 2],
}  # fmt: skip
_QWEN3_5 = {
    "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "depth": 2, "num_position_embeddings": 16,
}  # fmt: skip
_LINEAR = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
_SHARED = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}  # fmt: skip
_QWEN2 = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}

QWEN: Mapping[str, TinyFamily] = {
    "qwen2_5_vl": TinyFamily("Qwen2_5_VL", _qwen(**_QWEN2_5), partial(QwenMedia, seconds=True), _SCENES, typed=True),
    "qwen2_vl": TinyFamily("Qwen2VL", _qwen(**_QWEN2), QwenMedia, _SCENES, typed=True),
    "qwen3_vl": TinyFamily("Qwen3VL", _qwen3(), StampedMedia, _STAMPED, typed=True),
    "qwen3_vl_moe": TinyFamily("Qwen3VLMoe", _qwen3(**_EXPERTS), StampedMedia, _STAMPED, typed=True),
    "qwen3_5": TinyFamily("Qwen3_5", _qwen3_5(), StampedMedia, _STAMPED, typed=True),
    "qwen3_5_moe": TinyFamily("Qwen3_5Moe", _qwen3_5(**_SHARED), StampedMedia, _STAMPED, typed=True),
}
