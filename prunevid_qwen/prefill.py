"""One method for each seam of a forward: `Run` lives as long as a `pruned` context, `Prefill` as long as one prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.batch import consecutive, gather_positions, gather_tokens, left_padded
from prunevid_qwen.errors import PruningNotApplied, UnsupportedError
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.masks import layer_mask
from prunevid_qwen.plan import Plan
from prunevid_qwen.reducer import Evidence
from prunevid_qwen.stage3_kv.cache import PrunedCache, adopt
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from prunevid_qwen.trace import Moment, SampleTrace, Seconds, Trace

Hooked = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Row:
    """One sample of a prompt: what its tokens are now, and what was decided about them."""

    layout: TokenLayout | None  # None for a text
    tokens: int  # visual tokens before stage 1
    blocks: tuple[Block, ...]
    length: int  # of the whole sequence before stage 1
    merged: TokenMap | None = None
    kept: TokenMap | None = None
    scores: Tensor | None = None


@dataclass
class Prefill:
    """The state of one prompt on its way through the decoder."""

    rows: list[Row]
    cache: PrunedCache
    logical: int  # tokens of this block as `generate` counts them
    past: int  # entries in the cache before it
    valid: Tensor  # [B, S] bool, where tokens of this block stand now
    past_valid: Tensor | None  # [B, past] bool or None
    early_valid: Tensor | None = None  # `valid` as layers 0..M saw it, once stage 2 has changed it
    merged: bool = False  # stage 1 changed something
    selected: bool = False  # stage 2 ran
    index: Tensor | None = None  # [B, K] what stage 2 left, None while or when it changed nothing
    rope: tuple[Tensor, Tensor] | None = None  # of what is left
    mask: list[Any] = field(default_factory=list)  # of what is left, made when the first later layer asks

    def whole(self, valid: Tensor) -> Tensor | None:
        """Join the validity of the past and of this block: [B, past + S] bool, or None when all is valid."""
        if self.past:
            before = valid.new_ones(valid.shape[0], self.past)
            before = before if self.past_valid is None else self.past_valid.to(valid.device)
            valid = torch.cat([before, valid], dim=1)
        return None if bool(valid.all()) else valid


class Run:
    """The hooks of one context. Its methods are the seams; see `hooks` for their order."""

    def __init__(self, adapter: Adapter, plan: Plan) -> None:
        self.adapter, self.plan = adapter, plan
        self.trace = Trace(plan.position_scheme, plan.layer, len(adapter.parts.layers))
        self.prompt: Tensor | None = None  # [B, S] ids of the last prompt that positions were made for
        self.ids: Tensor | None = None
        self.prefill: Prefill | None = None
        self.late_mask: list[Any] = []
        self.vision_start: Moment | None = None
        self.clock: tuple[str, Moment] | None = None
        self.pending_vision: list[tuple[Moment, Moment]] = []

    # ---- the doors of the model

    def note_prompt(self, input_ids: Tensor) -> None:
        """Remember the true prompt: in assisted decoding the first forward also holds candidate tokens."""
        self.prompt = input_ids

    def before_vision(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start the clock of the vision tower."""
        self.vision_start = Moment.now(next(_module.parameters()).device)

    def after_vision(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Stop it; since 5.18 `generate` encodes ahead of the forward, so the prefill collects it later."""
        assert self.vision_start is not None
        self.pending_vision.append((self.vision_start, Moment.now(next(_module.parameters()).device)))

    def before_root(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the token ids, which the decoder never sees, when pixels come with them.

        A generated token may happen to be a placeholder: without pixels it is text.
        """
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.ids = None
        if not self.adapter.has_media(kwargs):
            return
        if ids is None:
            raise UnsupportedError("pruning has to know which tokens are visual: pass input_ids, not inputs_embeds")
        self.ids = ids

    # ---- the decoder's door

    def before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hooked:
        """Stage 1 on a prompt with visual tokens; on everything else only mend the mask."""
        kwargs = dict(kwargs)
        self.prefill, self.late_mask = None, []
        embeds, ids, self.ids = kwargs["inputs_embeds"], self.ids, None
        now = Moment.now(embeds.device)
        prompt = ids is not None and bool((self.adapter.types(ids) > 0).any())
        cache = self._cache(kwargs, prompt)
        if not prompt:
            raw = kwargs.get("past_key_values")
            fresh = raw is None or not raw.get_seq_length()
            if fresh:
                self._new_trace(tuple(SampleTrace((), 0, None, None, embeds.shape[1]) for _ in embeds))
            self.clock = ("prefill" if fresh else "decode", now)
            if cache is not None and cache.changed:
                self._mend_mask(kwargs, embeds, cache)
            return args, kwargs
        assert ids is not None and cache is not None
        self.prefill = self._start(ids, kwargs, cache)
        self.clock = ("prefill", now)
        if self.plan.before is not None:
            self._merge(kwargs, self.prefill)
            self.trace.seconds.add("merge", now, Moment.now(embeds.device))
        return args, kwargs

    def _cache(self, kwargs: dict[str, Any], prompt: bool) -> PrunedCache | None:
        """The cache as ours: any cache serves a text, a prompt with visual tokens needs one that can be shortened."""
        cache = kwargs.get("past_key_values")
        if prompt:
            use_cache = kwargs.get("use_cache")
            if use_cache is None:
                use_cache = getattr(self.adapter.parts.text_config, "use_cache", True)
            if not use_cache:
                raise UnsupportedError(
                    "use_cache=False is another function than cached decoding: every step would run the dropped "
                    "tokens through the first layers again. Leave use_cache unset, or leave `pruned` for this call"
                )
            if cache is None:
                cache = kwargs["past_key_values"] = DynamicCache(config=self.adapter.parts.text_config)
            cache = adopt(cache)
        if not isinstance(cache, PrunedCache):
            return None
        cache.is_open = True
        return cache

    def _new_trace(self, samples: tuple[SampleTrace, ...]) -> None:
        self.trace.seconds = Seconds()
        self.trace.prefills += 1
        self.trace.samples = samples
        for start, stop in self.pending_vision:
            self.trace.seconds.add("vision", start, stop)
        self.pending_vision = []

    def _start(self, ids: Tensor, kwargs: dict[str, Any], cache: PrunedCache) -> Prefill:
        embeds, positions = kwargs["inputs_embeds"], kwargs.get("position_ids")
        mask, length, past = kwargs.get("attention_mask"), ids.shape[1], cache.physical_length()
        if cache.changed:
            raise UnsupportedError(
                "a second prompt with images or videos on a pruned cache is not supported: start without "
                "past_key_values and pass the whole conversation"
            )
        if positions is None:
            raise UnsupportedError(
                "the decoder got no position ids for visual tokens: pass mm_token_type_ids and grids"
            )
        if isinstance(mask, dict) or (mask is not None and mask.ndim != 2):
            raise UnsupportedError("pruning needs the two-dimensional attention mask, got a prepared one")
        end = self._question_end(ids, past)
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[:, -length:].bool()
        rows = []
        for b in range(ids.shape[0]):
            at = valid[b].nonzero()[:, 0].to(ids.device)
            before_end = int((at < end).sum())
            layout = self.adapter.layout(ids[b, at], positions[-3:, b, at.to(positions.device)], before_end)
            n = 0 if layout is None else layout.visual.numel()
            rows.append(Row(layout, n, () if layout is None else layout.blocks, at.numel()))
        past_valid = mask[:, :past].bool() if past and mask is not None and mask.shape[1] >= past + length else None
        self._new_trace(())
        return Prefill(rows, cache, length, past, valid.to(embeds.device), past_valid)

    def _question_end(self, ids: Tensor, past: int) -> int:
        """Where in this block the prompt ends: past it stand candidates of assisted decoding."""
        prompt, self.prompt = self.prompt, None
        if prompt is None or ids.shape[0] % prompt.shape[0]:
            return ids.shape[1]
        prompt = prompt[:, past:].repeat_interleave(ids.shape[0] // prompt.shape[0], dim=0)
        shared = min(prompt.shape[1], ids.shape[1])
        if not torch.equal(prompt[:, :shared], ids[:, :shared].to(prompt.device)):
            return ids.shape[1]
        if prompt.shape[1] > ids.shape[1]:
            raise UnsupportedError(
                f"the prompt has {prompt.shape[1]} tokens and arrives in pieces of {ids.shape[1]}: chunked prefill is not "
                "supported, since stage 2 has to see question and video together. Unset prefill_chunk_size"
            )
        return prompt.shape[1]

    def _merge(self, kwargs: dict[str, Any], state: Prefill) -> None:
        """Stage 1: decide once for each sample, apply to embeddings, positions and mask."""
        assert self.plan.before is not None
        embeds, positions = kwargs["inputs_embeds"], kwargs["position_ids"]
        places, features = [], []
        for b, row in enumerate(state.rows):
            at = state.valid[b].nonzero()[:, 0]
            own = embeds[b].index_select(0, at)
            if row.layout is None:
                places.append(at)
                features.append(own)
                continue
            twin = self._same_as_last(b, embeds, state)
            if twin is not None:
                row.layout, row.merged = twin.layout, twin.merged
                places.append(places[-1])
                features.append(features[-1])
                continue
            layout = row.layout
            with torch.no_grad():
                seen = Evidence(layout, own.index_select(0, layout.visual), own.index_select(0, layout.question))
                row.merged = self.plan.before.plan(seen)
            row.layout, whole = layout.apply(row.merged)
            places.append(whole.take(at, 0))
            features.append(whole.mean(own))
        if all(row.merged is None or row.merged.is_identity for row in state.rows):
            return
        index, valid = left_padded(places)
        merged = embeds.new_zeros(*index.shape, embeds.shape[-1])  # padding carries no other token's content
        for b, own in enumerate(features):
            merged[b, index.shape[1] - own.shape[0] :] = own
        state.valid, state.merged = valid, True
        kwargs["inputs_embeds"] = merged
        kwargs["position_ids"] = gather_positions(positions, index, valid)
        kwargs["attention_mask"] = layer_mask(
            self.adapter.parts.text_config, merged, state.whole(valid), state.cache.physical_length(0)
        )

    def _same_as_last(self, b: int, embeds: Tensor, state: Prefill) -> Row | None:
        """Beams are equal rows: decide once for all of them."""
        if b == 0 or state.rows[b - 1].merged is None or not torch.equal(state.valid[b], state.valid[b - 1]):
            return None
        return state.rows[b - 1] if torch.equal(embeds[b], embeds[b - 1]) else None

    # ---- layer M

    @torch.no_grad()
    def after_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any) -> None:
        """Score the visual tokens by the attention of the question's rows, when the selector wants it."""
        state, selector = self.prefill, self.plan.after
        if state is None or selector is None or selector.needs.attention is None:
            return
        query, layer = selector.needs.attention, self.plan.layer
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        start = Moment.now(hidden.device)
        cos, sin = kwargs["position_embeddings"]
        if query.source == "pre_rope" and state.past:
            raise UnsupportedError(
                "attention_source='pre_rope' needs the whole prompt in one forward, but the cache holds a prefix: "
                "use 'post_rope', or start without past_key_values"
            )
        cached = state.cache.layers[layer].keys
        for b, row in enumerate(state.rows):
            if row.layout is None:
                continue
            at = state.valid[b].nonzero()[:, 0].to(hidden.device)
            layout = row.layout.to(hidden.device)
            asked = at[layout.question]
            seen_before = torch.arange(state.past, device=at.device)
            if state.past_valid is not None:
                seen_before = state.past_valid[b].nonzero()[:, 0].to(at.device)
            n_before = seen_before.numel()
            if query.source == "pre_rope":
                q = self.adapter.question_states(layer, hidden[b, asked], None)
                keys, causal = self.adapter.key_states(layer, hidden[b, at]), None
            else:
                rope = (cos[..., b, :, :].index_select(-2, asked), sin[..., b, :, :].index_select(-2, asked))
                q = self.adapter.question_states(layer, hidden[b, asked], rope)
                keys = cached[b].index_select(1, torch.cat([seen_before, at + state.past]).to(cached.device))
                causal = layout.question + n_before
            columns = layout.visual + n_before
            row.scores = question_attention(
                q, keys, columns, causal, self.adapter.scale(layer), query.heads, query.rows
            )
        self.trace.seconds.add("select", start, Moment.now(hidden.device))

    @torch.no_grad()
    def after_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """Stage 2 on the layer's output, stage 3 on the cache of layers 0..M."""
        state = self.prefill
        if state is None:
            return None
        hidden = out[0] if isinstance(out, tuple) else out
        start = Moment.now(hidden.device)
        places = [self._select(b, row, hidden, state) for b, row in enumerate(state.rows)]
        state.selected = True
        index, valid = left_padded(places)
        early = state.valid
        # the longest row may keep all while another one shrinks: equal length does not mean unchanged
        unchanged = index.shape[1] == early.shape[1] and bool(torch.equal(valid, early.to(valid.device)))
        if unchanged and all(row.kept is None or row.kept.is_identity for row in state.rows):
            return None
        state.early_valid, state.valid, state.index = early, valid, index
        state.rope = tuple(gather_tokens(angle, index) for angle in kwargs["position_embeddings"])  # type: ignore[assignment]
        if self.plan.compress:
            state.cache.keep(range(self.plan.layer + 1), index, state.past)
        self.trace.seconds.add("select", start, Moment.now(hidden.device))
        hidden = gather_tokens(hidden, index)
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    def _select(self, b: int, row: Row, hidden: Tensor, state: Prefill) -> Tensor:
        assert self.plan.after is not None
        at = state.valid[b].nonzero()[:, 0].to(hidden.device)
        if row.layout is None:
            return at
        own, layout = hidden[b].index_select(0, at), row.layout.to(hidden.device)
        seen = Evidence(layout, own.index_select(0, layout.visual), own.index_select(0, layout.question), row.scores)
        row.kept = self.plan.after.plan(seen)
        if not row.kept.is_selection:
            raise UnsupportedError(
                f"{type(self.plan.after).__name__} merges tokens inside the decoder, where keys are cached and rotated "
                "already: a stage 2 method may only drop. Merge in stage 1"
            )
        row.layout, whole = layout.apply(row.kept)
        row.scores = None
        return whole.take(at, 0)

    def before_later_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hooked | None:
        """Give the layers after M the mask and the rotary angles of what is left."""
        state = self.prefill
        if state is None:
            if not self.late_mask:
                return None
            return args, {**kwargs, "attention_mask": self.late_mask[0]}
        if state.index is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if not state.mask:
            whole = state.whole(state.valid)
            past = state.cache.physical_length(self.plan.layer + 1)
            state.mask.append(layer_mask(self.adapter.parts.text_config, hidden, whole, past)["full_attention"])
        kwargs = dict(kwargs, attention_mask=state.mask[0], position_embeddings=state.rope)
        if kwargs.get("position_ids") is not None:  # the text row: gaps in it would read as packed sequences
            kwargs["position_ids"] = consecutive(state.valid)
        return args, kwargs

    # ---- later calls and the way out

    def _mend_mask(self, kwargs: dict[str, Any], embeds: Tensor, cache: PrunedCache) -> None:
        """Masks of a decode step or a follow-up text have to fit what the cache really holds."""
        if cache.split and (self.plan.after is None or self.plan.layer != cache.boundary):
            raise UnsupportedError(
                f"this cache was pruned after layer {cache.boundary} without stage 3: continue it under the same config"
            )
        mask, width = kwargs.get("attention_mask"), embeds.shape[1]
        new = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            new = mask[:, -width:].bool().to(embeds.device)
        held = (cache.physical_length(0), cache.physical_length(len(cache.layers) - 1))
        early = _grown(cache.valid[0], held[0], new)
        late = _grown(cache.valid[1], held[1], new) if cache.split else early
        cache.valid = (early, late)
        config = self.adapter.parts.text_config
        kwargs["attention_mask"] = layer_mask(config, embeds, early, held[0])
        if cache.split:
            self.late_mask = [layer_mask(config, embeds, late, held[1])["full_attention"]]

    def after_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Close the prompt: hand the cache what decoding needs, write the trace. Also runs when something raised."""
        state, clock = self.prefill, self.clock
        self.prefill, self.late_mask, self.clock = None, [], None
        cache = kwargs.get("past_key_values")
        if isinstance(cache, PrunedCache):
            cache.is_open = False
        if out is None:
            self.pending_vision = []
            return
        if state is not None:
            if self.plan.after is not None and not state.selected:
                raise PruningNotApplied(
                    f"stage 2 was asked for after layer {self.plan.layer}, but that layer's hooks never ran (a compiled "
                    "or replaced forward?): the answer would not have been pruned"
                )
            self._close(state)
        if clock is not None:
            self.trace.seconds.add(clock[0], clock[1], Moment.now(out[0].device))

    def _close(self, state: Prefill) -> None:
        cache, late = state.cache, state.valid
        early = late if state.early_valid is None or self.plan.compress else state.early_valid
        cache.boundary = self.plan.layer if self.plan.after is not None else len(cache.layers) - 1
        if state.merged or state.index is not None:
            cache.changed = True
            cache.shift = (state.logical - early.shape[1], state.logical - late.shape[1])
            whole = state.whole(early)
            cache.split = early is not late
            cache.valid = (whole, state.whole(late) if cache.split else whole)
        self.trace.samples = tuple(
            SampleTrace(row.blocks, row.tokens, row.merged, row.kept, row.length) for row in state.rows
        )
        self.trace.cache_lengths = tuple(cache.physical_length(i) for i in range(len(cache.layers)))
        self.trace.cache_bytes = sum(
            t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values)
        )


def _grown(valid: Tensor | None, held: int, new: Tensor) -> Tensor | None:
    """Extend validity [B, held] (None: all valid) by that of new tokens [B, q]; None when all is valid."""
    if valid is None and bool(new.all()):
        return None
    before = new.new_ones(new.shape[0], held) if valid is None else valid.to(new.device)
    return torch.cat([before, new], dim=1)
