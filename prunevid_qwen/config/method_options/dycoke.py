"""The options of DyCoke. Imports no torch. PAPERS.md has the source of each default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_share, checked_names


@checked_names("DyCokeOptions has")
@dataclass(frozen=True)
class DyCokeOptions(MethodOptions):
    """Options of DyCoke's temporal token merging (arXiv 2411.15024): frames lose what an earlier one shows too.

    Args:
        frame_keep_ratio: share of the tokens that is left of a frame with an earlier one to compare it with, in (0, 1].
            The first of each four frames keeps all its tokens, so a quarter of a video is the least that is left.
    """

    lever: ClassVar[str | None] = "frame_keep_ratio"

    frame_keep_ratio: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("frame_keep_ratio", self.frame_keep_ratio)

    def kept_of(self, frames: int, tokens: int) -> int:
        """Return the number of tokens left of a video.

        Args:
            frames: temporal positions.
            tokens: of each.
        """
        whole = -(-frames // 4)
        return whole * tokens + (frames - whole) * int(self.frame_keep_ratio * tokens)

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the number of visual tokens that is left.

        Args:
            layout: `TokenLayout` of the tokens before the step; only its blocks are read.
            step: unused.
        """
        total = 0
        for block in layout.blocks:
            frames, rows, columns = block.grid
            size = block.stop - block.start
            total += self.kept_of(frames, rows * columns) + block.unplaced if block.kind == "video" else size
        return total
