"""The steps of a plan over one prompt: their evidence, what they decide, and the rows as they leave them.

Nothing here hooks a model or is hooked: `run` calls these from the seams.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.batch import gather_tokens, left_padded
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.kernels.products import without_autocast
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.plan import Step
from prunevid_qwen.prefill import Prefill, Row
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, Reducer, merges
from prunevid_qwen.tokens import TokenLayout, TokenMap
from prunevid_qwen.tokens.device import on
from prunevid_qwen.trace import Reduction


def merge(state: Prefill, embeds: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor] | None:
    """Stage 1: decide once for each sample, average its embeddings.

    Args:
        state: of the prompt; layouts and maps are written into its rows.
        embeds: [B, S, D] what the decoder was given.
        step: at the door.

    Returns:
        index [B, K] (whose place each token takes), on the CPU valid [B, K], and the new embeddings [B, K, D], or None
        when nothing changed.
    """
    places: list[Tensor] = []
    features: list[Tensor] = []
    maps: list[TokenMap | None] = [None] * len(state.rows)
    twins = _twins(state, embeds, step.by)
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        if b in twins:  # beams, or many questions about a video: decide once for all
            maps[b] = maps[twins[b]]
            continue
        hidden, question = _seen(state, embeds, b, row.layout, step.by)
        with torch.no_grad(), without_autocast(embeds.device):
            maps[b] = step.by.plan(Evidence(row.layout.to(embeds.device), hidden, question))
    if not _note(state, maps, step):
        return None
    for b, (row, chosen) in enumerate(zip(state.rows, maps, strict=True)):
        at = state.places(b, embeds.device)
        own = embeds[b].index_select(0, at)
        if row.layout is not None and chosen is not None:
            before = row.layout.to(embeds.device)
            row.layout, whole = before.apply(chosen)
            at, own = whole.take(at, 0), before.made(own, chosen, row.layout, whole)
        places.append(at)
        features.append(own)
    index, valid = left_padded(places)
    return index, valid, _stacked(features, index.shape[1])


def _stacked(rows: list[Tensor], width: int) -> Tensor:
    """Pad rows [n, D] on the left: [B, width, D]; padding carries no other token's content."""
    out = rows[0].new_zeros(len(rows), width, rows[0].shape[-1])
    for b, own in enumerate(rows):
        out[b, width - own.shape[0] :] = own
    return out


def _note(state: Prefill, maps: list[TokenMap | None], step: Step) -> bool:
    """Write into the rows what a step decided; say whether that changes any of them."""
    for row, chosen in zip(state.rows, maps, strict=True):
        if chosen is not None:
            row.reductions.append(Reduction(step.at, step.name, chosen))
    # the longest row may keep all while another one shrinks: equal length does not mean unchanged
    if all(chosen is None or chosen.is_identity for chosen in maps):
        return False
    state.check_free()
    return True


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


def select(state: Prefill, hidden: Tensor, step: Step, later: Needs) -> tuple[Tensor, Tensor, Tensor] | None:
    """Stage 2: decide for each sample which visual tokens the later layers see.

    The decision is taken without gradients; they pass through what is left.

    Args:
        state: of the prompt; layouts and maps are written into its rows.
        hidden: [B, S, D] output of the layer after which the step stands.
        step: between two layers.
        later: what the steps after it ask for.

    Returns:
        index [B, K] (whose place each token takes) and, on the CPU, valid [B, K] of what is left, and its states
        [B, K, D]; or None when nothing changed.

    Raises:
        UnsupportedError: the method merges and does not declare it.
    """
    maps: list[TokenMap | None] = [None] * len(state.rows)
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        at, layout = state.places(b, hidden.device), row.layout.to(hidden.device)
        with torch.no_grad(), without_autocast(hidden.device):
            chosen = maps[b] = step.by.plan(_evidence(layout, hidden[b].index_select(0, at), step.by, row))
        row.forget(later)
        if not merges(step.by) and not chosen.is_selection:
            raise UnsupportedError(
                f"{type(step.by).__name__} merges tokens inside the decoder, where keys are cached and rotated "
                "already: a stage 2 method may only drop, unless it declares `merges = True`. Merge in stage 1"
            )
        if row.probe is not None:
            row.probe = chosen.take(row.probe, -1)
    state.acted.append(step.at)
    if not _note(state, maps, step):
        return None
    places: list[Tensor] = []
    states: list[Tensor] = []
    for b, (row, kept) in enumerate(zip(state.rows, maps, strict=True)):
        at = state.places(b, hidden.device)
        own = hidden[b].index_select(0, at) if merges(step.by) else None
        if row.layout is not None and kept is not None:
            before = row.layout.to(hidden.device)
            row.layout, whole = before.apply(kept)
            at, own = whole.take(at, 0), None if own is None else before.made(own, kept, row.layout, whole)
        places.append(at)
        if own is not None:
            states.append(own)
    index, valid = left_padded(places)
    return index, valid, _stacked(states, index.shape[1]) if states else gather_tokens(hidden, index)


def _evidence(layout: TokenLayout, own: Tensor, method: Reducer, row: Row) -> Evidence:
    needs = method.needs
    question = own.index_select(0, layout.question if needs.question else layout.question[:0])
    asked = ((row.probe, needs.probe), (row.taps, needs.vision), (row.marks, needs.marks))
    probe, taps, marks = (evidence if wanted else None for evidence, wanted in asked)
    for each in row.reductions:  # under a device map each step ran on another device
        done = each.map
        if taps is not None:
            taps = done.unmixed.mean(taps.to(done.target.device))
        if marks is not None:  # a dropped token goes into a slot of its own, which is cut off
            target = torch.where(done.target < 0, done.n_out, done.target)
            marks = marks.to(target.device)
            marks = marks.new_zeros(done.n_out + 1).scatter_reduce(0, target, marks, "amax")[:-1]
    taps = None if taps is None else taps.transpose(0, 1)
    probe, taps, marks = (None if x is None else x.to(own.device) for x in (probe, taps, marks))
    return Evidence(layout, own.index_select(0, layout.visual), question, row.scores, probe, taps, marks)
