"""Trace: the record of a run inside `pruned`. Only the hooks write it."""

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
    """The reduction of one row of the batch by one step of a plan.

    Args:
        at: the layer after which the step acted; -1 before the first layer.
        name: name of the method.
        map: map over the visual tokens before the step.
        frames: number of video frames that the step left without any token, where their text is dropped with them.
        text: [n] int64: where that text stood in the row before any reduction; None if none was dropped.
        score: [map.n_in] fp32: the attention of the question to each token, as the natural logarithm that the step
            chose by; None where it did not choose by that.
        guided: the step read the attention of the question, or of a probe.
    """

    at: int
    name: str
    map: TokenMap
    frames: int = 0
    text: Tensor | None = None
    score: Tensor | None = None
    guided: bool = False


@dataclass(frozen=True)
class SampleTrace:
    """The reductions of one row of the batch in the last prefill.

    Args:
        blocks: the row's videos and images before any reduction; empty for a text.
        tokens: number of visual tokens before any reduction.
        length: number of tokens of the whole sequence before any reduction.
        reductions: the reductions in order; empty for a text.
        cells: [tokens] int64 as in `TokenLayout`; None if every token is in its block's grid.
        source: [tokens, 2] int64 on the CPU: the token of the same video, in raster order, of which each is a copy
            (itself if it was encoded), and the number of blocks of the vision encoder that ran on it: of a tower of
            CLIP's form thousandths, a mean over the token's patches. None if no token may be a copy, or that is
            unknown.
    """

    blocks: tuple[Block, ...]
    tokens: int
    length: int
    reductions: tuple[Reduction, ...] = ()
    cells: Tensor | None = None
    source: Tensor | None = None

    @property
    def merged(self) -> TokenMap | None:
        """The map of stage 1 over all visual tokens; None if it did not run."""
        return next((each.map for each in self.reductions if each.at == DOOR), None)

    @property
    def kept(self) -> TokenMap | None:
        """The map of stage 2 over the visual tokens that entered the decoder; None if it did not run.

        Several steps between the layers are composed into one map.
        """
        cuts = [each.map for each in self.reductions if each.at > DOOR]
        # under a device map each step decides on the device of its layer
        return reduce(lambda one, other: one.unmixed.then(other.unmixed.to(one.rep.device)), cuts) if cuts else None

    @property
    def after_stage1(self) -> int:
        """Number of visual tokens that entered the decoder."""
        return self.tokens if self.merged is None else self.merged.n_out

    @property
    def after_stage2(self) -> int:
        """Number of visual tokens in the layers after the last step."""
        return self.reductions[-1].map.n_out if self.reductions else self.tokens

    def widths(self, layers: int) -> list[int]:
        """Number of visual tokens in each of the model's ``layers`` layers."""
        out = [self.tokens] * layers
        for each in self.reductions:
            first = each.at + 1
            out[first:] = [each.map.n_out] * (layers - first)
        return out

    def text_widths(self, layers: int) -> list[int]:
        """Number of text tokens in each of the model's ``layers`` layers: some frames take theirs along."""
        out = [self.length - self.tokens] * layers
        for each in self.reductions:
            first = each.at + 1
            out[first:] = [out[-1] - (0 if each.text is None else each.text.numel())] * (layers - first)
        return out

    @property
    def static_ratio(self) -> float:
        """Share of the visual tokens that stage 1 merged over time.

        For PruneVid these are the static tokens, whose features are alike over a segment. Similar content that moves
        can be alike too, so a high share does not prove a still video.
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
    """The record of one prefill and of the decoding after it."""

    samples: tuple[SampleTrace, ...] = ()
    cache_lengths: tuple[int, ...] = ()
    cache_bytes: int = 0
    seconds: Stopwatch = field(default_factory=Stopwatch)


class Trace:
    """The record that `pruned` yields: the last prefill and the decoding after it.

    If threads share a model, the thread that opened the block reads the newest prompt of any thread. Every other thread
    reads its own last prompt, or the newest one before it has any.

    Args:
        position_scheme: the scheme in use, "reference" or "hf".
        layer: M, the layer after which the last step acts.
        layers: number of decoder layers.
        prefills: number of prompts in this block, pruned or not, of all threads.
        samples: one entry for each row of the last prefill (beams are rows).
        cache_lengths: number of entries in each layer's cache after the last prefill.
        cache_bytes: bytes of keys and values after the last prefill.
        seconds: times of the parts "vision", "merge" (stage 1), "select" (stage 2), "compact" (stage 3), "prefill" (the
            decoder, including the three stages) and "decode", and of each step.
        steps_at: the layers of the plan's steps, as in `Reduction.at`; () if unknown.
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
        """One entry for each row of the prompt."""
        return self._read.samples

    @samples.setter
    def samples(self, value: tuple[SampleTrace, ...]) -> None:
        self._written.samples = value

    @property
    def cache_lengths(self) -> tuple[int, ...]:
        """Number of entries in each layer's cache after the prefill."""
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
        """Times of the prefill and of the decoding."""
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
        """For each sample, the indices of the visual tokens that are left after the last step, [K] int64."""
        out = []
        for sample in self.samples:
            places = torch.arange(sample.tokens)
            for each in sample.reductions:
                # the maps may be on several devices: the decoder's first and those of the layers
                places = each.map.rep if each.at == DOOR else each.map.take(places, 0)
            out.append(places)
        return out
