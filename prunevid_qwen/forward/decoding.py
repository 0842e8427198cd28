"""Calls that go on from a shortened cache: masks and positions have to fit what each of its layers really holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.masks import by_token, layer_mask
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.layer_kinds import mixed
from prunevid_qwen.forward.padding import grown
from prunevid_qwen.stage3_kv.cache import PrunedCache


@dataclass(frozen=True)
class Late:
    """What layers have to be given in a call that goes on, instead of what the decoder gives them.

    Args:
        spans: the first layer of each that is given something, in order, and what, by the names of its arguments.
        new: [B, q] bool, where the tokens of the call are no padding; None where none is told.
    """

    spans: tuple[tuple[int, dict[str, Any]], ...] = ()
    new: Tensor | None = None

    def given_to(self, adapter: Adapter, layer: int, hidden: Tensor) -> dict[str, Any]:
        """Say what a layer is given, whose input is ``hidden`` [B, q, D]; nothing where the decoder's will do."""
        given = dict(next((own for first, own in reversed(self.spans) if first <= layer), {}))
        if given:
            given["attention_mask"] = adapter.mask_of(layer, given["attention_mask"], self.new, hidden.device)
        return given


def mend(adapter: Adapter, kwargs: dict[str, Any], embeds: Tensor, cache: PrunedCache, cuts: Collection[int]) -> Late:
    """Put into a call of the decoder what its first layers have to be given for a decode step or a follow-up text.

    Args:
        adapter: of the model.
        kwargs: of the call.
        embeds: [B, q, D] of the new tokens.
        cache: what is gone on from; its own validity grows with the tokens.
        cuts: layers after which the plan under way has a step.

    Returns:
        What its layers have to be given instead.

    Raises:
        UnsupportedError: the cache was filled under another plan, whose layers nobody would give their masks.
    """
    config = adapter.parts.text_config
    came = by_token(kwargs.get("attention_mask"))
    masks = _masks(config, cache, embeds, came, cuts)
    kwargs["attention_mask"] = adapter.door_mask(masks[0][1])
    late: list[dict[str, Any]] = [{"attention_mask": mask} for _, mask in masks]
    positions = _positions(cache, embeds, kwargs.get("position_ids"))
    if positions:
        kwargs["position_ids"] = positions[0]
        for given, each in zip(late[1:], positions[1:], strict=True):
            given["position_embeddings"] = adapter.rope(embeds, each)
    every = tuple((first, given) for (first, _), given in zip(masks, late, strict=True))
    new = None if came is None else came[:, -embeds.shape[1] :].bool()
    return Late(every if mixed(adapter) else every[1:], new)


def _masks(
    config: Any, cache: PrunedCache, embeds: Tensor, mask: Tensor | None, cuts: Collection[int]
) -> list[tuple[int, Any]]:
    """For each span of the cache its first layer, and the mask of its layers as `layer_mask` makes it."""
    after = [span.first - 1 for span in cache.spans[1:]]
    if not set(after) <= set(cuts):
        raise UnsupportedError(
            f"this cache was pruned after layer {' and '.join(map(str, after))}, so its layers hold different tokens "
            "or positions: continue it under the config that filled it"
        )
    width = embeds.shape[1]
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


def _positions(cache: PrunedCache, embeds: Tensor, positions: Tensor | None) -> list[Tensor]:
    """Positions [B, q] of new tokens as the layers of each span count them; none where tokens kept theirs."""
    if any(span.moved is None for span in cache.spans):
        return []
    if positions is None:  # a call by hand, in which the decoder would count
        before = cache.get_seq_length()
        positions = torch.arange(before, before + embeds.shape[1], device=embeds.device)[None]
    moved = [span.moved for span in cache.spans if span.moved is not None]
    return [positions - each[:, None].to(positions.device) for each in moved]
