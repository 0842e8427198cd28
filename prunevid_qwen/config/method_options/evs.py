"""Options of Efficient Video Sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names


@checked_names("EVSOptions has")
@dataclass(frozen=True)
class EVSOptions(MethodOptions):
    """Options of Efficient Video Sampling (arXiv 2510.14624).

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1], but at least its first temporal position.
            It is 1 - q of the paper.
        keep_tokens: number of tokens left of each video, instead of a share; at least 1, and at least its first
            temporal position. None means the share.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.25
    keep_tokens: int | None = None

    def count_in(self, grid: tuple[int, int, int]) -> int:
        """Return how many tokens of a video of this grid (T, h, w) are left, whatever it shows."""
        t, h, w = grid
        return max(h * w, count_of(t * h * w, self.cluster_ratio, self.keep_tokens))

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the number of visual tokens that are left of a sample. Images pass."""
        sizes: list[int] = [
            self.count_in(each.grid) + each.unplaced if each.kind == "video" else each.stop - each.start
            for each in layout.blocks
        ]
        return sum(sizes)
