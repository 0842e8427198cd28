"""One prompt on its way through the decoder: its rows, and the three stages as steps over them.

Nothing here hooks a model or is hooked: `run` calls these steps from the seams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.batch import left_padded
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.kernels.products import without_autocast
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.prompt import Prompt
from prunevid_qwen.reducer import AttentionQuery, Evidence, Reducer
from prunevid_qwen.stage3_kv.cache import PrunedCache
from prunevid_qwen.tokens import TokenLayout, TokenMap
from prunevid_qwen.tokens.device import on
from prunevid_qwen.trace import SampleTrace


@dataclass
class Row:
    """One sample of a prompt: what its tokens are now, and what was decided about them."""

    start: TokenLayout | None  # before stage 1; None for a text
    length: int  # tokens of the whole sample before stage 1
    layout: TokenLayout | None = None  # now
    merged: TokenMap | None = None
    kept: TokenMap | None = None
    scores: Tensor | None = None
    probe: Tensor | None = None  # [L, H, P, N'] what a probe made of the visual tokens
    taps: Tensor | None = None  # [N, L, C] of the vision tower, before stage 1
    marks: Tensor | None = None  # [N] fp32 by the caller, before stage 1

    def trace(self) -> SampleTrace:
        """Return what a trace says of it."""
        tokens = 0 if self.start is None else self.start.visual.numel()
        return SampleTrace(() if self.start is None else self.start.blocks, tokens, self.merged, self.kept, self.length)


@dataclass
class Prefill:
    """The state of one prompt."""

    rows: list[Row]
    cache: PrunedCache
    logical: int  # tokens of this block as `generate` counts them
    past: int  # entries in the cache before it
    valid: Tensor  # [B, S] bool on the CPU: where tokens of this block stand now
    past_valid: Tensor | None  # [B, past] bool on the CPU, None when all are valid
    fixed: str | None = None  # why no token may be dropped or merged
    early_valid: Tensor | None = None  # `valid` as layers 0..M saw it, once stage 2 has changed it
    merged: bool = False  # stage 1 changed something
    selected: bool = False  # stage 2 ran
    index: Tensor | None = None  # [B, K] what stage 2 left, None when it changed nothing
    rope: tuple[Tensor, Tensor] | None = None  # of what is left
    mask: Any = None  # of what is left, made when the first later layer asks
    text_row: Tensor | None = None  # [B, K] places counted without gaps, made with the mask
    has_mask: bool = False
    came: Tensor = field(init=False)  # [B, S] bool on the CPU: `valid` before any reduction

    def __post_init__(self) -> None:
        self.came = self.valid

    @classmethod
    def of(cls, prompt: Prompt, cache: PrunedCache, past: int) -> Prefill:
        """Start on a prompt."""
        rows = [Row(layout, n, layout) for layout, n in zip(prompt.layouts, prompt.lengths, strict=True)]
        valid = prompt.valid
        return cls(rows, cache, valid.shape[1], past, valid, prompt.past_valid, prompt.fixed)

    def places(self, b: int, device: torch.device) -> Tensor:
        """Where the tokens of row ``b`` stand, [n] int64."""
        return on(self.valid[b].nonzero()[:, 0], device)

    def end_of(self, b: int) -> int:
        """Place of the prompt's last token of row ``b``: candidates of assisted decoding may follow it."""
        layout = self.rows[b].layout
        if layout is None:
            return self.valid.shape[1] - 1
        return int(self.valid[b].nonzero()[int(layout.question[-1]), 0])

    def filled(self, layer: int) -> bool:
        """Tell whether layer ``layer`` wrote this block into the cache."""
        return self.cache.physical_length(layer) > self.past

    def check_free(self) -> None:
        """Make sure that tokens may be dropped or merged.

        Raises:
            UnsupportedError: what came with the prompt says nothing of fewer tokens.
        """
        if self.fixed is not None:
            raise UnsupportedError(self.fixed)

    def whole(self, valid: Tensor) -> Tensor | None:
        """Join the validity of the past and of this block: [B, past + S] bool, or None when all is valid."""
        if self.past:
            before = valid.new_ones(valid.shape[0], self.past)
            before = before if self.past_valid is None else self.past_valid
            valid = torch.cat([before, valid], dim=1)
        return None if bool(valid.all()) else valid


