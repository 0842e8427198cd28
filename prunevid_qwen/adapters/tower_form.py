"""What `prunevid_qwen.vision` has to know of a tower of Qwen's form, in which some places may be copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Deviation of each RGB channel, on a scale of 0 to 1, by which most families normalise pixels."""


@dataclass(frozen=True, eq=False)
class TowerForm:
    """A tower that embeds patches, sends them through blocks, and merges those of a visual token, which stand together.

    Its attention stays within a temporal position. Rotary angles have no time in them.

    Args:
        tower: takes pixels [patches, C] in raster order of the tokens, and their grids.
        embed: makes of pixels [patches, C] states [patches, width].
        blocks: each has an ``attn`` with ``qkv``, ``proj``, ``num_heads`` and ``scaling``; it is told
            ``position_embeddings``, a row for each patch.
        mergers: make of the states of patches one row for each token: the last of them of the last block, others of
            inner blocks (DeepStack).
        width: of the states.
        unit: patches of a token.
        side: tokens along a side of the windows in which blocks attend; None where all see the whole position.
        full: blocks that see the whole position.
        patch: pixels along a patch, frames that it spans.
        std: of each channel, by which stock inputs were normalised.
    """

    tower: nn.Module
    embed: nn.Module
    blocks: Sequence[Any]
    mergers: Sequence[nn.Module]
    width: int
    unit: int
    side: int | None
    full: frozenset[int]
    patch: tuple[int, int]
    std: tuple[float, ...] = CLIP_STD
