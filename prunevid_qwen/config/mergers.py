"""The options of the methods before the decoder, with their papers' defaults. Imports no torch.

The source of each default stands in PAPERS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names


@checked_names("PruneVidMergeOptions has")
@dataclass(frozen=True)
class PruneVidMergeOptions(MethodOptions):
    """PruneVid's stage 1 (arXiv 2412.16117, section 3.1).

    Args:
        tau: static threshold in (0, 1]: a location is static where its mean cosine similarity over a segment is
            strictly greater. 1 means that nothing is static.
        cluster_ratio: clusters per token of a group in (0, 1]; 1 merges nothing by clustering.
        temporal_segment_ratio: temporal segments asked for per temporal position, in (0, 1].
        dpc_knn_k: neighbours of the DPC-KNN density, at least 1 (clipped to the number of points).
        min_cluster_tokens: groups of at most this many tokens are not clustered, at least 0.
        merged_position: whose (t, h, w) a merged token takes: its cluster "center", the rounded "mean" of its members,
            or its "first" member.
        token_order: "spatiotemporal" sorts merged tokens by (t, h, w); "grouped" is the authors' order.
        merge_images: merge images too (one temporal position); off, they pass.
        cluster_scope: "per_group" gives each static or dynamic group its share of clusters; "video" spends the same
            number on the points of the video that are farthest from a denser one.
        static_cluster_ratio: clusters per static token of a segment, in (0, 1], or None for ``cluster_ratio``.
    """

    tau: float = 0.8
    cluster_ratio: float = 0.5
    temporal_segment_ratio: float = 0.25
    dpc_knn_k: int = 5
    min_cluster_tokens: int = 14
    merged_position: str = "center"
    token_order: str = "spatiotemporal"
    merge_images: bool = False
    cluster_scope: str = "per_group"
    static_cluster_ratio: float | None = None


@checked_names("RLTOptions has")
@dataclass(frozen=True)
class RLTOptions(MethodOptions):
    """Run-length tokenization (arXiv 2411.05222).

    Args:
        tau: a position continues the run where its cosine similarity with the one before is strictly greater, in
            (0, 1]; 1 merges nothing.
        temporal_segment_ratio: runs are at most ``max(1, round(1 / temporal_segment_ratio))`` positions long, in
            (0, 1]: as long as PruneVid's segments are on average.
    """

    lever: ClassVar[str | None] = "tau"

    tau: float = 0.8
    temporal_segment_ratio: float = 0.25


@checked_names("PoolOptions has")
@dataclass(frozen=True)
class PoolOptions(MethodOptions):
    """Average pooling, a control.

    Args:
        cluster_ratio: tokens left per token of a video, in (0, 1].
        merge_images: reduce images too.
        keep_tokens: tokens left of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.5
    merge_images: bool = False
    keep_tokens: int | None = None


@checked_names("UniformMergeOptions has")
@dataclass(frozen=True)
class UniformMergeOptions(MethodOptions):
    """Equally spaced tokens, a control.

    Args:
        cluster_ratio: tokens left per token of a video, in (0, 1].
        merge_images: reduce images too.
        keep_tokens: tokens left of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.5
    merge_images: bool = False
    keep_tokens: int | None = None


@checked_names("RandomMergeOptions has")
@dataclass(frozen=True)
class RandomMergeOptions(MethodOptions):
    """Tokens drawn at random, a control.

    Args:
        cluster_ratio: tokens left per token of a video, in (0, 1].
        random_seed: the same seed and sizes keep the same tokens, on every device; at least 0.
        merge_images: reduce images too.
        keep_tokens: tokens left of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True
    chance: ClassVar[bool] = True

    cluster_ratio: float = 0.5
    random_seed: int = 0
    merge_images: bool = False
    keep_tokens: int | None = None


MERGERS: dict[str, type] = {
    "prunevid": PruneVidMergeOptions,
    "rlt": RLTOptions,
    "pool": PoolOptions,
    "uniform": UniformMergeOptions,
    "random": RandomMergeOptions,
}