def merge(state: Prefill, embeds: Tensor, method: Reducer) -> tuple[Tensor, Tensor, Tensor] | None:
    """Stage 1: decide once for each sample, average its embeddings.

    Args:
        state: of the prompt; layouts and maps are written into its rows.
        embeds: [B, S, D] what the decoder was given.
        method: the reducer.

    Returns:
        index [B, K] (whose place each token takes), on the CPU valid [B, K], and the new embeddings [B, K, D], or None
        when nothing changed.
    """
    places: list[Tensor] = []
    features: list[Tensor] = []
    twins = _twins(state, embeds, method)
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        if b in twins:  # beams, or many questions about a video: decide once for all
            row.merged = state.rows[twins[b]].merged
            continue
        hidden, question = _seen(state, embeds, b, row.layout, method)
        with torch.no_grad(), without_autocast(embeds.device):
            row.merged = method.plan(Evidence(row.layout.to(embeds.device), hidden, question))
    if all(row.merged is None or row.merged.is_identity for row in state.rows):
        return None
    state.check_free()
    for b, row in enumerate(state.rows):
        at = state.places(b, embeds.device)
        own = embeds[b].index_select(0, at)
        if row.layout is not None and row.merged is not None:
            row.layout, whole = row.layout.to(embeds.device).apply(row.merged)
            at, own = whole.take(at, 0), whole.mean(own)
        places.append(at)
        features.append(own)
    index, valid = left_padded(places)
    out = embeds.new_zeros(*index.shape, embeds.shape[-1])  # padding carries no other token's content
    for b, own in enumerate(features):
        out[b, index.shape[1] - own.shape[0] :] = own
    return index, valid, out


def _twins(state: Prefill, embeds: Tensor, method: Reducer) -> dict[int, int]:
    """Rows that show a reducer the same as the row with visual tokens before them, and that row.

    Nothing that it may look at differs, but for how long the question is. The host asks the device once for all rows,
    and only if some have videos of equal grids.
    """
    pairs, same = [], []
    shown = [(b, row.layout) for b, row in enumerate(state.rows) if row.layout is not None]
    for (before, one), (b, other) in pairwise(shown):
        if one.shows_like(other):
            first, second = (_seen(state, embeds, *row, method) for row in ((before, one), (b, other)))
            if first[1].shape == second[1].shape:
                pairs.append((before, b))
                same.append((first[0] == second[0]).all() & (first[1] == second[1]).all())
    alike = torch.stack(same).tolist() if same else []
    return {b: before for (before, b), equal in zip(pairs, alike, strict=True) if equal}


def _seen(state: Prefill, embeds: Tensor, b: int, layout: TokenLayout, method: Reducer) -> tuple[Tensor, Tensor]:
    """What a reducer before the decoder sees of a row: visual tokens [N, D] and those of the question it asks for."""
    places = state.valid[b].nonzero()[:, 0]
    asked = layout.question if method.needs.question else layout.question[:0]
    visual, question = places[layout.visual], places[asked]
    first, n = int(visual[0]), visual.numel()
    if int(visual[-1]) - first + 1 == n:  # one video, as it usually is: a view, since an hour of it is large
        return embeds[b, first : first + n], embeds[b].index_select(0, on(question, embeds.device))
    hidden, question = (embeds[b].index_select(0, on(at, embeds.device)) for at in (visual, question))
    return hidden, question


