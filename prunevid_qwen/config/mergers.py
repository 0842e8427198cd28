"""The options of the mergers, with their papers' defaults. Imports no torch.

PAPERS.md has the source of each default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config import method_options
from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import checked_names


@checked_names("PruneVidMergeOptions has")
@dataclass(frozen=True)
class PruneVidMergeOptions(MethodOptions):
    """Options of PruneVid's stage 1 (arXiv 2412.16117, section 3.1).

    Args:
        tau: static threshold in (0, 1]. A location is static if its mean cosine similarity over a segment is greater.
            At 1 nothing is static.
        cluster_ratio: clusters per token of a group, in (0, 1]. At 1 nothing is clustered.
        temporal_segment_ratio: temporal segments per temporal position, in (0, 1].
        dpc_knn_k: neighbours of the DPC-KNN density, at least 1. A group of fewer points uses all of them.
        min_cluster_tokens: groups of at most this many tokens are not clustered, at least 0.
        merged_position: the (t, h, w) of a merged token is that of its cluster's "center", the rounded "mean" of its
            members, or that of its "first" member.
        token_order: "spatiotemporal" sorts merged tokens by (t, h, w). "grouped" is the authors' order.
        merge_images: merge images too. An image is one temporal position.
        cluster_scope: "per_group" gives each static or dynamic group its share of the clusters. "video" gives the same
            number to the points of the video that are farthest from a denser one.
        static_cluster_ratio: clusters per static token of a segment, in (0, 1]. None means ``cluster_ratio``.
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
    """Options of run-length tokenization (arXiv 2411.05222): each location is merged while it looks the same.

    Args:
        tau: a location's run goes on while its cosine similarity with the position before is greater; in (0, 1]. At 1
            nothing is merged.
        temporal_segment_ratio: in (0, 1]. A run has at most ``max(1, round(1 / temporal_segment_ratio))`` temporal
            positions, the average length of PruneVid's segments.
    """

    lever: ClassVar[str | None] = "tau"

    tau: float = 0.8
    temporal_segment_ratio: float = 0.25


@checked_names("PoolOptions has")
@dataclass(frozen=True)
class PoolOptions(MethodOptions):
    """Options of a control that averages equal cells of tokens.

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1].
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.5
    merge_images: bool = False
    keep_tokens: int | None = None


@checked_names("UniformMergeOptions has")
@dataclass(frozen=True)
class UniformMergeOptions(MethodOptions):
    """Options of a control that keeps equally spaced tokens.

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1].
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.5
    merge_images: bool = False
    keep_tokens: int | None = None


@checked_names("RandomMergeOptions has")
@dataclass(frozen=True)
class RandomMergeOptions(MethodOptions):
    """Options of a control that keeps random tokens.

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1].
        random_seed: at least 0. Equal seeds and sizes keep equal tokens, on every device.
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.
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
    **method_options.MERGERS,
}
