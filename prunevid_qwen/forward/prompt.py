"""Reading a prompt on the host: what each of its tokens is, before any work is queued for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.masks import padding_in
from prunevid_qwen.adapters.picture_grids import Pictures
from prunevid_qwen.adapters.seams import cache_name, cache_of, require_arguments
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.padding import on_host
from prunevid_qwen.tokens import TokenLayout


@dataclass(frozen=True, eq=False)
class VisualPrompt:
    """One block of token ids with visual tokens, all of it on the CPU.

    Args:
        layouts: for each row what its tokens are, without padding; None for a text.
        lengths: for each row its tokens, without padding.
        valid: [B, S] bool, False on padding.
        past_valid: [B, past] bool of the entries that the cache held before, None when all are valid.
        fixed: why no token may be dropped or merged; None where they may.
    """

    layouts: tuple[TokenLayout | None, ...]
    lengths: tuple[int, ...]
    valid: Tensor
    past_valid: Tensor | None
    fixed: str | None = None


class HostCopy(NamedTuple):
    """What the host has to know of a prompt, on the CPU.

    Args:
        ids: [B, S] token ids of this forward.
        positions: [3, B, S] ids of time, height and width, or [4, B, S], with a text row before them; [1, B, S] where a
            family counts tokens; None where the decoder got none that can be read.
        mask: [B, past + S], 0 on padding; None where there is none.
        whole: [b, S'] ids that positions were last made for; B is a multiple of b under beams.
        odd: what the attention mask is, where it says more than that.
    """

    ids: Tensor
    positions: Tensor | None
    mask: Tensor | None
    whole: Tensor | None
    odd: str | None


def embeddings(kwargs: dict[str, Any], by_root: bool, named: Sequence[str]) -> Tensor:
    """Return the embeddings [B, S, D] of a call of the decoder.

    Args:
        kwargs: what it was called with.
        named: arguments that the model itself names in every call.
        by_root: the model itself calls it, and names every argument; a caller of its own may leave some out.

    Raises:
        SetupError: the installed transformers names an argument otherwise.
        UnsupportedError: a caller of its own passes token ids.
    """
    if by_root:
        require_arguments(kwargs, "the decoder's call", *named)
        cache_name(kwargs)
    embeds: Tensor | None = kwargs.get("inputs_embeds")
    if embeds is None:
        raise UnsupportedError(
            "the decoder was called without inputs_embeds: call the whole model with input_ids, or pass "
            "inputs_embeds=model.get_input_embeddings()(input_ids)"
        )
    return embeds


def fetch(adapter: Adapter, ids: Tensor, kwargs: dict[str, Any], whole: Tensor | None) -> HostCopy:
    """Copy a prompt to the host, which waits for the device here, once, for all that it needs to know.

    Positions of one row are written into ``kwargs`` for every row, and so are those that a decoder would count itself.
    """
    positions = (_places if adapter.spatial else _counted)(ids, kwargs)
    flat, odd = padding_in(kwargs.get("attention_mask"), *ids.shape)
    there = on_host(ids, positions, flat, whole)
    return HostCopy(*there, odd)  # type: ignore[call-arg]  # mypy takes a list for one of any length


def _places(ids: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
    positions = kwargs.get("position_ids")
    if not (isinstance(positions, Tensor) and positions.ndim == 3 and len(positions) in (3, 4)):
        return None
    if positions.shape[1] == 1 < len(ids):  # of one row, for all: as the rotary embedding takes them
        positions = kwargs["position_ids"] = positions.expand(-1, len(ids), -1)
    return positions


def _counted(ids: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
    positions = kwargs.get("position_ids")
    if positions is None:  # as the decoder would
        cache = cache_of(kwargs)
        start = 0 if cache is None else int(cache.get_seq_length())
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
    if not (isinstance(positions, Tensor) and positions.ndim == 2 and positions.shape[1] == ids.shape[1]):
        return None
    kwargs["position_ids"] = positions = positions.expand(len(ids), -1)
    return positions[None]


def read_prompt(
    adapter: Adapter, copy: HostCopy, kwargs: dict[str, Any], past: int, for_an_answer: bool, pictures: Pictures,
    framed: bool = False,
) -> VisualPrompt:  # fmt: skip
    """Say what every token of a prompt is.

    Args:
        adapter: of the model.
        copy: of the prompt.
        kwargs: what the decoder was given.
        past: entries in the cache.
        for_an_answer: the logits of the last tokens are asked for, to go on from them.
        pictures: that were noted for it.
        framed: the layouts say which text belongs to which frame of a video.

    Raises:
        UnsupportedError: no positions, padding on the right of what an answer goes on from, a prompt in pieces, or
            pictures of other prompts.
        ConfigError: no question after the last visual token, or positions that are no raster.
    """
    ids, positions, flat, whole, _ = copy
    if positions is None:
        raise UnsupportedError(adapter.no_positions(kwargs.get("position_ids")))
    length = ids.shape[1]
    end = _prompt_end(ids, past, whole)
    valid = torch.ones_like(ids, dtype=torch.bool) if flat is None else flat[:, -length:].bool()
    if for_an_answer and not bool(valid[:, -1].all()):
        raise UnsupportedError(
            "the batch is padded on the right, and the answer would continue a padding token: pad on the left "
            "(tokenizer.padding_side = 'left'). A forward of your own may be padded on the right without "
            "logits_to_keep"
        )
    at = [own.nonzero()[:, 0] for own in valid]
    ends = [int((own < end).sum()) for own in at]
    rows = [row[own] for row, own in zip(ids, at, strict=True)]
    shown = pictures.deal([adapter.types(row[:stop]) for row, stop in zip(rows, ends, strict=True)])
    layouts = [
        adapter.layout(row, places[:, own], stop, seen)
        for row, own, stop, seen, places in zip(rows, at, ends, shown, positions[-3:].unbind(1), strict=True)
    ]
    if framed:
        layouts = [own and adapter.framed(own, row) for own, row in zip(layouts, rows, strict=True)]
    lengths = [row.numel() for row in rows]
    past_valid = flat[:, :past].bool() if past and flat is not None and flat.shape[1] >= past + length else None
    return VisualPrompt(tuple(layouts), tuple(lengths), valid, past_valid, _fixed(copy, kwargs))


def _fixed(copy: HostCopy, kwargs: dict[str, Any]) -> str | None:
    if copy.odd is not None:
        return (
            f"tokens would be dropped, and the attention mask came as {copy.odd}. For fewer tokens pruning can make a "
            "causal mask with padding alone: pass attention_mask [B, S], or a mask made of it, [B, 1, S, S]"
        )
    if copy.positions is not None and len(copy.positions) != 3 and kwargs.get("attention_mask") is None:
        steps = copy.positions[0].diff(dim=-1)
        if bool((steps != 1).any()):
            if getattr(cache_of(kwargs), "lent", False):  # the library looks for such rows where there is no cache
                raise UnsupportedError(
                    "with use_cache=False the text positions (the first row of position_ids) start again or have gaps. "
                    "transformers reads such a row as several prompts, pruning as one: pass each prompt as a row of "
                    "its own, with attention_mask"
                )
            return (
                "the text positions (the first row of position_ids) start again or have gaps, as for several prompts "
                "packed into one row, which pruning does not support. "
                "Pass each prompt as a row of its own, with attention_mask"
            )
    return None


def still_to_come(whole: Tensor | None, cache: Any, embeds: Tensor) -> Tensor | None:
    """Return the prompt [b, S'] that was told last, or None once a call without pixels has read it to its end.

    The next prompt may begin as it did, and is not told where the model is called without `generate`.
    """
    past = 0 if cache is None else int(cache.get_seq_length())
    return None if whole is None or past + embeds.shape[1] >= whole.shape[1] else whole


def _prompt_end(ids: Tensor, past: int, whole: Tensor | None) -> int:
    """Where in this block the prompt ends: in assisted decoding candidate tokens follow it."""
    length = ids.shape[1]
    if whole is None or ids.shape[0] % whole.shape[0]:
        return length
    whole = whole.repeat_interleave(ids.shape[0] // whole.shape[0], dim=0)
    if past and torch.equal(whole, ids[:, : whole.shape[1]]):
        raise UnsupportedError(
            "the whole prompt came again, but the cache holds its beginning already (assisted decoding in transformers "
            "does this, and is then wrong without pruning too): start without a cache"
        )
    prompt = whole[:, past:]
    shared = min(prompt.shape[1], length)
    if not torch.equal(prompt[:, :shared], ids[:, :shared]):
        return length
    if prompt.shape[1] > length:
        raise UnsupportedError(
            f"the prompt has {prompt.shape[1]} tokens and came in pieces of {length}. Chunked prefill is not "
            "supported, because stage 2 needs the question and the video together: unset prefill_chunk_size"
        )
    return prompt.shape[1]
