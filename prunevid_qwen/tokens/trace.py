"""What one run under `pruned` did: read by receipts, by tests and by people, written by the hooks alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.timestamps import Stopwatch as Stopwatch
from prunevid_qwen.tokens.timestamps import Timestamp as Timestamp

DOOR = -1  # where a step stands that acts before the first layer; others stand after the layer that they are named by


@dataclass(frozen=True)
class Reduction:
    """What one step of a plan did to one row.

    Args:
        at: the layer after which it acted, `DOOR` before the first one.
        name: of its method.
        map: over the visual tokens that came to it.
    """

    at: int
    name: str
    map: TokenMap


@dataclass(frozen=True)
class SampleTrace:
    """What happened to one row of the batch in the last prefill.

    Args:
        blocks: its videos and images before any reduction; empty for a text.
        tokens: visual tokens before any reduction.
        length: tokens of the whole sequence before any reduction.
        reductions: what each step did, in order; none for a text.
        cells: [tokens] int64 as in `TokenLayout`, where not every token stands in its block's grid.
    """

    blocks: tuple[Block, ...]
    tokens: int
    length: int
    reductions: tuple[Reduction, ...] = ()
    cells: Tensor | None = None

    @property
    def merged(self) -> TokenMap | None:
        """The map of stage 1, at the decoder's door, over all visual tokens; None when it did not run."""
        return next((each.map for each in self.reductions if each.at == DOOR), None)

    @property
    def kept(self) -> TokenMap | None:
        """The map of stage 2 over the tokens that entered the decoder; None when it did not run.

        Of several steps between the layers: what they did together.
        """
        cuts = [each.map for each in self.reductions if each.at > DOOR]
        # under a device map each step decides on the device of its layer
        return reduce(lambda one, other: one.unmixed.then(other.unmixed.to(one.rep.device)), cuts) if cuts else None

    @property
    def after_stage1(self) -> int:
        """Visual tokens that entered the decoder."""
        return self.tokens if self.merged is None else self.merged.n_out

    @property
    def after_stage2(self) -> int:
        """Visual tokens that the layers after the last step saw."""
        return self.reductions[-1].map.n_out if self.reductions else self.tokens

    def widths(self, layers: int) -> list[int]:
        """Visual tokens that each of the model's ``layers`` layers saw."""
        out = [self.tokens] * layers
        for each in self.reductions:
            first = each.at + 1
            out[first:] = [each.map.n_out] * (layers - first)
        return out

    @property
    def static_ratio(self) -> float:
        """Share of the visual tokens that stage 1 merged over time.

        Of PruneVid these are the static ones: their features looked alike over a segment. A picture that scrolls over
        similar content may look alike too, so this does not say that nothing moved.
        """
        if self.merged is None or not self.tokens:
            return 0.0
        static = 0
        for block in self.blocks:
            target = self.merged.target[block.start : block.stop]
            cells = torch.arange(target.numel()) if self.cells is None else self.cells[block.start : block.stop]
            frame = cells.to(target.device).div(block.grid[1] * block.grid[2], rounding_mode="floor")
            stays = (target >= 0) & (frame >= 0)  # a merger may also drop; a newline stands in no frame
            target, frame = target[stays], frame[stays]
            size = self.merged.n_out
            first = torch.full((size,), block.grid[0], device=target.device).scatter_reduce(0, target, frame, "amin")
            last = torch.full((size,), -1, device=target.device).scatter_reduce(0, target, frame, "amax")
            static += int((last > first)[target].sum())
        return static / self.tokens


@dataclass
class _Answer:
    """What is known of one prefill and the decoding after it."""

    samples: tuple[SampleTrace, ...] = ()
    cache_lengths: tuple[int, ...] = ()
    cache_bytes: int = 0
    seconds: Stopwatch = field(default_factory=Stopwatch)


