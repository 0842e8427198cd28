"""The steps of a plan over one prompt: what they decide, and the rows as they leave them.

Nothing here hooks a model or is hooked: `run` calls these from the seams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.evidence import Sight
from prunevid_qwen.forward.padding import gather_tokens, left_padded
from prunevid_qwen.forward.plan import Step
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.kernels.products import without_autocast
from prunevid_qwen.needs import Needs
from prunevid_qwen.reducer import Evidence, decided_by, merges
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import Reduction

NO_SCORES: Mapping[int, Tensor | None] = {}


def merge(
    state: Prefill, step: Step, sight: Sight, later: Needs, known: TokenMap | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Stage 1: decide once for each sample, average its embeddings.

    Args:
        state: of the prompt; layouts and maps are written into its rows.
        step: at the door.
        sight: what it sees: the embeddings [B, S, D] that the decoder was given.
        later: what the steps after it ask for.
        known: what it decided about these tokens before; None asks it.

    Returns:
        index [B, K] (whose place each token takes), on the CPU valid [B, K], and the new embeddings [B, K, D], or None
        when nothing changed.
    """
    places: list[Tensor] = []
    features: list[Tensor] = []
    maps: list[TokenMap | None] = [None] * len(state.rows)
    embeds = sight.hidden
    with torch.no_grad():
        twins = _showing_the_same(state, sight)
    for b, row in enumerate(state.rows):
        if row.layout is None:
            continue
        if b in twins:  # beams, or many questions about a video: decide once for all
            sight.entered(b)
            maps[b] = maps[twins[b]]
            continue
        maps[b] = _decided(step, sight, b) if known is None else known
    for row in state.rows:
        row.forget(later)
    if not _note(state, maps, step):
        return None
    for b, (row, chosen) in enumerate(zip(state.rows, maps, strict=True)):
        at = state.places(b, embeds.device)
        own = embeds[b].index_select(0, at)
        if row.layout is not None and chosen is not None:
            before = row.layout.to(embeds.device)
            whole = row.apply(before, chosen)
            at, own = whole.take(at, 0), before.made(own, chosen, row.layout, whole)
        places.append(at)
        features.append(own)
    index, valid = left_padded(places)
    return index, valid, _stacked(features, index.shape[1])


def _decided(step: Step, sight: Sight, b: int) -> TokenMap:
    with torch.no_grad():
        seen = sight.of(b)
        with without_autocast(sight.device):  # evidence is made as the model makes its own
            return decided_by(step.by, seen)


@runtime_checkable
class PlansTogether(Protocol):
    """A reducer between two layers that decides about the samples of a batch in one go."""

    def plan_together(self, seen: Sequence[Evidence]) -> list[TokenMap]:
        """Decide about each sample what ``plan`` would."""
        ...


def _decided_together(step: Step, sight: Sight, rows: Sequence[int]) -> Iterable[TokenMap]:
    """Decide about several rows of a batch: at once where the reducer can, else one after the other."""
    by = step.by
    # a class with a `plan` of its own is asked for that, whatever its parents decide together
    said = next((each for each in type(by).__mro__ if "plan" in vars(each)), type(by))
    if len(rows) < 2 or not isinstance(by, PlansTogether) or "plan_together" not in vars(said):
        return (_decided(step, sight, b) for b in rows)
    with torch.no_grad():
        seen = [sight.of(b) for b in rows]
        with without_autocast(sight.device):
            maps = by.plan_together(seen)
    return [decided_by(by, own, made) for own, made in zip(seen, maps, strict=True)]


def _stacked(rows: list[Tensor], width: int) -> Tensor:
    """Pad rows [n, D] on the left: [B, width, D]; padding carries no other token's content."""
    out = rows[0].new_zeros(len(rows), width, rows[0].shape[-1])
    for b, own in enumerate(rows):
        out[b, width - own.shape[0] :] = own
    return out


def _note(
    state: Prefill, maps: list[TokenMap | None], step: Step, scores: Mapping[int, Tensor | None] = NO_SCORES
) -> bool:
    """Write into the rows what a step decided, and by which scores; say whether that changes any of them."""
    needs = step.by.needs
    guided = needs.attention is not None or needs.probe is not None
    for b, (row, chosen) in enumerate(zip(state.rows, maps, strict=True)):
        if chosen is not None:
            score = scores.get(b)
            one_each = None if score is None or score.dim() != 1 else score
            row.reductions.append(Reduction(step.at, step.name, chosen, score=one_each, guided=guided))
    # the longest row may keep all while another one shrinks: equal length does not mean unchanged
    if all(chosen is None or chosen.is_identity for chosen in maps):
        return False
    state.check_free()
    return True


def _showing_the_same(state: Prefill, sight: Sight) -> dict[int, int]:
    """Rows that show a reducer the same as the row with visual tokens before them, and that row.

    Nothing that it may look at differs, but for how long the question is. The host asks the device once for all rows,
    and only if some have videos of equal grids.
    """
    pairs, same = [], []
    shown = [(b, row.layout) for b, row in enumerate(state.rows) if row.layout is not None]
    for (before, one), (b, other) in pairwise(shown):
        alike = sight.alike(before, b) if one.shows_like(other) else None
        if alike is not None:
            pairs.append((before, b))
            same.append(alike)
    equal = torch.stack(same).tolist() if same else []
    return {b: before for (before, b), each in zip(pairs, equal, strict=True) if each}


def select(state: Prefill, step: Step, sight: Sight, later: Needs) -> tuple[Tensor, Tensor, Tensor] | None:
    """Stage 2: decide for each sample which visual tokens the later layers see.

    The decision is taken without gradients; they pass through what is left.

    Args:
        state: of the prompt; layouts and maps are written into its rows.
        step: between two layers.
        sight: what it sees: the output [B, S, D] of the layer after which it stands.
        later: what the steps after it ask for.

    Returns:
        index [B, K] (whose place each token takes) and, on the CPU, valid [B, K] of what is left, and its states
        [B, K, D]; or None when nothing changed.

    Raises:
        UnsupportedError: the method merges and does not declare it.
    """
    maps: list[TokenMap | None] = [None] * len(state.rows)
    hidden = sight.hidden
    shown = [b for b, row in enumerate(state.rows) if row.layout is not None]
    scores: dict[int, Tensor | None] = {}
    for b, chosen in zip(shown, _decided_together(step, sight, shown), strict=True):
        row, maps[b] = state.rows[b], chosen
        scores[b] = row.scores
        row.forget(later)
        if not merges(step.by) and not chosen.is_selection:
            raise UnsupportedError(
                f"{type(step.by).__name__} merges tokens inside the decoder, where it may only drop them: merge in "
                "stage 1, or set `merges = True` in its class"
            )
        if row.probe is not None:
            row.probe = chosen.take(row.probe, -1)
    state.acted.append(step.at)
    if not _note(state, maps, step, scores):
        return None
    places: list[Tensor] = []
    states: list[Tensor] = []
    for b, (row, kept) in enumerate(zip(state.rows, maps, strict=True)):
        at = state.places(b, hidden.device)
        own = hidden[b].index_select(0, at) if merges(step.by) else None
        if row.layout is not None and kept is not None:
            before = row.layout.to(hidden.device)
            whole = row.apply(before, kept)
            at, own = whole.take(at, 0), None if own is None else before.made(own, kept, row.layout, whole)
        places.append(at)
        if own is not None:
            states.append(own)
    index, valid = left_padded(places)
    return index, valid, _stacked(states, index.shape[1]) if states else gather_tokens(hidden, index)
