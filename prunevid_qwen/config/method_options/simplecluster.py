"""The options of SimpleCluster (arXiv 2609.35394)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import check_count, checked_names, unknown
from prunevid_qwen.errors import ConfigError

_WORDS = {
    "rotary": ("model", "grid"),
    "distance": ("euclidean", "cosine"),
    "start": ("even", "farthest"),
    "place": ("nearest", "first"),
}


@checked_names("SimpleClusterOptions has")
@dataclass(frozen=True)
class SimpleClusterOptions(MethodOptions):
    """Options of SimpleCluster (arXiv 2609.35394): k-means over a video, on features that are turned by their place.

    Args:
        cluster_ratio: share of the tokens of a video that is left, in (0, 1].
        iterations: number of times that the centres move, at least 1.
        rotary: features are turned by the rotary angles that the "model" gives their positions, or by angles of base
            10,000 of time, row and column in the "grid", each for a third of the channels, as in the authors' code.
        distance: "euclidean", or "cosine" as in the authors' code.
        start: centres begin at tokens that are "even" in number apart, or each at the token that is "farthest" from
            those before it, as in the authors' code. The second takes a step for each centre.
        place: a merged token takes the place of the member "nearest" the centre, or of its "first" member, as in the
            authors' code.
        merge_images: reduce images too.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    cluster_ratio: float = 0.1
    iterations: int = 10
    rotary: str = "model"
    distance: str = "euclidean"
    start: str = "even"
    place: str = "nearest"
    merge_images: bool = False
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("iterations", self.iterations, 1)
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ConfigError(unknown(f"{name} is one of", getattr(self, name), words))
