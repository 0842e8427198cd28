"""The bundled model's forward pass written for training speed on a CPU.

It computes what the library's ``Qwen2_5_VLForConditionalGeneration`` computes, from the same parameters, in two ways
that cost less: all frames go through the vision tower in one batch, and many questions about one video share its
prefix, each seeing that prefix and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_PIXEL_CENTER = 128  # 8-bit pixels less this are exact in bfloat16


@dataclass(frozen=True)
class Positions:
    """(t, h, w) ids of a prefix, [3, B, P], and of the question blocks after it, [3, Q]; all int64."""

    prefix: Tensor
    block: Tensor


def normalised_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of the last dimension against each other by the given angles."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Plain attention, [..., S, d] each; quicker here than the fused kernel, whose CPU backward is slow."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores if mask is None else scores + mask, -1) @ v


def patchify(frames: Tensor) -> Tensor:
    """Cut frames into patches in the order of Qwen2.5-VL (merge blocks together, channel first within a patch).

    Args:
        frames: [B, F, H, W, 3] uint8; F even, H and W multiples of 28.
    Returns: [B * F / 2, H / 14 * W / 14, 1176] uint8.
    """
    batch, count, height, width, _ = frames.shape
    x = frames.view(batch, count // 2, 2, height // 28, 2, 14, width // 28, 2, 14, 3)
    x = x.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
    return x.reshape(batch * count // 2, height * width // 196, 1176)


def vision_features(visual: Any, patches: Tensor, height: int, width: int) -> Tensor:
    """Run the vision tower on every temporal patch by itself.

    Args:
        visual: the library's vision tower; every layer's windows must cover the whole frame.
        patches: [N, height * width, 1176] uint8 from ``patchify``.
        height: patches down a frame.
        width: patches across a frame.

    Returns: [N, height * width / 4, D] float32 tokens.
    """
    cos, sin = vision_angles(visual, height, width)
    count, tokens, _ = patches.shape
    heads = visual.config.num_heads
    weight, bias = patch_embedding(visual.patch_embed.proj.weight)
    pixels = centered(patches, weight)
    x = F.linear(pixels, weight, bias).float()
    for layer in visual.blocks:
        h = normalised_norm(x, layer.norm1.weight, 1e-6)
        qkv = F.linear(h, layer.attn.qkv.weight, layer.attn.qkv.bias)
        q, k, v = qkv.view(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rotate(k, cos.to(q.dtype), sin.to(q.dtype))
        x = x + layer.attn.proj(attend(q, k, v).transpose(1, 2).reshape(count, tokens, -1))
        h = normalised_norm(x, layer.norm2.weight, 1e-6)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
    h = normalised_norm(x, visual.merger.ln_q.weight, 1e-6)
    return visual.merger.mlp(h.view(count, tokens // 4, -1)).float()


def centered(patches: Tensor, weight: Tensor) -> Tensor:
    """8-bit pixels as the folded patch embedding takes them, in the type that it works in."""
    return patches.to(working_dtype(weight)) - _PIXEL_CENTER


def working_dtype(x: Tensor) -> torch.dtype:
    """bfloat16 under autocast, else the tensor's own."""
    return torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else x.dtype


