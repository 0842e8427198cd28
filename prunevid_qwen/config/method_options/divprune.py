"""Options of DivPrune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names


@checked_names("DivPruneOptions has")
@dataclass(frozen=True)
class DivPruneOptions(MethodOptions):
    """Options of DivPrune (arXiv 2503.02175).

    Args:
        cluster_ratio: share of the tokens of a video or image that is left, in (0, 1].
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.098
    merge_images: bool = True
    keep_tokens: int | None = None
