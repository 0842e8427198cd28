"""Models with random weights in the true shape: time, memory and FLOPs depend on the shape, not on what was learnt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError

PAD, START, END, IMAGE, VIDEO, FIRST_WORD = 0, 1, 2, 3, 4, 10
PATCH, MERGE, PATCH_FRAMES, CHANNELS = 14, 2, 2, 3


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5-VL.

    Args:
        layers, hidden, ffn, heads, kv_heads: of the decoder; a head has ``hidden / heads`` channels.
        vocabulary: rows of the embedding.
        tied: whether the output layer shares the embedding's weights.
        vision_depth, vision_hidden, vision_ffn, vision_heads: of the vision tower.
        full_attention: its layers without windows.
        window: side of its attention windows in pixels.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision_depth: int = 32
    vision_hidden: int = 1280
    vision_ffn: int = 3420
    vision_heads: int = 16
    full_attention: tuple[int, ...] = (7, 15, 23, 31)
    window: int = 112

    @property
    def head(self) -> int:
        """Channels of one attention head of the decoder."""
        return self.hidden // self.heads


SHAPES: dict[str, Shape] = {
    "tiny": Shape(6, 64, 96, 4, 2, 300, False, 2, 32, 48, 2, (1,), 56),
    # the decoder of Qwen2.5-0.5B; no Qwen2.5-VL of this size exists, so its vision tower is a small one of ours
    "0.5b": Shape(24, 896, 4864, 14, 2, 151936, True, 4, 256, 684, 4, (3,)),
    # every width of the 7B divided by 8, decoder and vision tower alike (3584 -> 448, 18944 -> 2368, 1280 -> 160,
    # 3420 -> 428); heads of 64 channels instead of 128, so 7 of them; a vocabulary that costs as little as theirs does
    "7b_small": Shape(28, 448, 2368, 7, 1, 4096, False, 32, 160, 428, 2),
    "3b": Shape(36, 2048, 11008, 16, 2, 151936, True),
    "7b": Shape(28, 3584, 18944, 28, 4, 152064, False),
}


def shape_called(name: str) -> Shape:
    """Return a shape by name.

    Raises:
        ConfigError: no such shape; the nearest name is offered.
    """
    if name not in SHAPES:
        raise ConfigError(unknown("a shape is one of", name, tuple(SHAPES)))
    return SHAPES[name]


def build_model(shape: Shape, device: torch.device, dtype: torch.dtype, attention: str, random_seed: int = 0) -> Any:
    """Make a model of a shape on its device in its dtype; at no time are there weights in fp32 or on the host besides.

    Args:
        shape: the sizes.
        device, dtype: of the weights.
        attention: transformers' name of the attention kernel.
        random_seed: of the weights; normal, of standard deviation 1 / sqrt(inputs), so that attention is not uniform.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            _model_config(shape), attn_implementation=attention, dtype=dtype
        )
    generator = torch.Generator(device).manual_seed(random_seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                scale = 1.0 if "embed_tokens" in name else weight[0].numel() ** -0.5
                weight.normal_(0.0, scale, generator=generator)
    if shape.tied:
        model.tie_weights()
    return model.eval()


def _model_config(shape: Shape) -> Any:
    from transformers import Qwen2_5_VLConfig

    side = 3 * shape.head // 16  # rotary frequencies that tell rows, and as many that tell columns
    sections = {128: [16, 24, 24], 64: [8, 12, 12]}.get(shape.head, [shape.head // 2 - 2 * side, side, side])
    text = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 128000, "bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD,
        "rope_parameters": {"rope_type": "default", "mrope_section": sections, "rope_theta": 1000000.0},
        "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    vision = {
        "depth": shape.vision_depth, "hidden_size": shape.vision_hidden, "intermediate_size": shape.vision_ffn,
        "num_heads": shape.vision_heads, "fullatt_block_indexes": list(shape.full_attention),
        "window_size": shape.window, "out_hidden_size": shape.hidden, "patch_size": PATCH,
        "spatial_merge_size": MERGE, "temporal_patch_size": PATCH_FRAMES, "tokens_per_second": 2,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=shape.tied, image_token_id=IMAGE,
        video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip


def shape_of(config: Any) -> Shape:
    """Read the sizes of a loaded model from its config.

    Raises:
        ConfigError: it is no Qwen2.5-VL, whose vision tower these sizes describe.
    """
    if config.model_type != "qwen2_5_vl":
        raise ConfigError(f"the speed benchmark counts the FLOPs of qwen2_5_vl, got {config.model_type!r}")
    text, vision = config.get_text_config(), config.vision_config
    return replace(
        SHAPES["7b"], layers=text.num_hidden_layers, hidden=text.hidden_size, ffn=text.intermediate_size,
        heads=text.num_attention_heads, kv_heads=text.num_key_value_heads, vocabulary=text.vocab_size,
        tied=bool(config.tie_word_embeddings), vision_depth=vision.depth, vision_hidden=vision.hidden_size,
        vision_ffn=vision.intermediate_size, vision_heads=vision.num_heads,
        full_attention=tuple(vision.fullatt_block_indexes), window=vision.window_size,
    )  # fmt: skip
