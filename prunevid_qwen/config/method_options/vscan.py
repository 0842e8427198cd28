"""Options of VScan's stage 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_count, checked_names, unknown
from prunevid_qwen.errors import ConfigError

WINDOW_BUDGETS = ("cap", "equal")


@checked_names("VScanMergeOptions has")
@dataclass(frozen=True)
class VScanMergeOptions(MethodOptions):
    """Options of VScan's stage 1, before the decoder (arXiv 2505.22654).

    Args:
        cluster_ratio: share of the tokens of a video or image that is left, in (0, 1].
        window_size: side of the windows of the local half, in tokens, at least 1. What does not fill a window belongs
            to the last one.
        window_budget: "cap" takes the best tokens of the whole frame, of each window at most its share, rounded up.
            "equal" takes its share, rounded down, of each window; what is left over goes to the global half.
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.

    Raises:
        ConfigError: a value is out of its range.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.167
    window_size: int = 4
    window_budget: str = "cap"
    merge_images: bool = True
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window_size", self.window_size, 1)
        if self.window_budget not in WINDOW_BUDGETS:
            raise ConfigError(unknown("window_budget is one of", self.window_budget, WINDOW_BUDGETS))
