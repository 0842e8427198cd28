"""Temporal positions whose decoded frames are bit-equal: found in the thread that reads a video, chunk by chunk.

What the vision tower makes of one of them is copied to the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.adapters.vision import Features
from prunevid_qwen.tokens.device import tensor_on

CARRIED = -1
"""The source of a position that equals the last one of the chunk before."""

_SAMPLE = 64  # places along a side of a frame at which it is looked first


class SeenFrames:
    """Finds temporal positions of one video whose frames are bit-equal to those of an earlier position, by chunks.

    A position is compared with all earlier ones of its chunk, and with the last one of the chunk before. So its memory
    is that of one position, and a picture that comes back in a later chunk is encoded once more.

    Args:
        depth: frames of a temporal position.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._last: np.ndarray | None = None  # [depth, H, W, 3]

    def sources(self, frames: np.ndarray) -> list[int]:
        """Tell of each temporal position of the next chunk which earlier one it equals.

        Args:
            frames: uint8 ``[n, H, W, 3]``; the last frame is repeated to fill a position.

        Returns:
            For each position the first equal one of this chunk (its own number where none is), or `CARRIED`.
        """
        known: dict[bytes, list[_Position]] = {}
        if self._last is not None:
            known[_glance(self._last)] = [_Position(self._last, CARRIED)]
        out = []
        for number in range(-(-len(frames) // self._depth)):
            own = _Position(_filled(frames[number * self._depth : (number + 1) * self._depth], self._depth), number)
            alike = known.setdefault(_glance(own.frames), [])
            source = next((each.source for each in alike if each.equals(own)), number)
            out.append(source)
            if source == number:
                alike.append(own)
            self._last = own.frames
        if self._last is not None:
            self._last = self._last.copy()  # no view, which would hold the whole chunk
        return out


@dataclass
class _Position:
    """Frames of a temporal position, [depth, H, W, 3]; their sum is made when it is first asked for."""

    frames: np.ndarray
    source: int
    sum: int | None = None

    def equals(self, other: _Position) -> bool:
        """Tell whether all bytes are equal; most unequal frames are told apart by their sums."""
        for each in (self, other):
            if each.sum is None:
                each.sum = zlib.crc32(np.ascontiguousarray(each.frames).data)
        return self.sum == other.sum and np.array_equal(self.frames, other.frames)


def _filled(frames: np.ndarray, depth: int) -> np.ndarray:
    return frames if len(frames) == depth else np.concatenate([frames, frames[-1:].repeat(depth - len(frames), axis=0)])


def _glance(frames: np.ndarray) -> bytes:
    """Return some pixels of each frame: unequal for most frames that are, and cheap."""
    rows, columns = (max(1, side // _SAMPLE) for side in frames.shape[1:3])
    return frames[:, ::rows, ::columns].tobytes()


def encoded_of(sources: Sequence[int]) -> list[int]:
    """Return which positions of a chunk are encoded: those that are their own source."""
    return [number for number, source in enumerate(sources) if number == source]


def of_positions(frames: np.ndarray, positions: Sequence[int], depth: int) -> np.ndarray:
    """Return the frames of some temporal positions, in order; what came where these are all.

    Args:
        frames: ``[n, H, W, 3]``.
        positions: which.
        depth: frames of a position.
    """
    if len(positions) == -(-len(frames) // depth):
        return frames
    return frames[[at for number in positions for at in range(number * depth, min(len(frames), (number + 1) * depth))]]


class Spreading:
    """Copies what was made of the encoded positions of one video to all of its positions, chunk by chunk.

    It holds what was made of the last position.
    """

    def __init__(self) -> None:
        self._cells = 0  # visual tokens of a position
        self._kept: list[int] = []  # which positions of the video were encoded
        self._positions = 0  # that came
        self._last: Features | None = None

    def features(self, made: Features | None, sources: Sequence[int], numbered: bool) -> Features:
        """Return the features of all positions of the next chunk.

        Args:
            made: of the positions of `encoded_of`, in order; None where there are none.
            sources: of all positions of the chunk, as `SeenFrames.sources` returns them.
            numbered: ``made.source`` counts on from earlier chunks; else it begins at 0.
        """
        kept = encoded_of(sources)
        self._cells = self._cells if made is None else len(made.tokens) // len(kept)
        begun = 0 if numbered else len(self._kept) * self._cells
        self._kept += [self._positions + number for number in kept]
        rank = {number: at for at, number in enumerate(kept)} | {CARRIED: len(kept)}
        rows = [rank[source] for source in sources]
        parts = []
        for name in Features._fields:
            own = None if made is None else getattr(made, name)
            if own is not None and name == "source":
                own = renumbered(own, begun, self._kept, self._cells)
            last = None if self._last is None else getattr(self._last, name)
            whole = _joined(own, last if CARRIED in sources else None)
            if whole is not None and len(kept) < len(sources):
                index = tensor_on(rows, whole.device)
                whole = whole.unflatten(0, (-1, self._cells)).index_select(0, index).flatten(0, 1)
                if name == "source":  # no block ran on a copy
                    copies = tensor_on([n for n, source in enumerate(sources) if n != source], whole.device)
                    whole.unflatten(0, (-1, self._cells))[copies, :, 1] = 0
            parts.append(whole)
        self._positions += len(sources)
        self._last = Features(*(None if x is None else x[-self._cells :].clone() for x in parts))  # type: ignore[arg-type]
        return Features(*parts)  # type: ignore[arg-type]


def _joined(own: Tensor | None, last: Tensor | None) -> Tensor | None:
    if own is None or last is None:
        return last if own is None else own
    return torch.cat((own, last))


def renumbered(source: Tensor, begun: int, kept: Sequence[int], cells: int) -> Tensor:
    """Count the tokens of a video's encoded positions, in a `source_of`, among those of all its positions.

    Args:
        source: [n, 2] int64 on the CPU, whose numbers are of encoded positions.
        begun: the number of the first token of these.
        kept: which positions are encoded.
        cells: tokens of a position.
    """
    number = source[:, 0] + begun
    place = torch.tensor(kept)[number // cells]
    return torch.stack([place * cells + number % cells, source[:, 1]], dim=1)
