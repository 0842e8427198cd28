"""The options of HoliTom's outer merging (arXiv 2505.21334)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_count, check_share, checked_names, is_number
from prunevid_qwen.errors import ConfigError, quoted

_LITTLE, _TAU_OF_LITTLE, _TAU = 0.1, 0.65, 0.8


@checked_names("HoliTomMergeOptions has")
@dataclass(frozen=True)
class HoliTomMergeOptions(MethodOptions):
    """Options of HoliTom's merging before the decoder (arXiv 2505.21334): windows of time, then tokens of each frame.

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1], whether windows of time save them or
            choice and clustering do. Rounding in each frame and window may leave a few more or fewer. At 1 nothing is
            merged.
        tau: a location is static in a window if its cosine similarity to the temporal position before is greater
            throughout, in (0, 1]. At 1 nothing is static. None is the authors' choice: 0.65 for a ``cluster_ratio`` of
            at most 0.1, else 0.8.
        beta: weight of a cluster's centre in the merged token, in [0, 1]; the mean of its other members has the rest.
            None averages all members equally.
        clustered_share: share of the tokens left of a frame's moving locations that are clusters, in [0, 1]. The others
            are those with the most attention.
        dpc_knn_k: neighbours of the DPC-KNN density, at least 1.
        max_window: temporal positions in a window at most, at least 1.
        merge_images: reduce images too. An image is one temporal position.
    """

    lever: ClassVar[str | None] = "cluster_ratio"

    cluster_ratio: float = 0.25
    tau: float | None = None
    beta: float | None = 0.6
    clustered_share: float = 0.0
    dpc_knn_k: int = 7
    max_window: int = 1024
    merge_images: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_window", self.max_window, 1)
        if self.tau is not None:
            check_share("tau", self.tau)
        for name in ("beta", "clustered_share"):
            value = getattr(self, name)
            if not (value is None and name == "beta") and not (is_number(value) and 0 <= value <= 1):
                raise ConfigError(f"{name} is a number in [0, 1], got {quoted(value)}")

    @property
    def threshold(self) -> float:
        """``tau``, or the authors' for this share."""
        if self.tau is not None:
            return self.tau
        return _TAU_OF_LITTLE if self.cluster_ratio <= _LITTLE else _TAU
