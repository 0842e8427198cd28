"""The options of CDPruner (arXiv 2506.10967)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_count, checked_names, unknown
from prunevid_qwen.errors import ConfigError

_RELEVANCE = ("question", "marks")


@checked_names("CDPrunerOptions has")
@dataclass(frozen=True)
class CDPrunerOptions(MethodOptions):
    """Options of CDPruner (arXiv 2506.10967): keep tokens that are relevant to the question and differ.

    Args:
        cluster_ratio: share of the tokens of a video or image that is kept, in (0, 1].
        relevance: "question" compares each token with the question's words, both as embeddings that the decoder is
            given. "marks" takes the relevance that the caller passed to `pruned` as marks, such as the published one:
            the cosine between CLIP's text and patch, negated, and scaled into [0, 1].
        kernel_frames: number of temporal positions that share one kernel, at least 1. Tokens of different kernels are
            not compared. At 1, as published, each frame is an image.
        merge_images: reduce images too.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 64 / 576
    relevance: str = "question"
    kernel_frames: int = 1
    merge_images: bool = True
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("kernel_frames", self.kernel_frames, 1)
        if self.relevance not in _RELEVANCE:
            raise ConfigError(unknown("relevance is one of", self.relevance, _RELEVANCE))
