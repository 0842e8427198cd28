"""Attention in which what is not encoded lends the keys and values of its last encoded state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.vision_blocks import rotated
from prunevid_qwen.vision.unit_rows import AttentionCalls

Lent = tuple[Tensor, Tensor]
"""Keys, after rotary embedding, and values of patches, each [rows, H, d]."""


def lent_attention(
    attn: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], batches: AttentionCalls, carried: Lent | None
) -> tuple[Tensor, Lent]:
    """Run a block's attention on some of its rows.

    The number of keys is that of a whole window or position, so that none has to be masked, and queries may be padded.

    Args:
        attn: the module; its own projections are called.
        hidden: [rows, C] states of the patches of encoded units.
        rope: cosines and sines, each [rows, d].
        batches: who attends to whom.
        carried: keys and values of earlier positions, which stand ahead of these in the pool.

    Returns:
        [rows, C] what the module's own forward would return for these rows; and the pool of keys and values.
    """
    queries, keys, values = _projected(attn, hidden)
    queries, keys = (rotated(x, *rope) for x in (queries, keys))
    if carried is not None:
        keys, values = (torch.cat([own, x]) for own, x in zip(carried, (keys, values), strict=True))
    made = []
    for part in batches.parts:
        q, k, v = (x[at].transpose(1, 2) for x, at in ((queries, part.queries), (keys, part.keys), (values, part.keys)))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=float(attn.scaling))
        made.append(out.transpose(1, 2).flatten(0, 1))
    out = torch.cat(made)[batches.place] if made else queries
    return attn.proj(out.flatten(1)), (keys, values)


def keys_and_values(attn: Any, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> Lent:
    """Make the keys and values of some rows [rows, C] alone."""
    _, keys, values = _projected(attn, hidden)
    return rotated(keys, *rope), values


def _projected(attn: Any, hidden: Tensor) -> tuple[Tensor, ...]:
    made = attn.qkv(hidden)  # of no row, too
    return made.view(len(made), 3, attn.num_heads, made.shape[-1] // (3 * attn.num_heads)).unbind(1)  # [rows, H, d]
