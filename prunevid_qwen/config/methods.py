"""The options of each method, one small frozen dataclass a method, with its paper's defaults. Imports no torch.

The source of each default stands in PAPERS.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.mergers import MERGERS as MERGERS
from prunevid_qwen.config.mergers import PoolOptions as PoolOptions
from prunevid_qwen.config.mergers import PruneVidMergeOptions as PruneVidMergeOptions
from prunevid_qwen.config.mergers import RandomMergeOptions as RandomMergeOptions
from prunevid_qwen.config.mergers import RLTOptions as RLTOptions
from prunevid_qwen.config.mergers import UniformMergeOptions as UniformMergeOptions
from prunevid_qwen.config.method_base import Layers, MethodOptions
from prunevid_qwen.config.option_checks import checked_names
from prunevid_qwen.config.schedules import PyramidDropOptions as PyramidDropOptions
from prunevid_qwen.config.schedules import SparseVLMOptions as SparseVLMOptions
from prunevid_qwen.errors import ConfigError


@checked_names("PruneVidOptions has")
@dataclass(frozen=True)
class PruneVidOptions(MethodOptions):
    """PruneVid's stage 2 (arXiv 2412.16117, section 3.2).

    Args:
        keep_ratio: share kept, in (0, 1].
        selection_scope: "global" keeps ``max(1, int(n * keep_ratio))`` of each video or image; "per_group" keeps
            ``int(n * keep_ratio)`` of every static group and of every temporal position's dynamic tokens. A video or
            image always keeps one token.
        attention_source: "post_rope" or "pre_rope".
        attention_aggregation: "max" or "mean" over question tokens, after the maximum over heads.
        question_tokens: "all", "question" or "last": which text asks.
        layers: the decoder layer that first sees what is kept.
        keep_tokens: tokens kept of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.4
    selection_scope: str = "global"
    attention_source: str = "post_rope"
    attention_aggregation: str = "max"
    question_tokens: str = "all"
    layers: Layers = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_tokens is not None and self.selection_scope == "per_group":
            raise ConfigError('keep_tokens counts those of a whole video or image: pass selection_scope="global"')


@checked_names("DPPOptions has")
@dataclass(frozen=True)
class DPPOptions(MethodOptions):
    """Selection by a determinantal point process (arXiv 1207.6083; the question as quality: 2506.10967).

    Args:
        keep_ratio: share kept, in (0, 1].
        attention_source: "post_rope" or "pre_rope".
        attention_aggregation: "max" or "mean" over question tokens, after the maximum over heads.
        question_tokens: "all", "question" or "last": which text asks.
        layers: the decoder layer that first sees what is kept.
        keep_tokens: tokens kept of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.4
    attention_source: str = "post_rope"
    attention_aggregation: str = "max"
    question_tokens: str = "all"
    layers: Layers = None
    keep_tokens: int | None = None


@checked_names("FastVOptions has")
@dataclass(frozen=True)
class FastVOptions(MethodOptions):
    """FastV (arXiv 2403.06764, section 4).

    Args:
        keep_ratio: share kept, in (0, 1]: 1 - R of the paper, whose R is 0.5.
        layers: K of the paper, which is 2: the decoder layer, from 0, that first sees what is kept.
        keep_tokens: tokens kept of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.5
    layers: Layers = (2,)
    keep_tokens: int | None = None


