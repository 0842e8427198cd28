"""Options of `distinct`, a merger of this package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names, is_number
from prunevid_qwen.errors import ConfigError, quoted


@checked_names("DistinctOptions has")
@dataclass(frozen=True)
class DistinctOptions(MethodOptions):
    """Options of `distinct`: keep what is rare in the video and unlike everything kept near it.

    Args:
        cluster_ratio: share of the tokens of a video or image that is left, in (0, 1].
        time_reach: temporal positions over which likeness fades to 1/e, above 0. A token is compared less with what
            lies farther away in time.
        space_reach: the same within a position, in sides of the picture, above 0.
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.

    Raises:
        ConfigError: a value is out of its range.
    """

    exact: ClassVar[bool] = True
    ours: ClassVar[bool] = True

    cluster_ratio: float = 0.2
    time_reach: float = 4.0
    space_reach: float = 0.5
    merge_images: bool = True
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("time_reach", "space_reach"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value < math.inf or value > 1e300:
                raise ConfigError(f"{name} is a number above 0, got {quoted(value)}")
