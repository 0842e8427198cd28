"""The options of FlashVID. Imports no torch. PAPERS.md has the source of each default."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_count, check_share, checked_names, is_number
from prunevid_qwen.errors import ConfigError, quoted


@checked_names("FlashVIDOptions has")
@dataclass(frozen=True)
class FlashVIDOptions(MethodOptions):
    """Options of FlashVID (arXiv 2602.08024): salient and diverse tokens stay, the others merge along trees over time.

    Args:
        cluster_ratio: share of the tokens of each frame that is left, in (0, 1], rounded up. The default is the paper's
            0.25 with its expansion by 1.25: a cut to 0.3 before layer 20 of 28 then makes the average 0.25.
        alpha: share of a frame's budget for selected tokens, in [0, 1], rounded up. The rest is for merged ones.
        merge_threshold: a token may join one of the frame before if their cosine similarity is above it, in (0, 1].
        segments: number of segments that a video is cut into at least, where it has so many frames; at least 1.
        segment_threshold: a segment ends where the cosine similarity of two frames is below it, in (0, 1].
        event_relevance: also weigh a token by its product with its segment's mean token. The authors turn it off for
            Qwen2.5-VL and Qwen3-VL.
        merge_images: reduce images too. An image is one frame.
    """

    cluster_ratio: float = 0.3125
    alpha: float = 0.7
    merge_threshold: float = 0.8
    segments: int = 8
    segment_threshold: float = 0.9
    event_relevance: bool = True
    merge_images: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("merge_threshold", "segment_threshold"):
            check_share(name, getattr(self, name))
        if not is_number(self.alpha) or not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha is a share in [0, 1], got {quoted(self.alpha)}")
        if not isinstance(self.event_relevance, bool):
            raise ConfigError(f"event_relevance is True or False, got {quoted(self.event_relevance)}")
        check_count("segments", self.segments, 1)

    def counts_of(self, tokens: int) -> tuple[int, int]:
        """Return how many selected and how many merged tokens a frame of so many has in its budget."""
        budget = min(tokens, ceil(tokens * self.cluster_ratio))
        selected = ceil(budget * self.alpha)
        return selected, budget - selected

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that may be left: clusters are rounded up once a frame.

        Args:
            layout: `TokenLayout` of the tokens before the step; only its blocks are read.
            step: unused.
        """
        total = 0
        for block in layout.blocks:
            frames, rows, columns = block.grid
            size = block.stop - block.start
            selected, merged = self.counts_of(rows * columns)
            most = frames * (selected + merged + (merged > 0)) + block.unplaced
            total += min(size, most) if block.kind == "video" or self.merge_images else size
        return total
