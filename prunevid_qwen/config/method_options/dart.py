"""The options of DART."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import Layers, MethodOptions
from prunevid_qwen.config.option_checks import check_count, checked_names


@checked_names("DARTOptions has")
@dataclass(frozen=True)
class DARTOptions(MethodOptions):
    """Options of DART (arXiv 2502.11494): tokens that resemble a few pivots least are kept.

    Args:
        keep_ratio: share of the tokens kept, pivots included, in (0, 1]. It is 1 - the authors' reduction ratio, 0.778.
        pivot_tokens: visual tokens that are pivots, at least 1: those with the largest keys. They are kept.
        pivot_text_tokens: text tokens that are pivots too, at least 0.
        layers: the first decoder layer, counted from 0, that sees only the kept tokens.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.222
    pivot_tokens: int = 4
    pivot_text_tokens: int = 4
    layers: Layers = (2,)
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("pivot_tokens", self.pivot_tokens, 1)
        check_count("pivot_text_tokens", self.pivot_text_tokens, 0)