def patch_embedding(
    weight: Tensor, means: Sequence[float] = PIXEL_MEAN, stds: Sequence[float] = PIXEL_STD
) -> tuple[Tensor, Tensor]:
    """Fold the pixel normalisation into a patch embedding: weights [D, 1176] and bias [D] for centred 8-bit pixels."""
    weight = weight.flatten(1)  # channel first
    mean = torch.tensor(means).repeat_interleave(weight.shape[1] // 3)
    std = torch.tensor(stds).repeat_interleave(weight.shape[1] // 3)
    scaled = weight / (255 * std)
    return scaled, (weight * ((_PIXEL_CENTER / 255 - mean) / std)).sum(1)


def vision_angles(visual: Any, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the 2-D rotary embedding, [height * width, head width], patches in merge order."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None, :].expand(height, width)
    ids = torch.stack([rows, columns], -1).reshape(height // 2, 2, width // 2, 2, 2).transpose(1, 2).reshape(-1, 2)
    span = visual.config.hidden_size // visual.config.num_heads // 2
    frequencies = 10000.0 ** -(torch.arange(0, span, 2) / span)
    angles = (ids[:, :, None] * frequencies).flatten(1)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def text_angles(config: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of M-RoPE.

    Args:
        config: the text config.
        positions: [3, ...] (t, h, w) ids.
    Returns: two [..., head width] float32 tensors.
    """
    width = config.hidden_size // config.num_attention_heads
    frequencies = config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    angles = positions[..., None] * frequencies
    sections = config.rope_parameters["mrope_section"]
    if config.rope_parameters.get("mrope_interleaved"):  # t, h, w in turn, and t where h and w have all of theirs
        mixed = angles[0].clone()
        for axis in (1, 2):
            turns = slice(axis, 3 * sections[axis], 3)
            mixed[..., turns] = angles[axis][..., turns]
    else:
        mixed = torch.cat([part[axis] for axis, part in enumerate(angles.split(sections, -1))], -1)
    mixed = torch.cat([mixed, mixed], -1)
    return mixed.cos(), mixed.sin()


def answer_states(
    model: Any,
    prefix: Tensor,
    blocks: Tensor,
    positions: Positions,
    tap: list[Tensor] | None = None,
    levels: Sequence[Tensor] = (),
) -> Tensor:
    """Run the decoder on a shared prefix and the questions after it.

    Args:
        model: the library's model.
        prefix: [B, P, D] embeddings of the tokens before the questions, the video among them.
        blocks: [B, N, Q] token ids, one question each, padded at the end.
        positions: ids of both.
        tap: a list to which the hidden states after every layer are appended, [B, P + N * Q, D] each.
        levels: what DeepStack adds to the prefix after the first layers, [B, P, D] each.

    Returns: [B, N, Q, D] final hidden states of the questions' tokens.
    """
    decoder = model.model.language_model
    config = decoder.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    batch, before, _ = prefix.shape
    _, count, length = blocks.shape
    x = torch.cat([prefix, decoder.embed_tokens(blocks).flatten(1, 2)], 1)
    total = x.shape[1]
    dtype = working_dtype(x)
    prefix_cos, prefix_sin = text_angles(config, positions.prefix)
    block_cos, block_sin = (a.repeat(count, 1).expand(batch, -1, -1) for a in text_angles(config, positions.block))
    cos = torch.cat([prefix_cos, block_cos], 1)[:, None].to(dtype)
    sin = torch.cat([prefix_sin, block_sin], 1)[:, None].to(dtype)
    prefix_mask = torch.full((before, before), float("-inf"), dtype=dtype).triu(1)
    block_mask = torch.full((length, length), float("-inf"), dtype=dtype).triu(1)
    for number, layer in enumerate(decoder.layers):
        h = normalised_norm(x, layer.input_layernorm.weight, config.rms_norm_eps).to(dtype)
        attention = layer.self_attn
        q = attention.q_proj(h).view(batch, total, heads, -1).transpose(1, 2)
        k = attention.k_proj(h).view(batch, total, kv_heads, -1).transpose(1, 2)
        v = attention.v_proj(h).view(batch, total, kv_heads, -1).transpose(1, 2)
        if hasattr(attention, "q_norm"):
            q = normalised_norm(q, attention.q_norm.weight.to(dtype), config.rms_norm_eps)
            k = normalised_norm(k, attention.k_norm.weight.to(dtype), config.rms_norm_eps)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (a.repeat_interleave(heads // kv_heads, 1) for a in (k, v))
        seen = attend(q[:, :, :before], k[:, :, :before], v[:, :, :before], prefix_mask)
        asked = _attend_blocks(q, k, v, before, count, block_mask)
        x = x + attention.o_proj(torch.cat([seen, asked], 2).transpose(1, 2).reshape(batch, total, -1))
        h = normalised_norm(x, layer.post_attention_layernorm.weight, config.rms_norm_eps).to(dtype)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        if number < len(levels):
            x = torch.cat([x[:, :before] + levels[number], x[:, before:]], 1)
        if tap is not None:
            tap.append(x)
    h = normalised_norm(x[:, before:], decoder.norm.weight, config.rms_norm_eps)
    return h.view(batch, count, length, -1)


def _attend_blocks(q: Tensor, k: Tensor, v: Tensor, before: int, count: int, mask: Tensor) -> Tensor:
    """Attention of each question to the prefix and to itself: q, k, v [B, H, P + N * Q, d] -> [B, H, N * Q, d]."""
    batch, heads, _, width = q.shape
    length = mask.shape[0]
    by_block = (batch, heads, count, length, width)
    asked, own_k, own_v = (a[:, :, before:].reshape(by_block) for a in (q, k, v))
    asked = asked * width**-0.5
    to_prefix = (asked.flatten(2, 3) @ k[:, :, :before].transpose(2, 3)).view(batch, heads, count, length, before)
    to_self = asked @ own_k.transpose(3, 4) + mask
    weights = torch.softmax(torch.cat([to_prefix, to_self], -1), -1)
    from_prefix = weights[..., :before].reshape(batch, heads, count * length, before) @ v[:, :, :before]
    return from_prefix + (weights[..., before:] @ own_v).flatten(2, 3)
