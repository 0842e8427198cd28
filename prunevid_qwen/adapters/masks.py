"""Attention masks: what one says of padding, and those of shortened sequences, by the library's own function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.seams import cache_parameter, taken
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.tokens.device import moved


def padding_in(mask: Any, batch: int, length: int) -> tuple[Tensor | None, str | None]:
    """Read off the mask that a decoder is given which entries are padding.

    Args:
        mask: [B, past + S]; a prepared [B or 1, 1, S, past + S], bool (True: seen) or float (0: seen, else the smallest
            number); a mapping with one of them under "full_attention"; or None.
        batch: B.
        length: S.

    Returns:
        [B, past + S], 0 or False on padding, or None where there is none. And None, or what the mask is where it says
        more than that: which row sees which column by no rule that holds for fewer tokens too.
    """
    if isinstance(mask, dict):
        if "full_attention" not in mask:
            return None, f"a mapping of {', '.join(map(str, mask)) or 'nothing'}"
        mask = mask["full_attention"]
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask, None
    if not isinstance(mask, Tensor):
        return None, type(mask).__name__
    what = f"{list(mask.shape)} of {mask.dtype}"
    if mask.ndim != 4 or mask.shape[0] not in (1, batch) or mask.shape[1:3] != (1, length) or mask.shape[3] < length:
        return None, what
    if mask.dtype != torch.bool and not mask.is_floating_point():
        return None, what
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    past = seen.shape[-1] - length
    valid = seen[:, -1]  # the last row sees all that is no padding
    causal = torch.ones_like(seen[0]).tril(past)
    plain = ((seen == (causal & valid[:, None])) | ~valid[:, past:, None]).all() & valid.any(-1).all()
    if mask.dtype != torch.bool:
        plain &= (seen | (mask[:, 0] <= torch.finfo(mask.dtype).min / 2)).all()
    if not bool(plain):
        return None, f"{what}, which is not causal with padding"
    return valid.expand(batch, -1), None


def by_token(mask: Any) -> Tensor | None:
    """Return the mask of a call that goes on from a pruned cache: [B, tokens so far], or None where all are seen.

    Raises:
        UnsupportedError: it was prepared for entries that the cache does not hold.
    """
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    raise UnsupportedError(
        "a prepared attention mask came with a pruned cache, which has fewer entries than the mask has columns: pass "
        "attention_mask [B, tokens so far], or no mask"
    )


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


def layer_mask(config: Any, hidden: Tensor, valid: Tensor | None, past: int) -> Any:
    """Make the causal mask of ``hidden`` against a layer that holds ``past`` entries.

    Args:
        config: the decoder's config, which names the attention implementation.
        hidden: [B, S, D], for its sizes, dtype and device.
        valid: [B, past + S] bool on any device, or None when nothing is padding (fast paths of sdpa and
            flash-attention stay open).
        past: entries held.

    Returns:
        What the library passes to its layers: 4-D float or bool, 2-D bool, or None.

    Raises:
        SetupError: the installed transformers makes masks from other arguments.
    """
    from transformers.masking_utils import create_causal_mask

    arguments = {
        "config": config,
        "inputs_embeds": hidden,
        "attention_mask": None if valid is None else moved(valid.long(), hidden.device),
        "position_ids": None,
        cache_parameter(create_causal_mask): _Held(past),
    }
    taken(create_causal_mask, "create_causal_mask", *arguments)
    return create_causal_mask(**arguments)
