"""The bundled model's sizes and how its parameters are initialised."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from research.bundled_model.tokenizer import VOCABULARY, VOCABULARY_SIZE


def build_config() -> Any:
    """Describe the model: ``Qwen2_5_VLConfig`` with about two million parameters before it is deepened."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2, 3],
        },
        text_config={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            # a large base leaves nearly position-free channels, without which matching words to picture parts
            # is not learned; the sections are Qwen2.5-VL's shares of half the head width
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
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
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config())
    fill_linear(model)
    fill(model.model.language_model.embed_tokens.weight, 0.5)
    show_motion(model.model.visual.patch_embed.proj.weight)
    return model


def deepen(model: Any, layers: int, seed: int) -> None:
    """Append decoder layers that hand on what they are given: what they add to it has zero weights, to be trained.

    Args:
        model: from ``build_model``; changed in place.
        layers: of its decoder afterwards.
        seed: of the new layers' other parameters.

    Raises:
        ValueError: the model has more layers.
    """
    decoder = model.model.language_model
    config = decoder.config
    if len(decoder.layers) > layers:
        raise ValueError(f"a decoder of {len(decoder.layers)} layers cannot be deepened to {layers}")
    torch.manual_seed(seed)
    for index in range(len(decoder.layers), layers):
        # the library reads a layer's kind by its index, and a cache counts layers by the config
        config.num_hidden_layers = index + 1
        config.layer_types = [config.layer_types[0]] * (index + 1)
        layer = type(decoder.layers[0])(config, index)
        fill_linear(layer)
        for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.zeros_(last.weight)
        decoder.layers.append(layer.to(decoder.layers[0].mlp.down_proj.weight.device))


def show_motion(kernel: torch.Tensor) -> None:
    """Fill a patch embedding: half of the filters start as differences of a patch's two frames, half as their mean.

    Args:
        kernel: [D, 3, 2, patch, patch]; changed in place.
    """
    fill(kernel, 1176**-0.5)
    with torch.no_grad():
        moving, base = kernel.shape[0] // 2, kernel[:, :, 0].clone()
        kernel[:moving, :, 0], kernel[:moving, :, 1] = -2.5 * base[:moving], 2.5 * base[:moving]
        kernel[moving:, :, 0] = kernel[moving:, :, 1] = base[moving:]


def fill_linear(module: nn.Module) -> None:
    """Fill the linear layers of a module by the number of their inputs, and their biases with zeros."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            scale = part.in_features**-0.5
            if name.endswith(("o_proj", "down_proj", "attn.proj")):
                scale *= 0.4  # what is added to the residual stream starts small
            fill(part.weight, 0.02 if name == "lm_head" else scale)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def fill(weight: torch.Tensor, scale: float) -> None:
    """Fill a weight with a normal distribution of this standard deviation, cut off at three of them."""
    nn.init.trunc_normal_(weight, std=scale, a=-3 * scale, b=3 * scale)
