"""How much the question attends to each visual token: by a layer's own projections, and by those of the next layer.

Nothing here hooks a model or is hooked: `run` and `evidence` call these from the seams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.forward.prefill import Prefill, SampleState
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.needs import AttentionQuery
from prunevid_qwen.reducer import Prepares
from prunevid_qwen.tokens import TokenLayout
from prunevid_qwen.tokens.device import input_device, moved

Rope = tuple[Tensor, Tensor]


def check_queries(plan: Plan, heads: int) -> None:
    """Refuse a step that wants the best of more heads than the decoder has, or rows that nothing notes.

    Raises:
        ConfigError: so it is.
    """
    for step in plan.steps:
        query = step.by.needs.attention
        if query is None:
            continue
        if query.tokens == "noted" and not isinstance(step.by, Prepares):
            raise ConfigError(
                f'{step.name!r} needs the attention of tokens="noted", but its reducer notes none: give it '
                "`prepare(seen)`, which returns a bool for each text token, [Q]"
            )
        if query.top_heads is not None and query.top_heads > heads:
            raise ConfigError(
                f"{step.name!r} needs top_heads={query.top_heads}, but this model has {heads} heads: give a smaller "
                "top_heads"
            )


def own_scores(state: Prefill, adapter: Adapter, step: Step, query: AttentionQuery, hidden: Tensor, rope: Rope) -> None:
    """Write into every row how much its question attends to each visual token, by projections of the step's layer.

    Args:
        state: of the prompt.
        adapter: of the model.
        step: acts on the output of the layer whose attention has just run.
        query: which attention the step's reducer wants.
        hidden: [B, S, D] what that attention was given.
        rope: its (cos, sin), each [B, S, d] or [3, B, S, d].

    Raises:
        UnsupportedError: "pre_rope" after a cached prefix, whose keys are rotated already.
        ConfigError: the reducer's note does not say which rows are heard.
    """
    layer = step.at
    _check_prefix(state, query)
    cached = state.cache.written(layer, state.past + state.valid.shape[1])
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        at, layout = state.places(b, hidden.device), row.layout.to(hidden.device)
        asked, heard = at[_asking(layout, query)], _heard(row, step, query, layout)
        if query.source == "pre_rope":
            keys = adapter.key_states(layer, hidden[b, at])
            row.scores = _scores(adapter, layer, query, layout, hidden[b, asked], None, keys, 0, heard)
            continue
        prefix, keys = _prefix(state, b), cached[b]
        if prefix.numel() + at.numel() < keys.shape[1]:  # without padding they are read where they stand
            keys = keys.index_select(1, torch.cat([moved(prefix, keys.device), (at + state.past).to(keys.device)]))
        angles, before = angles_at(rope, b, asked), prefix.numel()
        shown = angles_at(rope, b, at[layout.visual]) if query.gravity else None
        row.scores = _scores(adapter, layer, query, layout, hidden[b, asked], angles, keys, before, heard, shown)


def next_scores(
    state: Prefill, adapter: Adapter, step: Step, query: AttentionQuery, hidden: Tensor, rope: Rope, b: int
) -> Tensor:
    """Score the visual tokens of a row by the attention of the layer after a step, which has yet to run.

    Args:
        state: of the prompt.
        adapter: of the model.
        step: which step.
        query: which attention its reducer wants.
        hidden: [B, S, D] what that layer is about to be given.
        rope: as in `own_scores`.
        b: the row.

    Raises:
        UnsupportedError, ConfigError: as in `own_scores`.
    """
    layer = step.at + 1
    _check_prefix(state, query)
    assert state.rows[b].layout is not None
    device = input_device(adapter.parts.layers[layer])  # under a device map it may be another one's
    at, layout = state.places(b, device), state.rows[b].layout.to(device)  # type: ignore[union-attr]
    normed = adapter.before_attention(layer, hidden[b].to(device).index_select(0, at))
    asking, heard = _asking(layout, query), _heard(state.rows[b], step, query, layout)
    asked = normed.index_select(0, asking)
    if query.source == "pre_rope":
        return _scores(adapter, layer, query, layout, asked, None, adapter.key_states(layer, normed), 0, heard)
    keys, before = adapter.key_states(layer, normed, angles_at(rope, b, at)), 0
    if state.past:
        prefix = _prefix(state, b)
        held = state.cache.layers[layer].keys[b]
        keys, before = torch.cat([held.index_select(1, moved(prefix, held.device)), keys], dim=1), prefix.numel()
    angles = angles_at(rope, b, at.index_select(0, asking))
    shown = angles_at(rope, b, at.index_select(0, layout.visual)) if query.gravity else None
    return _scores(adapter, layer, query, layout, asked, angles, keys, before, heard, shown)


def _asking(layout: TokenLayout, query: AttentionQuery) -> Tensor:
    return layout.asking("all" if query.tokens == "noted" else query.tokens)


def _heard(row: SampleState, step: Step, query: AttentionQuery, layout: TokenLayout) -> Tensor | None:
    """Which rows of the question are heard, [Q] bool where the layout is; None for all.

    Raises:
        ConfigError: the reducer's note does not say.
    """
    if query.tokens != "noted":
        return None
    note = row.notes.get(id(step.by))
    if not isinstance(note, Tensor) or note.dtype != torch.bool or note.shape != layout.question.shape:
        came = list(note.shape) if isinstance(note, Tensor) else type(note).__name__
        raise ConfigError(
            f'{step.name!r} needs the attention of tokens="noted": its `prepare` returns a bool for each of the '
            f"{layout.question.numel()} text tokens after the last visual one, got {came}"
        )
    return moved(note, layout.question.device)


def _scores(
    adapter: Adapter, layer: int, query: AttentionQuery, layout: TokenLayout, asked: Tensor, rope: Rope | None,
    keys: Tensor, before: int, heard: Tensor | None, shown: Rope | None = None,
) -> Tensor:  # fmt: skip
    """Score the visual tokens of a row.

    Args:
        adapter: of the model.
        layer: whose projections.
        query: which attention.
        layout: of the row.
        asked: [Q', D] what the attention of that layer is given of the tokens that ask.
        rope: their rotary angles; None for none, and no causal rule.
        keys: [Hkv, before + S, d] of the prefix and the row.
        before: entries of the prefix.
        heard: which rows count; None for all.
        shown: rotary angles of the visual tokens, for gravity; None without it.
    """
    at = None if rope is None else _asking(layout, query) + before
    queries = adapter.question_states(layer, asked, rope)
    best = query.top_heads
    if isinstance(best, float):
        best = max(1, int(queries.shape[0] * best))
    gravity = None
    if rope is not None and shown is not None:
        gravity = adapter.rotated_ones(layer, rope), adapter.rotated_ones(layer, shown)
    return question_attention(
        queries, keys, layout.visual + before, at, adapter.scale(layer), query.heads, query.rows, best, heard, gravity,
    )  # fmt: skip


def angles_at(rope: Rope, b: int, at: Tensor) -> Rope:
    """Rotary angles of some places of a row, where these are: each [n, d] or [3, n, d]; rows may share them."""
    rows = (angle[..., b if angle.shape[-3] > 1 else 0, :, :] for angle in rope)
    cos, sin = (angle.to(at.device).index_select(-2, at) for angle in rows)
    return cos, sin


def _prefix(state: Prefill, b: int) -> Tensor:
    """Where in the cache the tokens before this prompt stand, [n] int64 on the CPU."""
    if state.past_valid is None:
        return torch.arange(state.past, device="cpu")
    return state.past_valid[b].nonzero()[:, 0]


def _check_prefix(state: Prefill, query: AttentionQuery) -> None:
    if query.source == "pre_rope" and state.past:
        raise UnsupportedError(
            "attention_source='pre_rope' needs the whole prompt in one forward, but a cache holds its beginning: use "
            "'post_rope', or start without a cache"
        )
