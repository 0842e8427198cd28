"""WaitingRoom: how many bytes of decoded media may wait for the model, counted before they are decoded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.inputs.qwen.media import VIDEO_MAX_PIXELS
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions
from prunevid_qwen.serve.limits import ServeLimits

_FP32 = 4
_SIZES = ("resized", "max_pixels", "total_pixels", "min_pixels", "max_frames", "min_frames", "fps")
"""Options of an item that make it another size than its config says."""


@dataclass(eq=False)
class Place:
    """Of one request in the room.

    Args:
        bytes: that are held for it.
        come: set when it is let in.
    """

    bytes: int
    come: asyncio.Event = field(default_factory=asyncio.Event)


class WaitingRoom:
    """Lets requests in while their media fit, in the order in which they came; the first one fits always.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most, self._line = most, deque[Place]()
        self.bytes = 0
        """Of those that are inside."""

    @asynccontextmanager
    async def room_for(self, size: int) -> AsyncIterator[Place]:
        """Wait until there is room for so many bytes, and hold it inside the block; for none nobody waits."""
        mine = Place(size)
        if not size:
            yield mine
            return
        self._line.append(mine)
        self._let_in()
        try:
            await mine.come.wait()
            yield mine
        finally:
            if mine.come.is_set():
                self.bytes -= mine.bytes
            else:
                self._line.remove(mine)
            self._let_in()

    def known(self, place: Place, size: int) -> None:
        """Hold no more than what has come for a request that is inside."""
        spare = max(0, place.bytes - size)
        place.bytes -= spare
        self.bytes -= spare
        self._let_in()

    def _let_in(self) -> None:
        while self._line and (not self.bytes or self.bytes + self._line[0].bytes <= self._most):
            place = self._line.popleft()
            self.bytes += place.bytes
            place.come.set()


def bytes_of(items: list[Item], config: PruneVidConfig, limits: ServeLimits, video: PixelOptions | None) -> int:
    """Return the bytes of the media of a request once they are decoded, at most.

    Args:
        items: that show something.
        config: how they are read.
        limits: of frames, pixels, and tokens of a prompt.
        video: how the model wants frames; None where the library's processor makes its pixels.
    """
    flat = config.flat()
    frames = min(limits.frames, int(flat["max_frames"]))
    if video is None:
        return sum(3 * limits.pixels * (frames if item.kind == "video" else 1) for item in items)
    token = _FP32 * 3 * video.temporal_patch_size * video.factor**2
    whole = limits.prompt_tokens * token  # more is refused
    side: Any = flat["max_pixels"] or VIDEO_MAX_PIXELS
    usual = _FP32 * 3 * (frames + video.temporal_patch_size) * max(int(side), video.min_pixels)
    picture = _FP32 * 3 * video.temporal_patch_size * max(limits.pixels, video.min_pixels)
    sizes = [whole if any(name in item.options for name in _SIZES) else usual if item.kind == "video" else picture
             for item in items]  # fmt: skip
    return min(whole, sum(sizes))
