"""Calls that go on from a shortened cache: their masks have to fit what each of its layers really holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.batch import grown
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.masks import by_token, layer_mask
from prunevid_qwen.stage3_kv.cache import PrunedCache


def masks_of_spans(
    config: Any, cache: PrunedCache, embeds: Tensor, mask: Any, cuts: Collection[int]
) -> list[tuple[int, Any]]:
    """Make the masks of a decode step or a follow-up text; the cache's own validity grows with its tokens.

    Args:
        config: the decoder's config.
        cache: what is gone on from.
        embeds: [B, q, D] of the new tokens.
        mask: [B, tokens so far] as the caller counts them, or None.
        cuts: layers after which the plan under way has a step.

    Returns:
        For each span of the cache its first layer, and the mask of its layers as `layer_mask` makes it.

    Raises:
        UnsupportedError: the cache was filled under another plan, whose layers nobody would give their masks.
    """
    after = [span.first - 1 for span in cache.spans[1:]]
    if not set(after) <= set(cuts):
        raise UnsupportedError(
            f"this cache was pruned after layer {' and '.join(map(str, after))} without stage 3: continue it under the "
            "same config"
        )
    mask, width = by_token(mask), embeds.shape[1]
    new = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    since = 0
    if mask is not None:
        # tokens after the pruned prompt have one entry each; the caller may mask some, as padding between turns
        since = max(0, min(cache.get_seq_length() - cache.prompt, mask.shape[1] - width))
        new = mask[:, -(width + since) :].bool().to(embeds.device)
    held = [cache.physical_length(span.first) for span in cache.spans]
    valid = [grown(span.valid, n - since, new) for span, n in zip(cache.spans, held, strict=True)]
    cache.spans = tuple(replace(span, valid=own) for span, own in zip(cache.spans, valid, strict=True))
    return [(span.first, layer_mask(config, embeds, span.valid, n)) for span, n in zip(cache.spans, held, strict=True)]
