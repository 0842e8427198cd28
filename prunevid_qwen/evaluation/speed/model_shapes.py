"""Models with random weights in the true shape: time, memory and FLOPs depend on the shape, not on what was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError

PAD, START, END, IMAGE, VIDEO, FIRST_WORD = 0, 1, 2, 3, 4, 10

_TEXT = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
_SMALLER, _SMALL_HEAD, _SMALL_VOCABULARY = 8, 64, 4096


@dataclass(frozen=True)
class Shape:
    """The sizes of one model.

    Args:
        family: its ``model_type``.
        text: the decoder's, as `_TEXT`.
        vision: the tower's ``depth``, ``hidden_size``, ``intermediate_size``, ``num_heads``.
        tied: the output layer is the embedding.
        head: channels of each head of the decoder; None where the heads divide the width.
        seen: of the tower, beside that.
        experts: of a mixture: "num_experts", "num_experts_per_tok", "moe_intermediate_size".
    """

    family: str
    text: tuple[int, int, int, int, int, int]
    vision: tuple[int, int, int, int]
    tied: bool = False
    head: int | None = None
    seen: Mapping[str, Any] = field(default_factory=dict)
    experts: Mapping[str, int] = field(default_factory=dict)

    def smaller(self) -> Shape:
        """Divide every width by 8, decoder and tower alike, with heads of 64 channels and a vocabulary of 4,096."""
        layers, width, inner, heads, grouped, _ = self.text
        channels = heads * (self.head or width // heads) // _SMALLER
        count = channels // _SMALL_HEAD
        text = (
            layers, width // _SMALLER, inner // _SMALLER, count, max(1, count * grouped // heads), _SMALL_VOCABULARY,
        )  # fmt: skip
        depth, *sizes = self.vision
        experts = dict(self.experts)
        if experts:
            experts["moe_intermediate_size"] //= _SMALLER
        vision = (depth, *(size // _SMALLER for size in sizes))
        return replace(self, text=text, vision=vision, tied=False, head=_SMALL_HEAD, experts=experts)  # type: ignore[arg-type]


def _windows(full: list[int], size: int) -> dict[str, Any]:
    return {"fullatt_block_indexes": full, "window_size": size, "patch_size": 14, "tokens_per_second": 2}


def _deep(*blocks: int) -> dict[str, Any]:
    return {"deepstack_visual_indexes": list(blocks), "patch_size": 16, "num_position_embeddings": 2304}


def _pixels(side: int) -> dict[str, Any]:
    return {"image_size": side, "patch_size": 14}


_FULL = [7, 15, 23, 31]
_TRUE_VISION, _TRUE_WINDOWS = (32, 1280, 3420, 16), _windows(_FULL, 112)
_LARGE_VISION = (32, 1280, 3456, 16)
_VICUNA = (32, 4096, 11008, 32, 32, 32064)
_CLIP, _SIGLIP, _INTERN = (24, 1024, 4096, 16), (26, 1152, 4304, 16), (24, 1024, 4096, 16)
_QWEN3_TOWER, _QWEN3_SMALL_TOWER = (27, 1152, 4304, 16), (24, 1024, 4096, 16)
_QWEN2_7B = (28, 3584, 18944, 28, 4)

SHAPES: dict[str, Shape] = {
    "tiny": Shape("qwen2_5_vl", (6, 64, 96, 4, 2, 300), (2, 32, 48, 2), seen=_windows([1], 56)),
    # the decoder of Qwen2.5-0.5B; no Qwen2.5-VL of this size exists, so its vision tower is a small one of ours
    "0.5b": Shape("qwen2_5_vl", (24, 896, 4864, 14, 2, 151936), (4, 256, 684, 4), True, seen=_windows([3], 112)),
    # every width of the 7B divided by 8, decoder and vision tower alike (3584 -> 448, 18944 -> 2368, 1280 -> 160,
    # 3420 -> 428); heads of 64 channels instead of 128, so 7 of them; a vocabulary that costs as little as theirs does
    "7b_small": Shape("qwen2_5_vl", (28, 448, 2368, 7, 1, 4096), (32, 160, 428, 2), seen=_TRUE_WINDOWS),
    "3b": Shape("qwen2_5_vl", (36, 2048, 11008, 16, 2, 151936), _TRUE_VISION, True, seen=_TRUE_WINDOWS),
    "7b": Shape("qwen2_5_vl", (*_QWEN2_7B, 152064), _TRUE_VISION, seen=_TRUE_WINDOWS),
    "32b": Shape("qwen2_5_vl", (64, 5120, 27648, 40, 8, 152064), _LARGE_VISION, seen=_TRUE_WINDOWS),
    "72b": Shape("qwen2_5_vl", (80, 8192, 29568, 64, 8, 152064), _LARGE_VISION, seen=_TRUE_WINDOWS),
    "qwen2vl-7b": Shape("qwen2_vl", (*_QWEN2_7B, 152064), (32, 1280, 5120, 16), seen={"patch_size": 14}),
    "qwen3vl-2b": Shape(
        "qwen3_vl", (28, 2048, 6144, 16, 8, 151936), _QWEN3_SMALL_TOWER, True, 128, _deep(5, 11, 17)
    ),
    "qwen3vl-4b": Shape(
        "qwen3_vl", (36, 2560, 9728, 32, 8, 151936), _QWEN3_SMALL_TOWER, True, 128, _deep(5, 11, 17)
    ),
    "qwen3vl-8b": Shape("qwen3_vl", (36, 4096, 12288, 32, 8, 151936), _QWEN3_TOWER, False, 128, _deep(8, 16, 24)),
    "qwen3vl-32b": Shape("qwen3_vl", (64, 5120, 25600, 64, 8, 151936), _QWEN3_TOWER, False, 128, _deep(8, 16, 24)),
    "qwen3vl-30b-a3b": Shape(
        "qwen3_vl_moe", (48, 2048, 6144, 32, 4, 151936), _QWEN3_TOWER, False, 128, _deep(8, 16, 24),
        {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "llava-1.5-7b": Shape("llava", _VICUNA, _CLIP, seen=_pixels(336)),
    "llava-1.5-13b": Shape("llava", (40, 5120, 13824, 40, 40, 32064), _CLIP, seen=_pixels(336)),
    "llava-next-7b": Shape("llava_next", _VICUNA, _CLIP, seen=_pixels(336)),
    "llava-next-video-7b": Shape("llava_next_video", _VICUNA, _CLIP, seen=_pixels(336)),
    "llava-ov-0.5b": Shape("llava_onevision", (24, 896, 4864, 14, 2, 152000), _SIGLIP, True, seen=_pixels(384)),
    "llava-ov-7b": Shape("llava_onevision", (*_QWEN2_7B, 152000), _SIGLIP, seen=_pixels(384)),
    "video-llava-7b": Shape("video_llava", _VICUNA, _CLIP, seen=_pixels(224)),
    "internvl3-8b": Shape("internvl", (*_QWEN2_7B, 151674), _INTERN, seen=_pixels(448)),
}  # fmt: skip
"""The sizes of published checkpoints, by name, and smaller ones of ours. NAME_small is `Shape.smaller` of NAME."""

for _name in (
    "3b", "qwen2vl-7b", "qwen3vl-8b", "qwen3vl-30b-a3b", "llava-1.5-7b", "llava-next-7b", "llava-next-video-7b",
    "llava-ov-7b", "video-llava-7b", "internvl3-8b",
):  # fmt: skip
    SHAPES[f"{_name}_small"] = SHAPES[_name].smaller()


def shape_called(name: str) -> Any:
    """Return the config of a model of a shape, by the shape's name.

    Raises:
        ConfigError: there is no such shape.
    """
    if name not in SHAPES:
        raise ConfigError(unknown("a shape is one of", name, tuple(SHAPES)))
    from transformers import CONFIG_MAPPING

    shape = SHAPES[name]
    text: dict[str, Any] = dict(zip(_TEXT, shape.text, strict=True))
    text |= {
        "tie_word_embeddings": shape.tied, "max_position_embeddings": 128000, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": PAD, **shape.experts,
    }  # fmt: skip
    parts = _qwen(shape, text) if "qwen" in shape.family else _tiled(shape, text)
    made = CONFIG_MAPPING[shape.family](**parts, tie_word_embeddings=shape.tied)
    for kind, token in (("image", IMAGE), ("video", VIDEO)):  # of some families the config takes another name
        setattr(made, f"{kind}_token_id", token)
    return made


def _qwen(shape: Shape, text: dict[str, Any]) -> dict[str, Any]:
    third = shape.family.startswith("qwen3")
    head = shape.head or text["hidden_size"] // text["num_attention_heads"]
    side = 3 * head // 16  # rotary frequencies that tell rows, and as many that tell columns
    rope = {"rope_type": "default", "rope_theta": 5e6 if third else 1e6}
    if third:
        rope |= {"mrope_section": [head // 2 - 2 * (5 * head // 32), *[5 * head // 32] * 2], "mrope_interleaved": True}
        text |= {"head_dim": head, "decoder_sparse_step": 1} if shape.experts else {"head_dim": head}
    else:
        rope["mrope_section"] = [head // 2 - 2 * side, side, side]
    depth, width, inner, heads = shape.vision
    vision = {
        "depth": depth, "num_heads": heads, "spatial_merge_size": 2, "temporal_patch_size": 2, **shape.seen,
    }  # fmt: skip
    if shape.family == "qwen2_vl":
        vision |= {"embed_dim": width, "hidden_size": text["hidden_size"], "mlp_ratio": inner // width}
    else:
        vision |= {"hidden_size": width, "intermediate_size": inner, "out_hidden_size": text["hidden_size"]}
    return {
        "text_config": {**text, "rope_parameters": rope}, "vision_config": vision, "image_token_id": IMAGE,
        "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
    }  # fmt: skip


def _tiled(shape: Shape, text: dict[str, Any]) -> dict[str, Any]:
    depth, width, inner, heads = shape.vision
    vision = {
        "num_hidden_layers": depth, "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads,
        **shape.seen,
    }  # fmt: skip
    side, patch = shape.seen["image_size"], shape.seen["patch_size"]
    about: dict[str, Any] = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    decoder, tower = "llama", "clip_vision_model"
    if shape.family == "internvl":
        decoder, tower, about = "qwen2", "internvl_vision", {"downsample_ratio": 0.5}
        vision |= {"image_size": [side] * 2, "patch_size": [patch] * 2}
    elif shape.family == "llava_onevision":
        decoder, tower = "qwen2", "siglip_vision_model"
        about = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        vision["vision_use_head"] = False
    if "next" in shape.family:
        about["image_grid_pinpoints"] = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    if shape.family == "llava_next_video":
        about |= {"spatial_pool_mode": "average", "spatial_pool_stride": 2}
    return {
        "text_config": {**text, "model_type": decoder}, "vision_config": {**vision, "model_type": tower}, **about,
        "image_token_index": IMAGE, "video_token_index": VIDEO,
    }  # fmt: skip


def build_model(shape: Any, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    """Make a model of config ``shape`` on its device in its dtype, at no time in fp32 or on the host besides.

    Its random weights are normal, of standard deviation 1 / sqrt(inputs), so that attention is not uniform.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(shape, attn_implementation=attention, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                inputs = weight.shape[-1] if "experts" in name else weight[0].numel()  # of each expert
                weight.normal_(0.0, 1.0 if "embed_tokens" in name else inputs**-0.5, generator=generator)
    if shape.tie_word_embeddings:
        model.tie_weights()
    return model.eval()
