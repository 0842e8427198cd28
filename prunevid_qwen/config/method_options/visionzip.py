"""Options of VisionZip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names, is_number
from prunevid_qwen.errors import ConfigError, quoted


@checked_names("VisionZipOptions has")
@dataclass(frozen=True)
class VisionZipOptions(MethodOptions):
    """Options of VisionZip (arXiv 2412.04467).

    Args:
        cluster_ratio: share of the tokens of a video or image that is left, in (0, 1].
        contextual_share: share of those left that are contextual tokens, in [0, 1): merged from the tokens that are not
            left. The others are dominant tokens.
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.

    Raises:
        ConfigError: a value is out of its range.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 64 / 576
    contextual_share: float = 10 / 64
    merge_images: bool = True
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.contextual_share) or not 0 <= self.contextual_share < 1:
            raise ConfigError(f"contextual_share is a share in [0, 1), got {quoted(self.contextual_share)}")
