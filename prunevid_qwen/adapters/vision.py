"""Two stand-ins for the forward of a vision tower: in pieces of bounded memory, and from features that are there.

In the towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL attention never crosses a temporal position (``cu_seqlens`` and the
windows are made for each), and everything else works on one patch or one visual token at a time. So a tower may be
given any number of whole positions at once; only the order of sums inside a matrix product may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.seams import require_arguments
from prunevid_qwen.tokens.device import input_device, moved

# What stands for pixels where features are there already: two columns that number the video. Real pixels have
# 1176 of them or more.
_DIGITS = 2
_BASE = 256  # whole numbers up to it are exact in bfloat16, to which transformers converts pixels


@contextmanager
def vision_in_chunks(tower: nn.Module, tokens: int | None) -> Iterator[None]:
    """Let ``tower`` take at most ``tokens`` visual tokens at once, but at least one temporal position.

    What fits is passed on as it came, in one call. A larger input goes through the tower's own forward in slices of
    whole temporal positions, and the outputs are joined: the same features up to the rounding of matrix products.

    Args:
        tower: of a stock model; restored on leaving.
        tokens: visual tokens (patches divided by the square of the merge size) a call, or None for no limit.
    """
    stock: Callable[..., Any] = tower.forward
    merge = int(tower.spatial_merge_size) ** 2  # type: ignore[arg-type]

    def encode(hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
        # tensors among the rest are indices that somebody made ahead for the whole input
        whole = is_placeholder(hidden_states) or any(isinstance(value, Tensor) for value in kwargs.values())
        if tokens is None or whole or hidden_states.shape[0] <= tokens * merge:
            return stock(hidden_states, grid_thw=grid_thw, **kwargs)
        outputs, at = [], 0
        for grids in chunk_grids(grid_thw.tolist(), tokens * merge):
            rows = sum(t * h * w for t, h, w in grids)
            part = grid_thw.new_tensor(grids)
            outputs.append(stock(hidden_states[at : at + rows], grid_thw=part, **kwargs))
            at += rows
        return joined(outputs)

    with replaced_forward(tower, encode):
        yield


@contextmanager
def images_in_chunks(tower: nn.Module, images: int | None) -> Iterator[None]:
    """Let a tower of CLIP's form take at most ``images`` images or frames at once inside the block; None: no limit.

    Args:
        tower: takes pixels [images, 3, H, W] first, or as ``pixel_values``; restored on leaving.
        images: at least 1.
    """
    stock: Callable[..., Any] = tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        pixels = args[0] if args else kwargs.get("pixel_values")
        if images is None or not isinstance(pixels, Tensor) or len(pixels) <= images:
            return stock(*args, **kwargs)
        others = {name: value for name, value in kwargs.items() if name != "pixel_values"}
        return joined([stock(part, *args[1:], **others) for part in pixels.split(images)])

    with replaced(tower, "forward", forward):
        yield


def chunk_grids(grids: Sequence[Sequence[int]], patches: int) -> list[list[list[int]]]:
    """Cut (t, h, w) grids, in order, into lists of grids of at most ``patches`` patches, or of one position above it.

    >>> chunk_grids([[3, 2, 2], [1, 2, 4]], 8)
    [[[2, 2, 2]], [[1, 2, 2]], [[1, 2, 4]]]
    """
    chunks: list[list[list[int]]] = []
    room = 0
    for t, h, w in grids:
        left = int(t)
        while left:
            if room < h * w:
                chunks.append([])
                room = max(patches, h * w)
            taken = min(left, room // (h * w))
            chunks[-1].append([taken, int(h), int(w)])
            room -= taken * h * w
            left -= taken
    return chunks


def joined(outputs: list[Any]) -> Any:
    """Join a tower's outputs for consecutive inputs along the first dimension, whatever they hold."""
    first = outputs[0]
    if first is None:  # hidden states of blocks that nobody asked for
        return None
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, (tuple, list)):  # DeepStack; hidden states of each block, when they are asked for
        return type(first)(joined(list(each)) for each in zip(*outputs, strict=True))
    whole = type(first)(**{name: joined([each[name] for each in outputs]) for name in first})
    beside = [[read(each) for each in outputs] for read in (taps_of, source_of)]
    taps, source = (None if any(each is None for each in own) else torch.cat(own) for own in beside)
    return with_source(with_taps(whole, taps), source)


def with_taps(output: Any, taps: Tensor | None) -> Any:
    """Let an output of the tower carry what its blocks made, [N, L, C]: an attribute that no library code looks at."""
    output.taps = taps
    return output


def taps_of(output: Any) -> Any:
    """Return the taps that an output of the tower carries, or None."""
    return getattr(output, "taps", None)


def with_source(output: Any, source: Tensor | None) -> Any:
    """Let an output of the tower say which of its tokens are copies, see `source_of`."""
    output.source = source
    return output


def source_of(output: Any) -> Any:
    """Return what an output of the tower says of its tokens, [N, 2] int64 on the CPU, or None.

    The first number is the token of the same video, in raster order, of which each is a copy: itself where it was
    encoded. The second is the number of blocks that ran on the unit. Where a token is made of several patches it is
    [N, 2] fp32: 1 for a patch that was encoded, else 0, and the number of blocks that ran on it.
    """
    return getattr(output, "source", None)


def is_placeholder(pixels: Tensor) -> bool:
    """Tell whether [patches, ...] are numbers of encoded videos instead of pixels."""
    return pixels.ndim == 2 and pixels.shape[1] == _DIGITS


