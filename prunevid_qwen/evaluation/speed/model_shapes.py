"""Models with random weights in the true shape: time, memory and FLOPs depend on the shape, not on what was learnt."""

from __future__ import annotations

from typing import Any

import torch

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError

PAD, START, END, IMAGE, VIDEO, FIRST_WORD = 0, 1, 2, 3, 4, 10
PATCH, MERGE, PATCH_FRAMES, CHANNELS = 14, 2, 2, 3

_TEXT = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip
_VISION = ("depth", "hidden_size", "intermediate_size", "num_heads", "fullatt_block_indexes", "window_size")
_TRUE_VISION = (32, 1280, 3420, 16, [7, 15, 23, 31], 112)

SHAPES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {  # values of _TEXT and of _VISION
    "tiny": ((6, 64, 96, 4, 2, 300, False), (2, 32, 48, 2, [1], 56)),
    # the decoder of Qwen2.5-0.5B; no Qwen2.5-VL of this size exists, so its vision tower is a small one of ours
    "0.5b": ((24, 896, 4864, 14, 2, 151936, True), (4, 256, 684, 4, [3], 112)),
    # every width of the 7B divided by 8, decoder and vision tower alike (3584 -> 448, 18944 -> 2368, 1280 -> 160,
    # 3420 -> 428); heads of 64 channels instead of 128, so 7 of them; a vocabulary that costs as little as theirs does
    "7b_small": ((28, 448, 2368, 7, 1, 4096, False), (32, 160, 428, 2, [7, 15, 23, 31], 112)),
    "3b": ((36, 2048, 11008, 16, 2, 151936, True), _TRUE_VISION),
    "7b": ((28, 3584, 18944, 28, 4, 152064, False), _TRUE_VISION),
}


def shape_called(name: str) -> Any:
    """Return the config of a Qwen2.5-VL of a shape, by the shape's name; `ConfigError` where there is none."""
    if name not in SHAPES:
        raise ConfigError(unknown("a shape is one of", name, tuple(SHAPES)))
    from transformers import Qwen2_5_VLConfig

    text, vision = dict(zip(_TEXT, SHAPES[name][0], strict=True)), dict(zip(_VISION, SHAPES[name][1], strict=True))
    head = text["hidden_size"] // text["num_attention_heads"]
    side = 3 * head // 16  # rotary frequencies that tell rows, and as many that tell columns
    sections = {128: [16, 24, 24], 64: [8, 12, 12]}.get(head, [head // 2 - 2 * side, side, side])
    text |= {
        "max_position_embeddings": 128000, "bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD,
        "rope_parameters": {"rope_type": "default", "mrope_section": sections, "rope_theta": 1000000.0},
    }  # fmt: skip
    vision |= {
        "out_hidden_size": text["hidden_size"], "patch_size": PATCH, "spatial_merge_size": MERGE,
        "temporal_patch_size": PATCH_FRAMES, "tokens_per_second": 2,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"], image_token_id=IMAGE,
        video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip


def check_counted(shape: Any) -> None:
    """Refuse the config of a model that is no Qwen2.5-VL: its FLOPs are not counted."""
    if shape.model_type != "qwen2_5_vl":
        raise ConfigError(f"the speed benchmark counts the FLOPs of qwen2_5_vl, got {shape.model_type!r}")


def build_model(shape: Any, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    """Make a model of config ``shape`` on its device in its dtype, at no time in fp32 or on the host besides.

    Its random weights are normal, of standard deviation 1 / sqrt(inputs), so that attention is not uniform.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(shape, attn_implementation=attention, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                scale = 1.0 if "embed_tokens" in name else weight[0].numel() ** -0.5
                weight.normal_(0.0, scale, generator=generator)
    if shape.tie_word_embeddings:
        model.tie_weights()
    return model.eval()
