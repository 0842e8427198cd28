"""Temporal positions with bit-equal pixels are encoded once: a gather before the vision tower, a copy after it.

In Qwen's towers attention never crosses a temporal position, and in towers of CLIP's form it never crosses an image or
frame. So equal pixels have equal features, whichever of them went through the tower. Fewer rows are another shape of
matrix products, whose sums may be made in another order: features differ from the stock tower's by a few units in the
last place. Where all differ, the tower is called as it came.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.seams import first_argument
from prunevid_qwen.adapters.vision import is_placeholder, source_of, taps_of, with_source, with_taps
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.tokens.device import moved, tensor_on
from prunevid_qwen.vision.equal_frames import encoded_of, renumbered

_STATES = ("last_hidden_state", "hidden_states")  # of patches, in outputs of towers; all else is of tokens
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Ahead(threading.local):
    """Whether the call under way has no equal positions left, because the reader of the video took them out."""

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
def identical_once(adapter: Adapter) -> Iterator[None]:
    """Let the vision towers encode positions of a video, or frames and images, with bit-equal pixels once.

    It goes around chunks (`vision_in_chunks`), so that they hold what is encoded. Outputs of Qwen's towers say of each
    token which one it copies, see `source_of`.

    Args:
        adapter: of the model; its towers are restored on leaving.
    """
    with ExitStack() as stack:
        for tower in dict.fromkeys(adapter.parts.towers.values()):
            stack.enter_context(replaced(tower, "forward", _once(adapter, tower.forward)))
        yield


def _once(adapter: Adapter, stock: Callable[..., Any]) -> Callable[..., Any]:
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
        planned = _ahead.planned or others.get("reuse") is not None  # which counts on all positions
        kept = None if planned else _sources(pixels, sizes)
        if kept is None:
            made = stock(*args, **kwargs)
        else:
            rows = _rows(kept, sizes)
            less = pixels.index_select(0, moved(rows.encoded, pixels.device))
            if grid is None:
                made = stock(less, *args[1:], **others)
            else:
                left = grid.clone()
                left[:, 0] = tensor_on([len(encoded_of(each)) for each in kept], grid.device)
                made = stock(less, left, *args[2:], **others)
            made = _copied(made, rows)
        if not hasattr(made, "__dict__"):
            return made  # a tuple
        if grid is None:
            return _noted_frames(made, None if kept is None else kept[0], adapter)
        return _noted(made, adapter.tokens_of_call(args, kwargs), kept, sizes, adapter)

    return forward


def _noted(
    made: Any, tokens: Sequence[int], kept: Sequence[Sequence[int]] | None, sizes: Sequence[tuple[int, int]],
    adapter: Adapter,
) -> Any:  # fmt: skip
    """Let a tower's output say of each token which one it copies: itself, or what reuse says, where none was equal."""
    known: Tensor | None = source_of(made)  # of encoded positions, copied to all
    out, at = [], 0
    for video, ((positions, _), count) in enumerate(zip(sizes, tokens, strict=True)):
        cells, own = count // positions, list(range(positions)) if kept is None else kept[video]
        if known is None:
            token = (torch.tensor(own)[:, None] * cells + torch.arange(cells)).flatten()
            source = torch.stack([token, torch.full_like(token, len(adapter.vision_blocks))], dim=1)
        else:
            source = known[at : at + count]
            source = source if kept is None else renumbered(source, 0, encoded_of(own), cells)
        copies = torch.tensor([place != number for number, place in enumerate(own)])
        source[copies.repeat_interleave(cells), 1] = 0  # no block ran on a copy
        out.append(source)
        at += count
    return with_source(made, torch.cat(out))


def _noted_frames(made: Any, sources: Sequence[int] | None, adapter: Adapter) -> Any:
    """Let a tower's output say on which frames or images its layers ran, as `source_of` says it of patches.

    A frame that equals the one before it is a copy of it. One that equals another is its own source, on which no layer
    ran: the other one may be of another video.
    """
    frames, patches = made.last_hidden_state.shape[:2]
    ran = torch.ones(frames, patches, 2, device="cpu")
    ran[..., 1] = len(adapter.vision_blocks)
    if sources is not None:
        copies = [number for number, source in enumerate(sources) if number != source]
        ran[copies, :, 1] = 0
        ran[[number for number in copies if sources[number] == sources[number - 1]], :, 0] = 0
    return with_source(made, adapter.raster(ran, None))


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

    def of_states(self, made: Any) -> Any:
        """Copy the states of all encoded rows to all rows; of fewer rows, as under reuse of places, leave them."""
        if isinstance(made, (tuple, list)):
            return type(made)(self.of_states(each) for each in made)
        return self.of(made) if isinstance(made, Tensor) and len(made) % len(self.encoded) == 0 else made


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
    whole = type(made)(
        **{name: rows.of_states(made[name]) if name in _STATES else _copied(made[name], rows) for name in made}
    )
    taps, source = (None if each is None else rows.of(each) for each in (taps_of(made), source_of(made)))
    return with_source(with_taps(whole, taps), source)


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
