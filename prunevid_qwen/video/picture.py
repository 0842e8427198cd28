"""One image as it was read, with its own size."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from prunevid_qwen.video.data_uris import named
from prunevid_qwen.video.frames import read_picture


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as it was read.

    Args:
        pixels: uint8 RGB [H, W, 3].
        facts: what a receipt says of it: source, size and warnings. Whoever resizes it adds the size that it got.
    """

    kind: ClassVar[str] = "image"

    pixels: np.ndarray
    facts: dict[str, Any]

    @classmethod
    def of(cls, source: Any) -> Picture:
        """Read a path, a data URI, a PIL image or an array.

        Raises:
            MediaError: missing or unreadable.
        """
        pixels, note = read_picture(source)
        name = named(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
        warnings = [] if note is None else [f"{name}: {note}"]
        return cls(pixels, {"source": name, "size": list(pixels.shape[:2]), "warnings": warnings})

    def squared(self, color: tuple[int, int, int]) -> Picture:
        """Return the image in the middle of a square of one RGB color, whose side is the image's longer one.

        The facts say where it stands: "square" is [top, left, side]. A square image is returned as it is.
        """
        height, width = self.pixels.shape[:2]
        side = max(height, width)
        if height == width:
            return self
        top, left = (side - height) // 2, (side - width) // 2  # whole pixels, as LLaVA pads
        square = np.full((side, side, 3), color, np.uint8)
        square[top : top + height, left : left + width] = self.pixels
        return replace(self, pixels=square, facts={**self.facts, "square": [top, left, side]})