def score(
    state: Prefill, adapter: Adapter, layer: int, query: AttentionQuery, hidden: Tensor, rope: tuple[Tensor, Tensor]
) -> None:
    """Write into every row how much its question attends to each visual token at ``layer``.

    Args:
        state: of the prompt.
        adapter: of the model.
        layer: the layer whose attention has just run.
        query: which attention the selector wants.
        hidden: [B, S, D] what that attention was given.
        rope: its (cos, sin), each [B, S, d] or [3, B, S, d].

    Raises:
        UnsupportedError: "pre_rope" after a cached prefix, whose keys are rotated already.
    """
    if query.source == "pre_rope" and state.past:
        raise UnsupportedError(
            "attention_source='pre_rope' needs the whole prompt in one forward, but the cache holds a prefix: use "
            "'post_rope', or start without a cache"
        )
    cached = state.cache.written(layer, state.past + state.valid.shape[1])
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        at, layout = state.places(b, hidden.device), row.layout.to(hidden.device)
        asking = layout.asking(query.tokens)
        asked = at[asking]
        if query.source == "pre_rope":
            q = adapter.question_states(layer, hidden[b, asked], None)
            row.scores = question_attention(
                q, adapter.key_states(layer, hidden[b, at]), layout.visual, None, adapter.scale(layer),
                query.heads, query.rows,
            )  # fmt: skip
            continue
        before = torch.arange(state.past, device="cpu")
        if state.past_valid is not None:
            before = state.past_valid[b].nonzero()[:, 0]
        cos, sin = (angle[..., b, :, :].index_select(-2, asked) for angle in rope)
        q = adapter.question_states(layer, hidden[b, asked], (cos, sin))
        keys = cached[b]
        if before.numel() + at.numel() < keys.shape[1]:  # without padding they are read where they stand
            keys = keys.index_select(1, torch.cat([on(before, keys.device), (at + state.past).to(keys.device)]))
        row.scores = question_attention(
            q, keys, layout.visual + before.numel(), asking + before.numel(), adapter.scale(layer),
            query.heads, query.rows,
        )  # fmt: skip


def select(state: Prefill, hidden: Tensor, method: Reducer) -> tuple[Tensor, Tensor] | None:
    """Stage 2: decide for each sample which visual tokens the later layers see.

    Args:
        state: of the prompt; layouts and maps are written into its rows.
        hidden: [B, S, D] output of layer M.
        method: the reducer.

    Returns:
        index [B, K] and, on the CPU, valid [B, K] of what is left, or None when nothing changed.

    Raises:
        UnsupportedError: the method merges.
    """
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        at, layout = state.places(b, hidden.device), row.layout.to(hidden.device)
        with without_autocast(hidden.device):
            row.kept = method.plan(_evidence(layout, hidden[b].index_select(0, at), method, row))
        row.scores = row.probe = row.taps = None
        if not row.kept.is_selection:
            raise UnsupportedError(
                f"{type(method).__name__} merges tokens inside the decoder, where keys are cached and rotated already: "
                "a stage 2 method may only drop. Merge in stage 1"
            )
    state.selected = True
    # the longest row may keep all while another one shrinks: equal length does not mean unchanged
    if all(row.kept is None or row.kept.is_identity for row in state.rows):
        return None
    state.check_free()
    places = []
    for b, row in enumerate(state.rows):
        at = state.places(b, hidden.device)
        if row.layout is not None and row.kept is not None:
            row.layout, whole = row.layout.to(hidden.device).apply(row.kept)
            at = whole.take(at, 0)
        places.append(at)
    return left_padded(places)


def _evidence(layout: TokenLayout, own: Tensor, method: Reducer, row: Row) -> Evidence:
    question = own.index_select(0, layout.question if method.needs.question else layout.question[:0])
    taps, marks, merged = row.taps, row.marks, row.merged  # under a device map stage 1 ran on another device
    if taps is not None:
        taps = (taps if merged is None else merged.mean(taps.to(merged.target.device))).transpose(0, 1)
    if marks is not None and merged is not None:  # a dropped token goes into a slot of its own, which is cut off
        target = torch.where(merged.target < 0, merged.n_out, merged.target)
        marks = marks.to(target.device)
        marks = marks.new_zeros(merged.n_out + 1).scatter_reduce(0, target, marks, "amax")[:-1]
    probe, taps, marks = (None if x is None else x.to(own.device) for x in (row.probe, taps, marks))
    return Evidence(layout, own.index_select(0, layout.visual), question, row.scores, probe, taps, marks)
