"""Samples at the decoder's door, for methods that decide about one video or image by what they are shown."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from prunevid_qwen.needs import Evidence
from prunevid_qwen.tokens import Block
from tests.method_reference import layout_of


def shown(grid: tuple[int, int, int], tokens: Tensor, kind: str = "video", **evidence: Any) -> Evidence:
    """One video or image of this grid, between a token of text and another one.

    Args:
        grid: (T, h, w).
        tokens: [T * h * w, C].
        kind: "video" or "image".
        evidence: fields of `Evidence`.
    """
    layout = dataclasses.replace(layout_of(1, len(tokens), 1), blocks=(Block(kind, grid, 0, len(tokens)),))
    return Evidence(layout, tokens, tokens[:0], start=len(tokens), **evidence)
