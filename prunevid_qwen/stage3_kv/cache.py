"""PrunedCache: a DynamicCache with fewer entries than the sequence has tokens (PruneVid, arXiv 2412.16117, sec. 3.4).

`generate()` slices token ids, positions and masks with the cache's *logical* length (tokens of the prompt and after);
attention masks have to be sized with its *physical* length (entries that are really there). A stock cache knows one
number for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from prunevid_qwen.errors import PruningNotApplied, UnsupportedError
from prunevid_qwen.kernels.cache_compaction import batches, compact
from prunevid_qwen.tokens.device import moved
from prunevid_qwen.tokens.trace import Trace


@dataclass(frozen=True)
class CacheSpan:
    """Consecutive layers of a cache that hold the same tokens.

    Args:
        first: of these layers; they end where the next span begins.
        shift: tokens of the sequence so far minus entries of each of these layers.
        valid: [B, physical] bool, False where a slot is padding; None where none is.
        moved: [B] int64, by how much the positions of tokens after the prompt are lower than the sequence counts them,
            where positions were packed; None where tokens kept theirs.
    """

    first: int = 0
    shift: int = 0
    valid: Tensor | None = None
    moved: Tensor | None = None

    def rows(self, change: Callable[[Tensor], Tensor]) -> CacheSpan:
        """Return this span with its rows repeated, chosen or reordered."""
        valid, moved = (None if x is None else change(x) for x in (self.valid, self.moved))
        return replace(self, valid=valid, moved=moved)


class PrunedCache(DynamicCache):
    """A DynamicCache whose layers may be shorter than the sequence, each span of them in its own way.

    There is one span when stage 3 ran, unless positions were packed. Made by `adopt`, filled by the hooks; a user only
    passes it on.
    """

    spans: tuple[CacheSpan, ...] = (CacheSpan(),)  # the first begins at layer 0
    changed: bool = False  # a token was dropped or merged in some row; shift may still be 0 in the longest row
    prompt: int = 0  # logical length up to the end of the pruned prompt: tokens after it have an entry each
    lent: bool = False  # to a call that wants none: it ends with that call
    trace: Trace | None = None  # of the `pruned` block whose forward is under way

    def span_of(self, layer_idx: int) -> CacheSpan:
        """Return the span that a layer belongs to."""
        return next(span for span in reversed(self.spans) if span.first <= layer_idx)

    def physical_length(self, layer_idx: int = 0) -> int:
        """Entries that layer ``layer_idx`` really holds; of one without keys, what it would hold."""
        keyed = self._keyed(layer_idx)
        if keyed is None:
            return self.get_seq_length() - self.span_of(layer_idx).shift
        return int(DynamicCache.get_seq_length(self, keyed))

    def _keyed(self, layer_idx: int = 0) -> int | None:
        """Return the first layer from ``layer_idx`` on that holds keys: one of linear attention holds none."""
        layers = range(layer_idx, len(self.layers))
        return next((i for i in layers if isinstance(self.layers[i], DynamicLayer)), None if layers else layer_idx)

    def get_seq_length(self, layer_idx: int = 0, *args: Any, **kwargs: Any) -> int:
        """Tokens of the sequence so far, pruned ones included: what token ids and positions are sliced with."""
        held = int(super().get_seq_length(layer_idx, *args, **kwargs))
        return held + self.span_of(layer_idx).shift if held else 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values; refused outside `pruned`, where nothing would mend masks and positions."""
        if self.trace is None and self.changed:
            raise UnsupportedError(
                "this cache holds a pruned prompt, and the model is being run outside `with pruned(model, config)`: "
                "its masks would silently be wrong. Continue inside the context, or start without this cache"
            )
        if self.trace is not None and not self.trace.is_open:
            raise UnsupportedError(
                "`with pruned(model, config)` was left while another thread was inside a call of the model, whose "
                "tokens are pruned in part: wait for its threads before you leave the context"
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def written(self, layer_idx: int, length: int) -> Tensor:
        """Return the keys of a layer that has just run, [B, Hkv, length, d].

        Raises:
            PruningNotApplied: the layer did not write its ``length`` entries here: it was given another cache, or none.
        """
        keys = getattr(self.layers[layer_idx], "keys", None) if layer_idx < len(self.layers) else None
        held = 0 if keys is None or not keys.numel() else keys.shape[-2]
        if keys is None or held != length:
            raise PruningNotApplied(
                f"layer {layer_idx} should have filled its cache with {length} entries, but that holds {held}, so "
                "pruning cannot go on: the installed transformers hands its layers another cache, or somebody's hooks "
                "keep them from it. Install a tested release, or take the hooks away"
            )
        return keys  # type: ignore[no-any-return]

    def beside(self, rows: Tensor | None) -> Tensor | None:
        """Return what is known of the rows, [B, ...] or None, where the first layer's entries are."""
        return None if rows is None else moved(rows, self.layers[self._keyed() or 0].keys.device)

    def keep(self, layers: range, index: Tensor, past: int) -> None:
        """Select rows of the newest entries of some layers.

        Args:
            layers: which layers; those without keys stay.
            index: [B, K] int64 into the entries after the first ``past``; padding slots may point anywhere.
            past: entries before this prompt, which stay.
        """
        keyed = [self.layers[i] for i in layers if isinstance(self.layers[i], DynamicLayer)]
        places = [(layer, name) for layer in keyed for name in ("keys", "values")]
        for device in dict.fromkeys(getattr(layer, name).device for layer, name in places):
            here = [(layer, name) for layer, name in places if getattr(layer, name).device == device]
            at, held = index.to(device), [getattr(layer, name) for layer, name in here]
            cuts = list(batches(held, past + index.shape[1]))
            del held  # the old memory goes batch by batch
            for cut in cuts:
                new = compact([getattr(layer, name) for layer, name in here[cut]], at, past)
                for (layer, name), tensor in zip(here[cut], new, strict=True):
                    setattr(layer, name, tensor)

    def crop(self, max_length: int) -> None:
        """Take back the newest tokens (assisted decoding): a negative count, or the logical length to crop to."""
        drop = max_length if max_length <= 0 else max_length - self.get_seq_length()
        if drop >= 0:
            return
        if any(isinstance(layer, LinearAttentionLayer) for layer in self.layers):
            raise UnsupportedError(
                "the states of linear attention hold every token so far, and none can be taken back: generate without "
                "an assistant or prompt lookup, and start without this cache"
            )
        for layer in self.layers:
            if getattr(layer, "keys", None) is not None and layer.keys.numel():
                layer.keys, layer.values = layer.keys[..., :drop, :], layer.values[..., :drop, :]
        self.spans = tuple(
            span if span.valid is None else replace(span, valid=span.valid[:, :drop]) for span in self.spans
        )
        self.prompt = min(self.prompt, self.get_seq_length())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, as beam search does."""
        super().reorder_cache(beam_idx)
        self._map_rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        self._map_rows(lambda rows: rows.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._map_rows(lambda rows: rows[indices.to(rows.device)])

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        for layer in self.layers:  # before 5.18 the library zeroes the entries and keeps their number
            if isinstance(layer, DynamicLayer):
                layer.keys = layer.values = None
                layer.is_initialized = False
        self.spans, self.changed, self.prompt = (CacheSpan(),), False, 0

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.spans = tuple(span.rows(change) for span in self.spans)


def size_of(cache: Any) -> tuple[tuple[int, ...], int]:
    """Return the entries that each layer of any cache holds, and the bytes of all its keys and values."""
    held = [[getattr(layer, name, None) for name in ("keys", "values")] for layer in getattr(cache, "layers", ())]
    tensors = [t for pair in held for t in pair if t is not None]
    lengths = tuple(0 if keys is None or not keys.numel() else keys.shape[-2] for keys, _ in held)
    return lengths, sum(t.numel() * t.element_size() for t in tensors)


def forget_unfilled(model: Any) -> None:
    """Take a static cache off a model that was refused before anything was written into it.

    The library makes it and keeps it on the model; up to 5.10 its own next call fails over one that is not filled.
    """
    layers = getattr(vars(model).get("_cache"), "layers", ())
    if layers and not any(getattr(layer, "is_initialized", True) for layer in layers):
        del model._cache


def without(out: Any, cache: PrunedCache) -> Any:
    """Return a decoder's output, a tuple or a mapping, without the cache that stands in it."""
    if isinstance(out, tuple):
        return tuple(each for each in out if each is not cache)
    return type(out)(**{name: each for name, each in out.items() if each is not cache})


def adopt(cache: Cache) -> PrunedCache:
    """Turn a caller's DynamicCache into a PrunedCache in place, so that the caller keeps its own object.

    Raises:
        UnsupportedError: the cache is static, quantised, sliding or offloaded, or holds a pruned prompt.
    """
    if isinstance(cache, PrunedCache):
        if cache.changed:
            raise UnsupportedError(
                "a second prompt with images or videos on a pruned cache is not supported: start without "
                "a cache and pass the whole conversation"
            )
        return cache
    what = type(cache).__name__
    if type(cache) is not DynamicCache:
        raise UnsupportedError(
            f"pruning shortens the cache while it is filled, which needs transformers' DynamicCache; got {what}. "
            "Leave cache_implementation unset, and pass no cache of your own"
        )
    odd = next((layer for layer in cache.layers if type(layer) not in (DynamicLayer, LinearAttentionLayer)), None)
    if odd is not None:
        raise UnsupportedError(
            f"pruning needs full-attention cache layers, got {type(odd).__name__}: sliding windows are not supported"
        )
    if getattr(cache, "offloading", False):
        raise UnsupportedError("an offloaded cache is not supported: leave cache_implementation unset")
    cache.__class__ = PrunedCache
    assert isinstance(cache, PrunedCache)
    return cache
