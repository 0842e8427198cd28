"""The options of VidCom2. Imports no torch. PAPERS.md has the source of each default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names


@checked_names("VidCom2Options has")
@dataclass(frozen=True)
class VidCom2Options(MethodOptions):
    """Options of VidCom2 (arXiv 2505.14454): frames unlike the video keep more tokens, and outliers stay.

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1]. A frame keeps at least one token and at
            most all, so the share that is left may differ a little.
        merge_images: reduce images too. An image is one frame.
    """

    cluster_ratio: float = 0.25
    merge_images: bool = False

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that may be left: the share, and rounding up once a frame.

        Args:
            layout: `TokenLayout` of the tokens before the step; only its blocks are read.
            step: unused.
        """
        total = 0
        for block in layout.blocks:
            size = block.stop - block.start
            cells = size - block.unplaced
            acts = block.kind == "video" or self.merge_images
            total += min(size, int(cells * self.cluster_ratio) + block.grid[0] + block.unplaced) if acts else size
        return total
