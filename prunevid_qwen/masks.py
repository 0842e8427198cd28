"""Attention masks of shortened sequences, made by the library's own function for the length a layer really has."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunevid_qwen.seams import cache_parameter, taken
from prunevid_qwen.tokens.device import on


class _Held:
    """Stands in for a cache when the library sizes a mask: every layer holds ``past`` entries."""

    is_compileable = False
    is_sliding = (False,)

    def __init__(self, past: int) -> None:
        self.past = past

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.past + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.past

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.past


def layer_mask(config: Any, hidden: Tensor, valid: Tensor | None, past: int) -> dict[str, Any]:
    """Make the causal mask of ``hidden`` against a layer that holds ``past`` entries.

    Args:
        config: the decoder's config, which names the attention implementation.
        hidden: [B, S, D], for its sizes, dtype and device.
        valid: [B, past + S] bool on any device, or None when nothing is padding (fast paths of sdpa and
            flash-attention stay open).
        past: entries held.

    Returns:
        What the library passes to its layers (4-D float or bool, 2-D bool, or None), as the finished mapping that the
        decoder takes as it is.

    Raises:
        SetupError: the installed transformers makes masks from other arguments.
    """
    from transformers.masking_utils import create_causal_mask

    arguments = {
        "config": config,
        "inputs_embeds": hidden,
        "attention_mask": None if valid is None else on(valid.long(), hidden.device),
        "position_ids": None,
        cache_parameter(create_causal_mask): _Held(past),
    }
    taken(create_causal_mask, "create_causal_mask", *arguments)
    return {"full_attention": create_causal_mask(**arguments)}
