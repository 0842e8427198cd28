"""Checks that what a call of the model shows came with its pixels, and that its positions can be counted."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.seams import CACHE_NAMES, cache_of, is_empty, missing_seam
from prunevid_qwen.errors import PruningNotApplied, UnsupportedError

# Arguments of every family's root that a text brings too.
_OF_A_TEXT = frozenset(("input_ids", "inputs_embeds", "attention_mask", "position_ids", "cache_position", *CACHE_NAMES))


def check_shown(
    adapter: Adapter, kwargs: dict[str, Any], ids: Tensor | None, media: bool, follows: bool, whole: Tensor | None
) -> None:
    """Make sure that what a call of the root shows came with token ids and pixels.

    Args:
        adapter: of the model.
        kwargs: what it was called with.
        ids: [B, S] token ids, or None.
        media: pixels came along, or what was encoded of them.
        follows: the cache holds a pruned prompt.
        whole: [b, S'] ids that positions were last made for.

    Raises:
        UnsupportedError: one of them is missing.
        SetupError: the installed transformers gives token ids another name.
    """
    if media or (follows and ids is not None):
        blind = False
    elif adapter.spatial:  # asked last, since it waits for the device
        blind = spreads(kwargs.get("position_ids"))
    elif ids is None:  # positions that count tokens are those of a text, whatever it shows
        blind = _begins_by_embeddings(kwargs)
    else:  # pixels under a name that nobody knows are for `check_text`
        blind = not may_show(adapter, kwargs) and _holds_placeholders(adapter, kwargs, ids, whole)
    if (media or blind) and ids is None:
        if kwargs.get("inputs_embeds") is None:
            raise missing_seam("the model's call", "input_ids", kwargs)
        shown = (
            "(t, h, w) positions of images or videos" if adapter.spatial else "nothing that tells a text from images"
        )
        shown = "pixels" if media else shown
        raise UnsupportedError(
            f"inputs_embeds came with {shown}, but pruning finds the visual tokens by their ids: pass input_ids, not "
            "inputs_embeds"
        )
    if blind and not follows and ids is not None:
        if whole is not None and ids.shape[1] < whole.shape[1]:
            raise UnsupportedError(
                f"a prompt of {whole.shape[1]} tokens came in pieces, {ids.shape[1]} tokens of it without pixels. "
                "Chunked prefill is not supported (some releases of transformers lose the pixels under it): unset "
                "prefill_chunk_size"
            )
        raise UnsupportedError(
            "a prompt with images or videos came without their pixels: pass the pixels. If this model is its own "
            "assistant_model, transformers gives the assistant no pixels: pass another object (a copy will do, and is "
            "not pruned), or leave assistant_model out"
        )


def _begins_by_embeddings(kwargs: dict[str, Any]) -> bool:
    """Tell whether embeddings came that may show something: of more than the one token of a decode step."""
    embeds = kwargs.get("inputs_embeds")
    return isinstance(embeds, Tensor) and embeds.shape[1] > 1


def _holds_placeholders(adapter: Adapter, kwargs: dict[str, Any], ids: Tensor, whole: Tensor | None) -> bool:
    """Tell whether a call without pixels begins a prompt with visual tokens, or is a piece of one.

    What goes on from a text may hold placeholders that were generated.
    """
    if ids.shape[1] == 1:
        return False
    cache = cache_of(kwargs)
    told = ids if cache is None or not cache.get_seq_length() else whole
    return told is not None and all(bool((adapter.types(each) > 0).any()) for each in (told, ids))


def check_countable(mask: Any) -> None:
    """Make sure that positions can be counted: the library's own counting takes no other mask either.

    Raises:
        UnsupportedError: the attention mask is not two-dimensional.
    """
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        what = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UnsupportedError(
            f"the attention mask is {what}, but positions are counted from a mask of two dimensions: pass "
            "attention_mask [B, S], or pass position_ids [3, B, S] too"
        )


def may_show(adapter: Adapter, kwargs: dict[str, Any]) -> bool:
    """Tell whether a call of the root without known pixels brings more than a text: grids, or a name nobody knows.

    Where it brings none, a placeholder among its token ids is text, as one that was generated.
    """
    known = _OF_A_TEXT.union(adapter.text_arguments)
    return any(
        not is_empty(value) and name not in known and not isinstance(value, (bool, int, float, str))
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
