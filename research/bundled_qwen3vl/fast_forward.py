"""The second toy's vision tower written for training speed on a CPU: all frames in one batch."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from research.bundled_model.fast_forward import attend, centered, patch_embedding, rotate, vision_angles

PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)


def vision_features(visual: Any, patches: Tensor, height: int, width: int) -> list[Tensor]:
    """Run the vision tower on every temporal patch by itself.

    Args:
        visual: the library's vision tower.
        patches: [N, height * width, 1176] uint8 from ``patchify``.
        height: patches down a frame.
        width: patches across a frame.

    Returns: the visual tokens, then the levels of DeepStack in their order; [N, height * width / 4, D] float32 each.
    """
    cos, sin = vision_angles(visual, height, width)
    count, tokens, _ = patches.shape
    weight, bias = patch_embedding(visual.patch_embed.proj.weight, PIXEL_MEAN, PIXEL_STD)
    x = F.linear(centered(patches, weight), weight, bias + visual.patch_embed.proj.bias).float()
    x = x + _positions(visual, height, width)
    levels = []
    for number, block in enumerate(visual.blocks):
        h = _norm(block.norm1, x)
        qkv = F.linear(h, block.attn.qkv.weight, block.attn.qkv.bias)
        q, k, v = qkv.view(count, tokens, 3, visual.config.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rotate(k, cos.to(q.dtype), sin.to(q.dtype))
        x = x + block.attn.proj(attend(q, k, v).transpose(1, 2).reshape(count, tokens, -1))
        h = block.mlp.linear_fc1(_norm(block.norm2, x))
        x = x + block.mlp.linear_fc2(F.gelu(h, approximate="tanh"))
        if number in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
            levels.append(_merged(merger, _norm(merger.norm, x.view(count, tokens // 4, -1))))
    main = visual.merger
    return [_merged(main, _norm(main.norm, x).view(count, tokens // 4, -1)), *levels]


def _merged(merger: Any, x: Tensor) -> Tensor:
    return merger.linear_fc2(F.gelu(merger.linear_fc1(x))).float()


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _positions(visual: Any, height: int, width: int) -> Tensor:
    """Learnt positions [height * width, D] of a grid, patches in merge order."""
    side = visual.num_grid_per_side
    grid = visual.pos_embed.weight.view(1, side, side, -1).permute(0, 3, 1, 2)
    if (height, width) != (side, side):
        grid = F.interpolate(grid, (height, width), mode="bilinear", align_corners=True)
    grid = grid[0].view(-1, height // 2, 2, width // 2, 2).permute(1, 3, 2, 4, 0)
    return grid.reshape(height * width, -1)
