"""One prompt on its way through the decoder: its rows, and the spans of layers that see the same of it.

Nothing here hooks a model or is hooked: `run` calls `steps` over it from the seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.masks import layer_mask
from prunevid_qwen.adapters.seams import checkpointed
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.deepstack import DeepStack
from prunevid_qwen.forward.layer_kinds import mixed
from prunevid_qwen.forward.padding import consecutive
from prunevid_qwen.forward.prompt import VisualPrompt
from prunevid_qwen.reducer import Needs
from prunevid_qwen.stage3_kv.cache import CacheSpan, PrunedCache
from prunevid_qwen.tokens import TokenLayout, TokenMap
from prunevid_qwen.tokens.device import moved
from prunevid_qwen.tokens.trace import Reduction, SampleTrace


@dataclass
class SampleState:
    """One sample of a prompt: what its tokens are now, and what was decided about them."""

    start: TokenLayout | None  # before any step; None for a text
    length: int  # tokens of the whole sample before any step
    layout: TokenLayout | None = None  # now
    reductions: list[Reduction] = field(default_factory=list)
    scores: Tensor | None = None
    probe: Tensor | None = None  # [L, H, P, N'] what a probe made of the visual tokens that are left
    taps: Tensor | None = None  # [N, L, C] of the vision tower, before any step
    source: Tensor | None = None  # [N, 2] int64 of which token of its video each is a copy, before any step
    marks: Tensor | None = None  # [N] fp32 by the caller, before any step
    notes: dict[int, Any] = field(default_factory=dict)  # by the reducers that prepared, by their `id`
    entered: dict[int, tuple[int, ...]] = field(default_factory=dict)  # tokens of each block at a reducer's first step
    stood: Tensor | None = None  # [S'] where each token that is left stood, noted where text may be dropped

    def apply(self, before: TokenLayout, chosen: TokenMap) -> TokenMap:
        """Apply to the whole sequence what the last step decided; return the map over it."""
        self.layout, whole = before.apply(chosen)
        if before.frames is not None:
            stood = torch.arange(before.length, device=whole.rep.device) if self.stood is None else self.stood
            stood = moved(stood, whole.rep.device)
            gone = whole.target < 0
            gone[before.visual] = False
            frames = len(set(before.frames[gone].tolist()))
            self.reductions[-1] = replace(self.reductions[-1], frames=frames, text=stood[gone] if frames else None)
            self.stood = stood[whole.rep]
        return whole

    def trace(self) -> SampleTrace:
        """Return what a trace says of it."""
        tokens = 0 if self.start is None else self.start.visual.numel()
        blocks = () if self.start is None else self.start.blocks
        cells = None if self.start is None else self.start.cells
        return SampleTrace(blocks, tokens, self.length, tuple(self.reductions), cells, self.source)

    def forget(self, later: Needs) -> None:
        """Let go of evidence that was judged, but for what a later step asks for."""
        self.scores = None
        self.probe = None if later.probe is None else self.probe
        self.taps = None if later.vision is None else self.taps


@dataclass
class Span:
    """What consecutive layers see of a prompt: the same tokens.

    Args:
        first: of these layers; they end where the next span begins.
        valid: [B, K] bool on the CPU, False on padding.
        rope: (cos, sin) of these tokens; None for the first span, which is given the decoder's own.
    """

    first: int
    valid: Tensor
    rope: tuple[Tensor, Tensor] | None = None
    mask: Any = None  # made when the first of the layers asks
    text_row: Tensor | None = None  # [B, K] places counted without gaps, made with the mask
    has_mask: bool = False


@dataclass
class Prefill:
    """The state of one prompt."""

    rows: list[SampleState]
    cache: PrunedCache
    logical: int  # tokens of this block as `generate` counts them
    past: int  # entries in the cache before it
    valid: Tensor  # [B, S] bool on the CPU: where tokens of this block stand now
    past_valid: Tensor | None  # [B, past] bool on the CPU, None when all are valid
    fixed: str | None = None  # why no token may be dropped or merged
    merged: bool = False  # the step at the door changed something
    acted: list[int] = field(default_factory=list)  # after which layers a step has decided
    deepstack: DeepStack | None = None  # what is to be added to the first layers' outputs
    origin: Tensor | None = None  # [B, 1] positions of the rows' first tokens, where positions are packed
    spans: list[Span] = field(init=False)  # of all layers, the last one being that of the layers to come
    came: Tensor = field(init=False)  # [B, S] bool on the CPU: `valid` before any step

    def __post_init__(self) -> None:
        self.came, self.spans = self.valid, [Span(0, self.valid)]

    @classmethod
    def of(cls, prompt: VisualPrompt, cache: PrunedCache, past: int, deepstack: DeepStack | None) -> Prefill:
        """Start on a prompt."""
        rows = [SampleState(layout, n, layout) for layout, n in zip(prompt.layouts, prompt.lengths, strict=True)]
        valid = prompt.valid
        return cls(rows, cache, valid.shape[1], past, valid, prompt.past_valid, prompt.fixed, deepstack=deepstack)

    @property
    def shortened(self) -> bool:
        """True when a step has dropped or merged something in some row."""
        return self.merged or len(self.spans) > 1

    def entered(self, valid: Tensor) -> None:
        """Note where tokens stand, [B, K], after a step at the door."""
        self.valid, self.merged, self.spans = valid, True, [Span(0, valid)]
        self._follow()

    def cut(self, at: int, valid: Tensor, rope: tuple[Tensor, Tensor]) -> None:
        """Note where tokens stand, [B, K], after a step on the output of layer ``at``, and their rotary angles."""
        before = self.spans[-1]
        before.rope = before.mask = before.text_row = None  # no layer asks for them again
        self.valid = valid
        self.spans.append(Span(at + 1, valid, rope))
        self._follow()

    def _follow(self) -> None:
        """Let what is still to be added to the visual tokens follow the step that has just acted."""
        if self.deepstack is not None:
            shown = [(None, None) if row.layout is None else (row.reductions[-1].map, row.layout) for row in self.rows]
            places = [
                None if own is None else self.places(b, own.visual.device)[own.visual]
                for b, (_, own) in enumerate(shown)
            ]
            self.deepstack.follow([done for done, _ in shown], places, self.valid.shape[1])

    def with_deepstack(self, layer: int, out: Any) -> Any:
        """Add to the output of one of the first layers what the decoder would add after it; None: nothing."""
        return None if self.deepstack is None else self.deepstack.added(layer, out)

    def pack(self, positions: Tensor) -> None:
        """Count positions without gaps from now on, from each row's first one in ``positions`` [B, S]."""
        first = self.valid.byte().argmax(1, keepdim=True)
        self.origin = positions.gather(1, moved(first, positions.device))

    def packed(self, valid: Tensor) -> Tensor:
        """Count the tokens that stand somewhere, [B, K], without gaps from each row's first position on."""
        assert self.origin is not None
        return moved(consecutive(valid), self.origin.device) + self.origin

    def places(self, b: int, device: torch.device) -> Tensor:
        """Where the tokens of row ``b`` stand, [n] int64."""
        return moved(self.valid[b].nonzero()[:, 0], device)

    def mask(self, adapter: Adapter, hidden: Tensor, valid: Tensor) -> Any:
        """Make the mask of ``hidden`` [B, K, D], tokens that stand where ``valid`` [B, K] says: see `layer_mask`."""
        return layer_mask(adapter.parts.text_config, hidden, self.whole(valid), self.past)

    def given_to(self, adapter: Adapter, layer: int, hidden: Tensor) -> dict[str, Any]:
        """Say what a layer has to be given instead of what the decoder gives it, by the names of its arguments.

        Args:
            adapter: of the model.
            layer: of the last span.
            hidden: [B, K, D] its input.
        """
        span, given = self.spans[-1], dict[str, Any]()
        own = bool(span.first) or (self.merged and mixed(adapter))  # else the decoder's mask is of what is left
        gapped = self.merged and not adapter.spatial  # positions of the first span
        if not own and not gapped:
            return given
        if not span.has_mask:
            span.mask = self.mask(adapter, hidden, span.valid) if own else None
            span.text_row = moved(consecutive(span.valid), hidden.device)
            span.has_mask = True
        given["position_ids"] = span.text_row
        if own:
            given["attention_mask"] = adapter.mask_of(layer, span.mask, span.valid, hidden.device)
        if span.first:
            given["position_embeddings"] = span.rope
        return given

    def end_of(self, b: int) -> int:
        """Place of the prompt's last token of row ``b``: candidates of assisted decoding may follow it."""
        layout = self.rows[b].layout
        if layout is None:
            return self.valid.shape[1] - 1
        return int(self.valid[b].nonzero()[int(layout.question[-1]), 0])

    def filled(self, layer: int) -> bool:
        """Tell whether layer ``layer`` wrote this block into the cache."""
        return self.cache.physical_length(layer) > self.past

    def close(self, layers: Sequence[nn.Module], compress: bool) -> None:
        """Hand the cache what decoding needs, once all layers have run.

        Args:
            layers: of the decoder; those that are checkpointed may have left the cache empty.
            compress: the caches of the layers before each step were cut.

        Raises:
            PruningNotApplied: the last layer filled it with another number of entries.
        """
        cache, packed, last = self.cache, self.origin is not None, len(layers) - 1
        filled = max(layer for layer in range(len(layers)) if hasattr(layers[layer], "self_attn"))
        spans = [span for span in self.spans if span.first <= last]
        held = [(span.first, self.valid if compress else span.valid) for span in spans]
        if compress and not packed:
            held = held[:1]
        if not cache.physical_length() and checkpointed(layers):
            return
        cache.written(filled, self.past + next(x for first, x in reversed(held) if first <= filled).shape[1])
        if self.shortened:
            cache.changed = True
            fewer = [self.came.sum(1) - span.valid.sum(1) if packed else None for span in spans[: len(held)]]
            cache.spans = tuple(
                CacheSpan(first, self.logical - valid.shape[1], *map(cache.beside, (self.whole(valid), by)))
                for (first, valid), by in zip(held, fewer, strict=True)
            )
            cache.prompt = cache.get_seq_length()

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
