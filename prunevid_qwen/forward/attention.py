"""How much the question attends to each visual token: by a layer's own projections, and by those of the next layer.

Nothing here hooks a model or is hooked: `run` and `evidence` call these from the seams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.needs import AttentionQuery
from prunevid_qwen.tokens import TokenLayout
from prunevid_qwen.tokens.device import input_device, moved

Rope = tuple[Tensor, Tensor]


def check_heads(plan: Plan, heads: int) -> None:
    """Refuse a step that wants the best of more heads than the decoder has.

    Raises:
        ConfigError: so it is.
    """
    for step in plan.steps:
        query = step.by.needs.attention
        if query is not None and query.top_heads is not None and query.top_heads > heads:
            raise ConfigError(
                f"{step.name!r} needs top_heads={query.top_heads}, but this model has {heads} heads: give a smaller "
                "top_heads"
            )


def own_scores(state: Prefill, adapter: Adapter, layer: int, query: AttentionQuery, hidden: Tensor, rope: Rope) -> None:
    """Write into every row how much its question attends to each visual token at ``layer``, by its own projections.

    Args:
        state: of the prompt.
        adapter: of the model.
        layer: the layer whose attention has just run.
        query: which attention the reducer wants.
        hidden: [B, S, D] what that attention was given.
        rope: its (cos, sin), each [B, S, d] or [3, B, S, d].

    Raises:
        UnsupportedError: "pre_rope" after a cached prefix, whose keys are rotated already.
    """
    _check_prefix(state, query)
    cached = state.cache.written(layer, state.past + state.valid.shape[1])
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        at, layout = state.places(b, hidden.device), row.layout.to(hidden.device)
        asked = at[layout.asking(query.tokens)]
        if query.source == "pre_rope":
            keys = adapter.key_states(layer, hidden[b, at])
            row.scores = _scores(adapter, layer, query, layout, hidden[b, asked], None, keys, 0)
            continue
        prefix, keys = _prefix(state, b), cached[b]
        if prefix.numel() + at.numel() < keys.shape[1]:  # without padding they are read where they stand
            keys = keys.index_select(1, torch.cat([moved(prefix, keys.device), (at + state.past).to(keys.device)]))
        angles = angles_at(rope, b, asked)
        row.scores = _scores(adapter, layer, query, layout, hidden[b, asked], angles, keys, prefix.numel())


def next_scores(
    state: Prefill, adapter: Adapter, layer: int, query: AttentionQuery, hidden: Tensor, rope: Rope, b: int
) -> Tensor:
    """Score the visual tokens of a row by the attention of a layer that has yet to run.

    Args:
        state: of the prompt.
        adapter: of the model.
        layer: which layer.
        query: which attention the reducer wants.
        hidden: [B, S, D] what that layer is about to be given.
        rope: as in `own_scores`.
        b: the row.

    Raises:
        UnsupportedError: as in `own_scores`.
    """
    _check_prefix(state, query)
    assert state.rows[b].layout is not None
    device = input_device(adapter.parts.layers[layer])  # under a device map it may be another one's
    at, layout = state.places(b, device), state.rows[b].layout.to(device)  # type: ignore[union-attr]
    normed = adapter.before_attention(layer, hidden[b].to(device).index_select(0, at))
    asking = layout.asking(query.tokens)
    asked = normed.index_select(0, asking)
    if query.source == "pre_rope":
        return _scores(adapter, layer, query, layout, asked, None, adapter.key_states(layer, normed), 0)
    keys, before = adapter.key_states(layer, normed, angles_at(rope, b, at)), 0
    if state.past:
        prefix = _prefix(state, b)
        held = state.cache.layers[layer].keys[b]
        keys, before = torch.cat([held.index_select(1, moved(prefix, held.device)), keys], dim=1), prefix.numel()
    angles = angles_at(rope, b, at.index_select(0, asking))
    return _scores(adapter, layer, query, layout, asked, angles, keys, before)


def _scores(
    adapter: Adapter, layer: int, query: AttentionQuery, layout: TokenLayout, asked: Tensor, rope: Rope | None,
    keys: Tensor, before: int,
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
    """
    at = None if rope is None else layout.asking(query.tokens) + before
    return question_attention(
        adapter.question_states(layer, asked, rope), keys, layout.visual + before, at, adapter.scale(layer),
        query.heads, query.rows, query.top_heads,
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
