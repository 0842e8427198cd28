"""What a reducer is shown of each sample at one step: states, attention and keys here, and what `collector` wrote.

Nothing here hooks a model or is hooked: `run` calls these from the seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.forward.attention import Rope, angles_at, next_scores
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.forward.prefill import Prefill, SampleState
from prunevid_qwen.forward.vision_evidence import parted
from prunevid_qwen.kernels.products import without_autocast
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.tokens import TokenLayout
from prunevid_qwen.tokens.device import input_device, moved
from prunevid_qwen.tokens.trace import DOOR, Timestamp, Trace


class Sight:
    """What one step sees of a prompt, row by row; what is dear is made once a row.

    Args:
        state: of the prompt.
        adapter: of the model.
        step: whose reducer looks.
        number: which of that reducer's steps it is.
        hidden: [B, S, D] the output of the layer on which the step acts; at the door the embeddings.
        rope: makes the rotary angles of these tokens, when they are needed.
        steps_at: where all steps of that reducer stand.
        depth: layers of the decoder.
    """

    def __init__(
        self,
        state: Prefill,
        adapter: Adapter,
        step: Step,
        number: int,
        hidden: Tensor,
        rope: Callable[[], Rope],
        steps_at: tuple[int, ...] = (),
        depth: int = 0,
    ) -> None:
        self.state, self.adapter, self.step, self.number = state, adapter, step, number
        self.steps_at, self.depth = steps_at, depth
        self.hidden, self.device, self._rope = hidden, hidden.device, rope
        self.needs: Needs = step.by.needs

    @cached_property
    def rope(self) -> Rope:
        """Rotary angles of the tokens, each [B, S, d] or [3, B, S, d]."""
        return self._rope()

    def layout(self, b: int) -> TokenLayout:
        """Return the layout of a row with visual tokens, where the states are."""
        layout = self.state.rows[b].layout
        assert layout is not None
        return layout.to(self.device)

    def of(self, b: int) -> Evidence:
        """Return what the reducer sees of row ``b``, which has visual tokens."""
        row, layout = self.state.rows[b], self.layout(b)
        assert row.start is not None
        return Evidence(
            layout,
            self._states(b, _visual(row)),
            self._states(b, _asking(row, self.needs)),
            attention=self._attention(b),
            probe=None if row.probe is None or self.needs.probe is None else row.probe.to(self.device),
            marks=self._marks(row),
            vision=self._vision(row),
            keys=self._keys(b, _visual(row)) if self.needs.keys else None,
            question_keys=self._keys(b, _asking(row, self.needs)) if self.needs.keys and self.needs.question else None,
            angles=self._angles(b) if self.needs.angles else None,
            step=self.number,
            layer=self.step.at,
            start=row.start.visual.numel(),
            note=_there(row.notes.get(id(self.step.by)), self.device),
            entered=self.entered(b),
            steps_at=self.steps_at,
            depth=self.depth,
            source=self._source(row),
        )

    def entered(self, b: int) -> tuple[int, ...]:
        """Say how many tokens of each block came to the reducer's first step, which is this one where none is noted."""
        row = self.state.rows[b]
        assert row.layout is not None
        sizes = tuple(block.stop - block.start for block in row.layout.blocks)
        return row.entered.setdefault(id(self.step.by), sizes)

    def alike(self, one: int, other: int) -> Tensor | None:
        """Say whether two rows with the same videos and images show the reducer the same, [] bool; None: surely not.

        Only at the door, where nothing has been decided.
        """
        pairs = list(zip(self._dear(one), self._dear(other), strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            return None
        return torch.stack([moved((a == b).all(), self.device) for a, b in pairs if a is not b]).all()

    def _dear(self, b: int) -> Iterator[Tensor]:
        row = self.state.rows[b]
        yield self._states(b, _visual(row))
        yield self._states(b, _asking(row, self.needs))
        for given, wanted in ((row.taps, self.needs.vision), (row.marks, self.needs.marks)):
            if given is not None and wanted:
                yield given
        attention = self._attention(b)
        if attention is not None:
            yield attention
        if self.needs.keys:
            yield self._keys(b, _visual(row))
            if self.needs.question:
                yield self._keys(b, _asking(row, self.needs))
        if self.needs.angles:
            yield self._angles(b)

    def _states(self, b: int, places: Tensor) -> Tensor:
        """States [n, D] of some tokens of a row."""
        if not places.numel():
            return self.hidden[b, :0]
        pick = _picked_at_the_door if self.step.at == DOOR else _picked
        return pick(self.hidden, self.state, b, places)

    def _attention(self, b: int) -> Tensor | None:
        query, row = self.needs.attention, self.state.rows[b]
        if query is None:
            return None
        if row.scores is None:  # those of the layer's own projections are there already
            found = next_scores(self.state, self.adapter, self.step, query, self.hidden, self.rope, b)
            row.scores = found.to(self.device)
        return row.scores

    def _keys(self, b: int, places: Tensor) -> Tensor:
        """Keys [Hkv, n, d] of some tokens of a row."""
        state, adapter, layer = self.state, self.adapter, self.step.at
        if layer > DOOR:
            held = state.cache.written(layer, state.past + state.valid.shape[1])[b]
            at = state.places(b, held.device).index_select(0, moved(places, held.device))
            return held.index_select(1, at + state.past).to(self.device)
        device = input_device(adapter.parts.layers[0])
        at = state.places(b, device).index_select(0, moved(places, device))
        normed = adapter.before_attention(0, self._states(b, places).to(device))
        return adapter.key_states(0, normed, angles_at(self.rope, b, at)).to(self.device)

    def _angles(self, b: int) -> Tensor:
        at = self.state.places(b, self.device).index_select(0, moved(_visual(self.state.rows[b]), self.device))
        return self.adapter.turns(angles_at(self.rope, b, at)).to(self.device)

    def _vision(self, row: SampleState) -> dict[str, Tensor] | None:
        query, taps = self.needs.vision, row.taps
        if query is None or taps is None:
            return None
        for each in row.reductions:  # under a device map each step ran on another device
            taps = each.map.unmixed.mean(taps.to(each.map.target.device))
        seen = parted(taps.to(self.device), query, self.adapter.vision_width)
        if "states" in seen:  # beside scores they came in fp32
            seen["states"] = seen["states"].to(self.hidden.dtype)
        return seen

    def _source(self, row: SampleState) -> Tensor | None:
        source = row.source
        if source is None or row.layout is None or self.step.at != DOOR or row.reductions:
            return None
        first = torch.cat([torch.full((each.stop - each.start,), each.start) for each in row.layout.blocks])
        return moved(source[:, 0] + first, self.device)

    def _marks(self, row: SampleState) -> Tensor | None:
        marks = row.marks
        if marks is None or not self.needs.marks:
            return None
        for each in row.reductions:  # a dropped token goes into a slot of its own, which is cut off
            done = each.map
            target = torch.where(done.target < 0, done.n_out, done.target)
            marks = marks.to(target.device)
            marks = marks.new_zeros(done.n_out + 1).scatter_reduce(0, target, marks, "amax")[:-1]
        return marks.to(self.device)


def prepare(state: Prefill, embeds: Tensor, plan: Plan, trace: Trace) -> None:
    """Let each reducer that prepares look at every sample once, as it came; its notes go into the rows.

    Args:
        state: of the prompt, before any step.
        embeds: [B, S, D] the input embeddings.
        plan: its reducers, each of them once, in however many steps it stands.
        trace: where the time counts for the first of these steps; what stands at the door is timed with the prompt.
    """
    for step in plan.steps:
        by, looks = step.by, getattr(step.by, "prepare", None)
        if looks is None or plan.number_of(step):
            continue
        start = Timestamp.now(embeds.device)
        for b, row in enumerate(state.rows):
            if row.start is None:
                continue
            wanted = _visual(row), _asking(row, by.needs)
            hidden, question = (_picked_at_the_door(embeds, state, b, at) for at in wanted)
            seen = Evidence(row.start.to(embeds.device), hidden, question, start=hidden.shape[0])
            with torch.no_grad(), without_autocast(embeds.device):
                row.notes[id(by)] = looks(seen)
        if step.at > DOOR:
            trace.add("select", start, Timestamp.now(embeds.device), step.at)


def _picked(x: Tensor, state: Prefill, b: int, which: Tensor) -> Tensor:
    """Pick the tokens at some places [n] of a row's sequence out of [B, S, D]: [n, D]."""
    return x[b].index_select(0, state.places(b, x.device).index_select(0, moved(which, x.device)))


def _picked_at_the_door(x: Tensor, state: Prefill, b: int, which: Tensor) -> Tensor:
    """Pick as `_picked` does, while the host knows all places: neighbours as a view, for an hour of video is large."""
    at, n = state.valid[b].nonzero()[:, 0][which], which.numel()
    if n and int(at[-1]) - int(at[0]) + 1 == n:
        first = int(at[0])
        return x[b, first : first + n]
    return x[b].index_select(0, moved(at, x.device))


def _visual(row: SampleState) -> Tensor:
    assert row.layout is not None
    return row.layout.visual


def _asking(row: SampleState, needs: Needs) -> Tensor:
    """Places of the text tokens whose states are asked for, [Q'] int64."""
    assert row.layout is not None
    return row.layout.asking(str(needs.question)) if needs.question else row.layout.question[:0]


def _there(note: Any, device: torch.device) -> Any:
    """A note made of tensors is handed over where the step runs."""
    if isinstance(note, Tensor):
        return moved(note, device)
    if type(note) in (tuple, list):
        return type(note)(_there(each, device) for each in note)
    return note
