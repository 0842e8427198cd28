"""Temporal positions with bit-equal pixels are encoded once: a gather before the vision tower, a copy after it.

In Qwen's towers attention never crosses a temporal position, and in towers of CLIP's form it never crosses an image or
frame. So equal pixels have equal features, whichever of them went through the tower. Fewer rows are another shape of
matrix products, whose sums may be made in another order: features differ from the stock tower's by a few units in the
last place. Where all differ, the tower is called as it came.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.seams import first_argument
from prunevid_qwen.adapters.vision import is_placeholder, taps_of, with_taps
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.tokens.device import moved, tensor_on

Count = Callable[[int, int], None]
"""Takes the visual tokens of a call of a tower, and those of them that it encodes."""

CARRIED = -1
"""The source of a position that equals the last one of the chunk before."""

_SAMPLE = 64  # places along a side of a frame at which it is looked first
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


# ---- in the reader's thread: from decoded frames


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


def spread(made: Tensor, sources: Sequence[int], last: Tensor | None) -> Tensor:
    """Copy what was made of the encoded positions of a chunk to all of them.

    Args:
        made: [E * L, ...] of the E positions of `encoded_of`, in order; L rows each.
        sources: of all T positions, as `SeenFrames.sources` returns them.
        last: [L, ...] of the last position of the chunk before; needed where a source is `CARRIED`.

    Returns:
        [T * L, ...].
    """
    encoded = encoded_of(sources)
    if len(encoded) == len(sources):
        return made
    rank = {number: at for at, number in enumerate(encoded)}
    parts = made.unflatten(0, (len(encoded), -1)) if encoded else made[:0]
    if CARRIED in sources:
        assert last is not None, "the chunk before has no last position"
        parts = torch.cat((parts, last[None])) if encoded else last[None]
        rank[CARRIED] = len(encoded)
    return parts.index_select(0, tensor_on([rank[source] for source in sources], made.device)).flatten(0, 1)


# ---- around the tower: from pixels


class _Ahead(threading.local):
    """Whether the call under way has no equal positions left, because whoever read the video took them out."""

    planned = False


_ahead = _Ahead()


@contextmanager
def planned_ahead() -> Iterator[None]:
    """Let towers take what this thread gives them inside the block as it is: its equal positions are taken out."""
    before, _ahead.planned = _ahead.planned, True
    try:
        yield
    finally:
        _ahead.planned = before


@contextmanager
def identical_once(adapter: Adapter, count: Count | None = None) -> Iterator[None]:
    """Let the vision towers encode positions of a video, or frames and images, with bit-equal pixels once.

    It goes around chunks (`vision_in_chunks`), so that they hold what is encoded.

    Args:
        adapter: of the model; its towers are restored on leaving.
        count: told of each call of a tower.
    """
    with ExitStack() as stack:
        for tower in dict.fromkeys(adapter.parts.towers.values()):
            stack.enter_context(replaced(tower, "forward", _once(adapter, tower.forward, count)))
        yield


def _once(adapter: Adapter, stock: Callable[..., Any], count: Count | None) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        grid = adapter.grid_of_call(args, kwargs)
        name = "pixel_values" if grid is None else "hidden_states"
        pixels = first_argument(args, kwargs, "the vision encoder's call", name)
        others = {key: value for key, value in kwargs.items() if key not in (name, "grid_thw")}
        # tensors among the rest are made for the whole input; attention weights are of no position alone
        whole = any(isinstance(value, Tensor) for value in (*others.values(), *args[1 + (grid is not None) :]))
        if whole or others.get("output_attentions") or (grid is not None and is_placeholder(pixels)):
            return stock(*args, **kwargs)
        sizes = [(len(pixels), 1)] if grid is None else [(t, h * w) for t, h, w in grid.tolist()]
        kept = None if _ahead.planned else _sources(pixels, sizes)
        if count is not None:
            _tell(count, adapter.tokens_of_call(args, kwargs), kept)
        if kept is None:
            return stock(*args, **kwargs)
        rows = _rows(kept, sizes)
        less = pixels.index_select(0, moved(rows.encoded, pixels.device))
        if grid is None:
            made = stock(less, *args[1:], **others)
        else:
            left = grid.clone()
            left[:, 0] = tensor_on([len(encoded_of(each)) for each in kept], grid.device)
            made = stock(less, left, *args[2:], **others)
        return _copied(made, rows)

    return forward


def _tell(count: Count, tokens: Sequence[int], kept: Sequence[Sequence[int]] | None) -> None:
    """Tell how many of the tokens of each video, or of all images, are encoded."""
    if kept is None:
        count(sum(tokens), sum(tokens))
    elif len(kept) == 1:  # of one video, or of images, each with as many tokens
        count(sum(tokens), sum(tokens) * len(encoded_of(kept[0])) // len(kept[0]))
    else:
        shares = (n * len(encoded_of(each)) // len(each) for n, each in zip(tokens, kept, strict=True))
        count(sum(tokens), sum(shares))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Which rows of a tower's input are encoded, and where the rows of its output are copied to.

    Args:
        encoded: [E] int64 rows of the input.
        source: [P] int64, for each row of the input the place in ``encoded`` of the one that it copies.
    """

    encoded: Tensor
    source: Tensor

    def of(self, made: Tensor) -> Tensor:
        """Copy what was made of the encoded rows to all rows; there may be several of a row, or one of several."""
        rows, given = len(made), len(self.encoded)
        if rows % given == 0:  # a patch's; or an image's, of which there may be many
            index = moved(self.source, made.device)
            return made.unflatten(0, (given, rows // given)).index_select(0, index).flatten(0, 1)
        if given % rows:
            raise UnsupportedError(
                f"the vision encoder made {rows} rows of {given}, so it cannot be told to which position each belongs: "
                "set reuse_identical=False"
            )
        each = given // rows  # patches of a token, which stand together
        return made.index_select(0, moved(self.source[::each] // each, made.device))


def _rows(kept: Sequence[Sequence[int]], sizes: Sequence[tuple[int, int]]) -> _Rows:
    encoded, source = list[Tensor](), list[Tensor]()
    at = done = 0
    for sources, (number, size) in zip(kept, sizes, strict=True):
        place = {position: done + rank * size for rank, position in enumerate(encoded_of(sources))}
        encoded += [torch.arange(at + position * size, at + (position + 1) * size) for position in place]
        source += [torch.arange(place[position], place[position] + size) for position in sources]
        at, done = at + number * size, done + len(place) * size
    return _Rows(torch.cat(encoded), torch.cat(source))


def _copied(made: Any, rows: _Rows) -> Any:
    """Copy whatever a tower returns from the encoded positions to all."""
    if made is None:
        return None
    if isinstance(made, Tensor):
        return rows.of(made)
    if isinstance(made, (tuple, list)):
        return type(made)(_copied(each, rows) for each in made)
    taps = taps_of(made)
    whole = type(made)(**{name: _copied(made[name], rows) for name in made})
    return with_taps(whole, None if taps is None else rows.of(taps))


def _sources(pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> list[list[int]] | None:
    """Tell of each position which earlier one of its video it equals; None where none equals another.

    The host waits once for the sums of all positions, and once more where two are equal.

    Args:
        pixels: [rows, ...].
        sizes: positions of each video, and rows of a position.
    """
    if all(number < 2 for number, _ in sizes):
        return None
    words = pixels.detach().flatten(1).contiguous().view(_WORDS[pixels.element_size()])
    videos, sums = list[list[Tensor]](), list[Tensor]()
    at = 0
    for number, size in sizes:
        videos.append([each.flatten() for each in words[at : at + number * size].split(size)])
        if number > 1:
            weights = _weights(videos[-1][0].numel(), words.device)
            sums += [(each * weights).sum() for each in videos[-1]]  # int64, as the weights are
        at += number * size
    told = iter(torch.stack(sums).tolist())
    out, pairs = list[list[int]](), list[tuple[int, int, int]]()
    for video, positions in enumerate(videos):
        first: dict[int, int] = {}
        numbers = range(len(positions))
        out.append([number if len(numbers) < 2 else first.setdefault(next(told), number) for number in numbers])
        pairs += [(video, number, source) for number, source in enumerate(out[-1]) if number != source]
    if not pairs:
        return None
    equal = torch.stack([(videos[video][a] == videos[video][b]).all() for video, a, b in pairs]).tolist()
    for (video, number, _), same in zip(pairs, equal, strict=True):
        if not same:  # equal sums of unequal pixels
            out[video][number] = number
    return out if any(equal) else None


def _weights(count: int, device: torch.device) -> Tensor:
    """Return [count] int64 weights whose sums tell nearly all unequal positions apart: a scrambled number for each."""
    number = torch.arange(1, count + 1, device=device) * -7046029254386353131
    return (number ^ (number >> 29)) * -4417276706812531889 | 1