class Trace:
    """What `pruned` yields: the last prefill and the decoding after it.

    Where threads share a model, the thread that opened the block reads of the prompt that began last, in whichever
    thread; any other thread reads of its own last prompt, or of that one as long as it has none.

    Args:
        position_scheme: "reference" or "hf", as used.
        layer: M, after which the last step stands.
        layers: decoder layers of the model.
        prefills: prompts seen in this context, pruned or not, of all threads.
        samples: one entry a row of the last prefill (beams are rows).
        cache_lengths: physical entries of each layer's cache after the last prefill.
        cache_bytes: bytes of keys and values after the last prefill.
        seconds: parts "vision", "merge" (stage 1), "select" (stage 2), "compact" (stage 3), "prefill" (the decoder, all
            three inside it) and "decode"; besides, those of each step.
        steps_at: where the plan's steps stand, as `Reduction.at`; () where that is not known.
    """

    def __init__(
        self,
        position_scheme: str,
        layer: int,
        layers: int,
        prefills: int = 0,
        samples: tuple[SampleTrace, ...] = (),
        cache_lengths: tuple[int, ...] = (),
        cache_bytes: int = 0,
        seconds: Stopwatch | None = None,
        steps_at: tuple[int, ...] = (),
    ) -> None:
        self.position_scheme, self.layer, self.layers, self.prefills = position_scheme, layer, layers, prefills
        self.steps_at = steps_at
        self._last = _Answer(samples, cache_lengths, cache_bytes, seconds or Stopwatch())
        self._own = threading.local()
        self._opener = threading.current_thread()
        self._lock = threading.Lock()
        self.is_open = True  # until the block is left

    def __reduce__(self) -> Any:
        read = self._read
        numbers = self.position_scheme, self.layer, self.layers, self.prefills
        return Trace, (*numbers, read.samples, read.cache_lengths, read.cache_bytes, read.seconds, self.steps_at)

    def __repr__(self) -> str:
        """Show it as its constructor is written."""
        return f"Trace{self.__reduce__()[1]!r}"

    # ---- what the hooks write is of their own thread's prompt

    def begin(self, samples: tuple[SampleTrace, ...]) -> None:
        """Begin on the next prompt of this thread."""
        with self._lock:
            self.prefills += 1
            self._own.answer = self._last = _Answer(samples)

    def add(self, part: str, start: Timestamp, stop: Timestamp, at: int | None = None) -> None:
        """Note that ``part`` ran from ``start`` to ``stop`` in this thread, for the step that stands ``at`` a place."""
        self._written.seconds.add(part, start, stop, at)

    @property
    def has_begun(self) -> bool:
        """True when there is a prompt that decoding in this thread may belong to."""
        return bool(self._written.samples)

    # ---- what everybody reads

    @property
    def samples(self) -> tuple[SampleTrace, ...]:
        """One entry a row of the prompt."""
        return self._read.samples

    @samples.setter
    def samples(self, value: tuple[SampleTrace, ...]) -> None:
        self._written.samples = value

    @property
    def cache_lengths(self) -> tuple[int, ...]:
        """Physical entries of each layer's cache after the prefill."""
        return self._read.cache_lengths

    @cache_lengths.setter
    def cache_lengths(self, value: tuple[int, ...]) -> None:
        self._written.cache_lengths = value

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values after the prefill."""
        return self._read.cache_bytes

    @cache_bytes.setter
    def cache_bytes(self, value: int) -> None:
        self._written.cache_bytes = value

    @property
    def seconds(self) -> Stopwatch:
        """Moments of the prefill and of the decoding."""
        return self._read.seconds

    @property
    def _written(self) -> _Answer:
        # a conversation may go on in another thread than it began in: then it is the last one's
        answer: _Answer = getattr(self._own, "answer", self._last)
        return answer

    @property
    def _read(self) -> _Answer:
        return self._last if threading.current_thread() is self._opener else self._written

    @property
    def kept(self) -> list[Tensor]:
        """For each sample, the places of the visual tokens that are left after the last stage, [K] int64."""
        out = []
        for sample in self.samples:
            places = torch.arange(sample.tokens)
            for each in sample.reductions:
                # the maps may be on several devices: the decoder's first and those of the layers
                places = each.map.rep if each.at == DOOR else each.map.take(places, 0)
            out.append(places)
        return out
