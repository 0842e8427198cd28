"""What the self-check shows a tiny model of each family, and what has to be left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.adapters.tiny import SIDE, Sample


@dataclass(frozen=True)
class Case:
    """Two rows of unlike length, so that one is padded; each frame's tokens number an even count.

    Args:
        rows: as `tiny_inputs` takes them.
        text: tokens of each row that are not visual, with those that stand around videos and images.
        tokens: of each row's images and videos.
        merged: half of each frame's, where nothing is static and stage 1 does not pass it.
        options: of the config, beside those of every family.
    """

    rows: tuple[Sample, Sample]
    text: tuple[int, int]
    tokens: tuple[tuple[int, ...], tuple[int, ...]]
    merged: tuple[tuple[int, ...], tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)


_QWEN = Case(  # an image, which passes, and videos
    (
        (("text", 2), ("image", 3, 3), ("text", 1), ("video", 2, 4, 4), ("text", 5)),
        (("text", 3), ("video", 3, 2, 4), ("text", 5)),
    ),
    (12, 10), ((9, 32), (24,)), ((9, 16), (12,)),
)  # fmt: skip
_IMAGE = ("image", SIDE, SIDE)
_LLAVA = Case(  # two images side by side
    ((("text", 3), _IMAGE, _IMAGE, ("text", 5)), (("text", 2), _IMAGE, ("text", 5))),
    (8, 7), ((16, 16), (16,)), ((8, 8), (8,)), {"merge_images": True},
)  # fmt: skip

CASES: Mapping[str, Case] = {"qwen2_5_vl": _QWEN, "qwen2_vl": _QWEN, "llava": _LLAVA}