@checked_names("UniformOptions has")
@dataclass(frozen=True)
class UniformOptions(MethodOptions):
    """Equally spaced tokens, a control.

    Args:
        keep_ratio: share kept, in (0, 1].
        layers: the decoder layer that first sees what is kept.
        keep_tokens: tokens kept of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.4
    layers: Layers = None
    keep_tokens: int | None = None


@checked_names("RandomOptions has")
@dataclass(frozen=True)
class RandomOptions(MethodOptions):
    """Tokens drawn at random, a control.

    Args:
        keep_ratio: share kept, in (0, 1].
        random_seed: the same seed and sizes keep the same tokens, on every device; at least 0.
        layers: the decoder layer that first sees what is kept.
        keep_tokens: tokens kept of each video or image instead of a share, at least 1, or None.
    """

    exact: ClassVar[bool] = True
    chance: ClassVar[bool] = True

    keep_ratio: float = 0.4
    random_seed: int = 0
    layers: Layers = None
    keep_tokens: int | None = None


@dataclass(frozen=True)
class ThresholdOptions(MethodOptions):
    """Budgets of a method that gives each token a probability (GlimpsePrune, arXiv 2508.01548).

    Args:
        keep_ratio: share kept under ``keep_threshold=None``, in (0, 1]; 1 keeps everything in any case.
        keep_threshold: probability above which a token is kept, in [0, 1); None keeps exactly ``keep_ratio``.
        max_keep_ratio: share that the threshold may keep at most, in (0, 1], or None.
        min_keep_tokens: the best so many are kept in any case, at least 1.
        budget_scope: "sample" counts all images and videos together, "image" each of them by itself.
        layers: the decoder layer that first sees what is kept; None for where the method was trained to act, if it was.
        keep_tokens: tokens kept of each video or image instead of a share, at least 1, or None; under
            ``keep_threshold=None``.

    Raises:
        ConfigError: a value is out of its range, or two of them contradict each other.
    """

    lever_needs: ClassVar[Mapping[str, Any]] = MappingProxyType({"keep_threshold": None})

    keep_ratio: float = 0.4
    keep_threshold: float | None = 0.5
    max_keep_ratio: float | None = None
    min_keep_tokens: int = 1
    budget_scope: str = "sample"
    layers: Layers = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_ratio == 1 and self.max_keep_ratio not in (None, 1):
            raise ConfigError("keep_ratio=1 keeps everything, and max_keep_ratio caps nothing: drop one")
        if self.keep_tokens is not None and self.keep_threshold is not None:
            raise ConfigError(
                f"this selector keeps the tokens above keep_threshold={self.keep_threshold:g} and would not read "
                f"keep_tokens={self.keep_tokens}: pass keep_threshold=None beside it"
            )
        if self.keep_ratio == 1:
            return
        if self.keep_threshold is None:
            if self.max_keep_ratio is not None:
                raise ConfigError(
                    "keep_threshold=None keeps exactly keep_ratio, and max_keep_ratio caps nothing: drop one"
                )
        elif self.keep_ratio != ThresholdOptions.keep_ratio:
            raise ConfigError(
                f"this selector keeps the tokens above keep_threshold={self.keep_threshold:g} and would not read "
                f"keep_ratio={self.keep_ratio:g}: pass max_keep_ratio={self.keep_ratio:g} to keep that share at most, "
                "or keep_threshold=None beside it to keep exactly that share"
            )

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Say how many visual tokens may be left at most; None under a threshold without a cap."""
        share = self.keep_ratio
        if self.keep_threshold is not None and self.keep_ratio != 1:
            if self.max_keep_ratio is None:
                return None
            share = self.max_keep_ratio
        sizes: list[int] = [each.stop - each.start for each in layout.blocks if each.stop > each.start]
        if self.budget_scope == "sample" and self.keep_tokens is None:
            sizes = [sum(sizes)]
        least = 1 if self.keep_threshold is None else self.min_keep_tokens
        return sum(max(min(least, size), count_of(size, share, self.keep_tokens)) for size in sizes if size)


@checked_names("OracleOptions has")
@dataclass(frozen=True)
class OracleOptions(ThresholdOptions):
    """What the caller of `pruned` marked; the marks are the probabilities. See `ThresholdOptions`."""

    told: ClassVar[bool] = True


@checked_names("GlimpseOptions has")
@dataclass(frozen=True)
class GlimpseOptions(ThresholdOptions):
    """GlimpsePrune (arXiv 2508.01548): a trained predictor's probabilities. See `ThresholdOptions`.

    Args:
        glimpse_path: folder or hub id of the predictor, or "bundled": that of the bundled model.
    """

    trained: ClassVar[bool] = True

    glimpse_path: str = "bundled"


SELECTORS: dict[str, type] = {
    "prunevid": PruneVidOptions,
    "dpp": DPPOptions,
    "fastv": FastVOptions,
    "uniform": UniformOptions,
    "random": RandomOptions,
    "oracle": OracleOptions,
    "glimpse": GlimpseOptions,
    "pyramiddrop": PyramidDropOptions,
    "sparsevlm": SparseVLMOptions,
}
