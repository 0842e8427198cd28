"""One image as it was read, with its own size."""

from __future__ import annotations

import os
from dataclasses import dataclass
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