class Features(NamedTuple):
    """What the tower makes of a video, or of some temporal positions of it.

    Args:
        tokens: [N, D] visual tokens, as the decoder gets them; with DeepStack [N, D * (1 + levels)], the features of
            each level beside them.
        taps: [N, L, C] of the blocks that are looked into, or None where none is.
        source: [N, 2] int64 as `source_of` returns it, or None where no token may be a copy.
    """

    tokens: Tensor
    taps: Tensor | None = None
    source: Tensor | None = None


class EncodedVideos:
    """Features of videos that were encoded ahead, and the forward that answers with them; see `vision_from_memory`.

    Args:
        tower: the vision tower that encodes, as it is now.
    """

    def __init__(self, tower: Any) -> None:
        self.tower = tower
        self.features: list[Features] = []
        self.stock: Callable[..., Any] = tower.forward  # that of the context, inside `vision_from_memory`
        self._kind: Any = None  # what the tower returns
        self._width = 0  # of a visual token
        self._merge = int(tower.spatial_merge_size) ** 2

    @torch.no_grad()
    def encode(self, pixels: Tensor, grid: Tensor, reuse: Any = None) -> Features:
        """Run the tower on one video, or on some whole temporal positions of it.

        Args:
            pixels: [patches, 1176]; pinned memory is copied without waiting.
            grid: [1, 3] int64 (t, h, w) in patches.
            reuse: which of them are encoded, and what the others copy: a `prunevid_qwen.vision.carried.Carried`, inside
                `prunevid_qwen.vision.tower.reusing`; or None.
        """
        device = input_device(self.tower)
        pixels, grid = moved(pixels, device), grid.to(device)
        beside = {} if reuse is None else {"reuse": reuse}
        output = self.tower(pixels.to(self.tower.dtype), grid_thw=grid, **beside)
        self._kind, self._width = type(output), output.pooler_output.shape[-1]
        levels, tokens = getattr(output, "deepstack_features", None), output.pooler_output
        tokens = torch.cat((tokens, *levels), dim=-1) if levels else tokens
        return Features(tokens, taps_of(output), source_of(output))

    def hold(self, features: Features) -> Tensor:
        """Keep the features of a whole video; return what stands for its pixels in a prompt, [patches, 2]."""
        if len(self.features) >= _BASE**_DIGITS:
            raise ValueError(f"{_BASE**_DIGITS} videos are held already: leave the context first")
        self.features.append(features)  # another thread may append, too
        number = next(at for at in reversed(range(len(self.features))) if self.features[at] is features)
        return self._standing_for(number)

    def taken(self, features: Features, of: EncodedVideos) -> Tensor:
        """Hold features that another object of the same tower holds, once however often; return what `hold` does."""
        self._kind, self._width = of._kind, of._width
        for at, each in enumerate(self.features):
            if each is features:
                return self._standing_for(at)
        return self.hold(features)

    def _standing_for(self, number: int) -> Tensor:
        digits = torch.tensor([divmod(number, _BASE)], dtype=torch.float32)
        return digits.repeat(self.features[number].tokens.shape[0] * self._merge, 1)

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
        """Answer for the videos that `hold` numbered, in whatever order and however often; encode other pixels.

        Raises:
            ValueError: a number that stands on a grid of another size.
        """
        if not is_placeholder(hidden_states):
            return self.stock(hidden_states, grid_thw=grid_thw, **kwargs)
        patches = grid_thw.prod(-1).tolist()
        if sum(patches) != hidden_states.shape[0]:
            raise ValueError(f"grids of {sum(patches)} patches came with {hidden_states.shape[0]} placeholders")
        chosen, at = [], 0
        for count in patches:
            rows = hidden_states[at : at + count]
            high, low = (int(digit) for digit in rows[0].tolist())
            number = high * _BASE + low
            if number >= len(self.features) or not bool((rows == rows[0]).all()):
                raise ValueError(f"a grid of {count} patches stands for no encoded video: number {number}")
            held = self.features[number].tokens.shape[0] * self._merge
            if held != count:
                raise ValueError(f"a grid of {count} patches stands for video {number}, whose encoded grid has {held}")
            chosen.append(self.features[number])
            at += count
        whole, taps, source = chosen[0] if len(chosen) == 1 else [_cat(part) for part in zip(*chosen, strict=True)]
        assert whole is not None
        tokens, *levels = whole.split(self._width, dim=-1)
        made = self._kind(pooler_output=tokens, **({"deepstack_features": levels} if levels else {}))
        return with_source(with_taps(made, taps), source)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    held = [part for part in parts if part is not None]
    return torch.cat(held) if len(held) == len(parts) else None


@contextmanager
def vision_from_memory(tower: nn.Module, videos: EncodedVideos | None = None) -> Iterator[EncodedVideos]:
    """Let ``tower`` answer for videos that were encoded ahead, once for all prompts, rows and beams that show them.

    Args:
        tower: of a stock model; restored on leaving.
        videos: encoded before; None starts with none.
    """
    videos = videos or EncodedVideos(tower)
    videos.stock = tower.forward
    with replaced_forward(tower, videos.forward):
        yield videos


@contextmanager
def replaced_forward(tower: nn.Module, encode: Callable[..., Any]) -> Iterator[None]:
    """Let ``tower`` run ``encode`` inside the block, and its own forward after it.

    Args:
        tower: of a stock model.
        encode: takes (hidden_states, grid_thw, **kwargs), as the stock forward does.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("hidden_states", "grid_thw"), args, strict=False)), **kwargs}
        require_arguments(given, "the vision encoder's call", "hidden_states", "grid_thw")
        return encode(**given)

    with replaced(tower, "forward", forward):
        yield
