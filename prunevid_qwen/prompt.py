"""Reading a prompt on the host: what each of its tokens is, before any work is queued for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.batch import on_host
from prunevid_qwen.errors import PruningNotApplied, UnsupportedError
from prunevid_qwen.seams import CACHE_NAMES, cache_name, is_empty, missing_seam, require
from prunevid_qwen.tokens import TokenLayout

# Arguments of the root that a text brings too.
_OF_A_TEXT = frozenset(
    (
        "input_ids",
        "inputs_embeds",
        "attention_mask",
        "position_ids",
        "mm_token_type_ids",
        "cache_position",
        "rope_deltas",
    )
) | {*CACHE_NAMES}


@dataclass(frozen=True, eq=False)
class Prompt:
    """One block of token ids with visual tokens, all of it on the CPU.

    Args:
        layouts: for each row what its tokens are, without padding; None for a text.
        lengths: for each row its tokens, without padding.
        valid: [B, S] bool, False on padding.
        past_valid: [B, past] bool of the entries that the cache held before, None when all are valid.
    """

    layouts: tuple[TokenLayout | None, ...]
    lengths: tuple[int, ...]
    valid: Tensor
    past_valid: Tensor | None


class HostCopy(NamedTuple):
    """What the host has to know of a prompt, on the CPU.

    Args:
        ids: [B, S] token ids of this forward.
        positions: [3, B, S] ids of time, height and width; None where the decoder got none.
        mask: [B, past + S]; None where there is none, or a prepared one.
        whole: [b, S'] ids that positions were last made for; B is a multiple of b under beams.
    """

    ids: Tensor
    positions: Tensor | None
    mask: Tensor | None
    whole: Tensor | None


def check_shown(kwargs: dict[str, Any], ids: Tensor | None, media: bool, follows: bool, whole: Tensor | None) -> None:
    """Make sure that what a call of the root shows came with token ids and pixels.

    Args:
        kwargs: what it was called with.
        ids: [B, S] token ids, or None.
        media: pixels came along, or what was encoded of them.
        follows: the cache holds a pruned prompt.
        whole: [b, S'] ids that positions were last made for.

    Raises:
        UnsupportedError: one of them is missing.
        SetupError: the installed transformers gives token ids another name.
    """
    # asked last, since it waits for the device
    spread = not (media or (follows and ids is not None)) and spreads(kwargs.get("position_ids"))
    if (media or spread) and ids is None:
        if kwargs.get("inputs_embeds") is None:
            raise missing_seam("the model's call", "input_ids", kwargs)
        shown = "pixels" if media else "(t, h, w) positions of images or videos"
        raise UnsupportedError(
            f"inputs_embeds came with {shown}: pruning has to know which tokens are visual, and only their ids tell. "
            "Pass input_ids, not inputs_embeds"
        )
    if spread and not follows and ids is not None:
        if whole is not None and ids.shape[1] < whole.shape[1]:
            raise UnsupportedError(
                f"a prompt of {whole.shape[1]} tokens arrives in pieces, {ids.shape[1]} of them without pixels, as "
                "under chunked prefill in some releases of transformers (which then answer blindly): chunked prefill "
                "is not supported. Unset prefill_chunk_size"
            )
        raise UnsupportedError(
            "a prompt with images or videos came without their pixels, and would be answered blindly. A model that is "
            "its own assistant is shown none by transformers: pass another object as assistant_model (it may be a "
            "copy, which is not pruned), or leave it out. In any other call pass the pixels"
        )


def embeddings(kwargs: dict[str, Any], by_root: bool) -> Tensor:
    """Return the embeddings [B, S, D] of a call of the decoder.

    Args:
        kwargs: what it was called with.
        by_root: the model itself calls it, and names every argument; a caller of its own may leave some out.

    Raises:
        SetupError: the installed transformers names an argument otherwise.
        UnsupportedError: a caller of its own passes token ids.
    """
    if by_root:
        require(kwargs, "the decoder's call", "inputs_embeds", "position_ids", "attention_mask", "use_cache")
        cache_name(kwargs)
    embeds: Tensor | None = kwargs.get("inputs_embeds")
    if embeds is None:
        raise UnsupportedError(
            "the decoder is called without inputs_embeds: call the model itself with input_ids, or pass "
            "inputs_embeds=model.get_input_embeddings()(input_ids)"
        )
    return embeds


def fetch(ids: Tensor, kwargs: dict[str, Any], whole: Tensor | None) -> HostCopy:
    """Copy a prompt to the host, which waits for the device here, once, for all that it needs to know."""
    positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    spatial = positions[-3:] if isinstance(positions, Tensor) and positions.ndim == 3 else None
    flat = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
    return HostCopy(*on_host(ids, spatial if spatial is not None and len(spatial) == 3 else None, flat, whole))


def read_prompt(adapter: Adapter, copy: HostCopy, kwargs: dict[str, Any], past: int) -> Prompt:
    """Say what every token of a prompt is.

    Args:
        adapter: of the model.
        copy: of the prompt.
        kwargs: what the decoder was given.
        past: entries in the cache.

    Raises:
        UnsupportedError: prepared masks, padding on the right, or a prompt in pieces.
        ConfigError: no question after the last visual token, or positions that are no raster.
    """
    ids, spatial, flat, whole = copy
    if spatial is None:
        raise UnsupportedError(
            "the decoder got no (t, h, w) positions: pass mm_token_type_ids and the grids. After a cached prefix "
            "transformers before 5.18 goes on counting from an earlier prompt: set model.model.rope_deltas = None first"
        )
    if kwargs.get("attention_mask") is not None and flat is None:
        raise UnsupportedError("pruning needs the two-dimensional attention mask, got a prepared one")
    length = ids.shape[1]
    end = _prompt_end(ids, past, whole)
    valid = torch.ones_like(ids, dtype=torch.bool) if flat is None else flat[:, -length:].bool()
    if not bool(valid[:, -1].all()):
        raise UnsupportedError(
            "padding on the right: the answer would go on from a padding token. Pad on the left "
            "(tokenizer.padding_side = 'left')"
        )
    layouts, lengths = [], []
    for row, own, places in zip(ids, valid, spatial.unbind(1), strict=True):
        at = own.nonzero()[:, 0]
        layouts.append(adapter.layout(row[at], places[:, at], int((at < end).sum())))
        lengths.append(at.numel())
    past_valid = flat[:, :past].bool() if past and flat is not None and flat.shape[1] >= past + length else None
    return Prompt(tuple(layouts), tuple(lengths), valid, past_valid)


def _prompt_end(ids: Tensor, past: int, whole: Tensor | None) -> int:
    """Where in this block the prompt ends: in assisted decoding candidate tokens follow it."""
    length = ids.shape[1]
    if whole is None or ids.shape[0] % whole.shape[0]:
        return length
    whole = whole.repeat_interleave(ids.shape[0] // whole.shape[0], dim=0)
    if past and torch.equal(whole, ids[:, : whole.shape[1]]):
        raise UnsupportedError(
            "the whole prompt arrives again although the cache holds its beginning, as assisted decoding in "
            "transformers does (which is then wrong without pruning too): start without a cache"
        )
    prompt = whole[:, past:]
    shared = min(prompt.shape[1], length)
    if not torch.equal(prompt[:, :shared], ids[:, :shared]):
        return length
    if prompt.shape[1] > length:
        raise UnsupportedError(
            f"the prompt has {prompt.shape[1]} tokens and arrives in pieces of {length}: chunked prefill is not "
            "supported, since stage 2 has to see question and video together. Unset prefill_chunk_size"
        )
    return prompt.shape[1]


def may_show(kwargs: dict[str, Any]) -> bool:
    """Tell whether a call of the root without known pixels brings more than a text: grids, or a name nobody knows.

    Where it brings none, a placeholder among its token ids is text, as one that was generated.
    """
    return any(
        not is_empty(value) and name not in _OF_A_TEXT and not isinstance(value, (bool, int, float, str))
        for name, value in kwargs.items()
    )


def check_text(adapter: Adapter, ids: Tensor | None, positions: Tensor | None) -> None:
    """Make sure that what came without pixels is a text: the host waits for the device here.

    Args:
        adapter: of the model.
        ids: [B, S] token ids of a whole prompt; None where only positions can tell: behind a cached prefix, and in what
            brings nothing but text (`may_show`).
        positions: [3 or 4, B, S] ids that the decoder was given, or None.

    Raises:
        PruningNotApplied: it holds visual tokens, so a hook has missed their pixels.
    """
    if (ids is not None and bool((adapter.types(ids) > 0).any())) or spreads(positions):
        raise PruningNotApplied(
            "the prompt holds visual tokens, but the model was given no pixels under a name that pruning knows "
            f"({', '.join(adapter.media)}), or its forward was replaced: nothing was pruned. Pass the pixels to the "
            "model itself, and see whether the installed transformers is a tested one"
        )


def spreads(positions: Tensor | None) -> bool:
    """Tell whether (t, h, w) ids differ from each other anywhere: then some tokens are visual."""
    return positions is not None and positions.ndim == 3 and bool((positions[-3:] != positions[-1:]).any())
