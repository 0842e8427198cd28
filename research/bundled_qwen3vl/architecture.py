"""The sizes of the second toy, and how its parameters begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from research.bundled_model.architecture import fill, fill_linear, show_motion
from research.bundled_model.tokenizer import VOCABULARY_SIZE
from research.bundled_qwen3vl.tokenizer import VOCABULARY

POSITIONS_A_SIDE = 8
"""Learnt positions down and across: those of 112 x 112 pixels; other sizes are interpolated."""


def build_config() -> Any:
    """Describe the model: ``Qwen3VLConfig`` with two million parameters."""
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 80,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 128,
            # 14 and not the family's 16: both toys then see the same tokens of the same videos
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": POSITIONS_A_SIDE**2,
            "deepstack_visual_indexes": [1, 2],
        },
        text_config={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            # a large base leaves nearly position-free channels, as in the first toy
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": VOCABULARY["<|endoftext|>"],
            "eos_token_id": VOCABULARY["<|im_end|>"],
            "pad_token_id": VOCABULARY["<|endoftext|>"],
        },
        image_token_id=VOCABULARY["<|image_pad|>"],
        video_token_id=VOCABULARY["<|video_pad|>"],
        vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def build_model(seed: int) -> Any:
    """Make the model with fresh parameters, the same for the same seed."""
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(build_config())
    fill_linear(model)
    fill(model.model.language_model.embed_tokens.weight, 0.5)
    visual = model.model.visual
    fill(visual.pos_embed.weight, 0.1)
    show_motion(visual.patch_embed.proj.weight)
    for name, part in visual.named_modules():
        if name.endswith("mlp.linear_fc2"):
            part.weight.data *= 0.4  # what is added to the residual stream starts small
    nn.init.zeros_(visual.patch_embed.proj.bias)
    return model
