"""The options of FastVID. Imports no torch. PAPERS.md has the source of each default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_count, check_share, checked_names


@checked_names("FastVIDOptions has")
@dataclass(frozen=True)
class FastVIDOptions(MethodOptions):
    """Options of FastVID (arXiv 2503.11187): salient tokens stay, the others of a segment merge into anchors.

    Args:
        cluster_ratio: share of the tokens of each frame that its segment has to spend, in (0, 1]. With
            ``run_threshold`` fewer may be left, because a frame takes a limited number.
        segments: number of segments that a video is cut into at least, where it has so many frames; at least 1.
        segment_threshold: a segment ends where the cosine similarity of two frames is below it, in (0, 1].
        run_threshold: neighbouring frames of at least this cosine similarity, in (0, 1], are a run. Its last frame
            alone gets tokens of the segment's budget. None gives each frame its own.
        context_ratio: share of the budget for anchors, in (0, 1]. The rest is for salient tokens.
        anchor_step: one frame in so many has anchors, counted back from a segment's last; at least 1.
        anchor_weight: least weight of an anchor beside the mean of the tokens that merge into it, in (0, 1].
        merge_images: reduce images too. An image is one frame.
    """

    cluster_ratio: float = 0.27
    segments: int = 8
    segment_threshold: float = 0.84
    run_threshold: float | None = 0.95
    context_ratio: float = 0.4
    anchor_step: int = 4
    anchor_weight: float = 0.6
    merge_images: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("segment_threshold", "run_threshold", "context_ratio", "anchor_weight"):
            if name != "run_threshold" or self.run_threshold is not None:
                check_share(name, getattr(self, name))
        check_count("segments", self.segments, 1)
        check_count("anchor_step", self.anchor_step, 1)

    def budget_of(self, tokens: int) -> int:
        """Return how many tokens a frame of so many adds to its segment's budget: rounded down, at least 1."""
        return max(1, int(tokens * self.cluster_ratio))

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that may be left.

        Args:
            layout: `TokenLayout` of the tokens before the step; only its blocks are read.
            step: unused.
        """
        total = 0
        for block in layout.blocks:
            frames, rows, columns = block.grid
            acts = block.kind == "video" or self.merge_images
            total += frames * self.budget_of(rows * columns) + block.unplaced if acts else block.stop - block.start
        return total
