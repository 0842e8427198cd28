"""The options of each method: one frozen dataclass for each, with its paper's defaults. Imports no torch.

PAPERS.md has the source of each default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from prunevid_qwen.config import method_options
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
    """Options of PruneVid's stage 2 (arXiv 2412.16117, section 3.2).

    Args:
        keep_ratio: share of the tokens kept, in (0, 1].
        selection_scope: "global" keeps ``max(1, int(n * keep_ratio))`` of the n tokens of each video or image.
            "per_group" keeps ``int(n * keep_ratio)`` of every static group and of every temporal position's dynamic
            tokens. Each video or image keeps at least one token.
        attention_source: "post_rope" scores by the model's own attention, "pre_rope" before rotary embedding and
            without the causal mask.
        attention_aggregation: "max" or "mean" over question tokens, after the maximum over heads.
        question_tokens: text tokens whose attention is read. "all" is everything after the last video or image,
            "question" the user's words, "last" the prompt's last token.
        layers: the first decoder layer that sees only the kept tokens.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
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
            raise ConfigError('keep_tokens counts the tokens of a whole video or image: pass selection_scope="global"')


@checked_names("DPPOptions has")
@dataclass(frozen=True)
class DPPOptions(MethodOptions):
    """Options of the selection by a determinantal point process (arXiv 1207.6083; the question as quality: 2506.10967).

    Args:
        keep_ratio: share of the tokens kept, in (0, 1].
        attention_source: "post_rope" scores by the model's own attention, "pre_rope" before rotary embedding and
            without the causal mask.
        attention_aggregation: "max" or "mean" over question tokens, after the maximum over heads.
        question_tokens: text tokens whose attention is read. "all" is everything after the last video or image,
            "question" the user's words, "last" the prompt's last token.
        layers: the first decoder layer that sees only the kept tokens.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
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
    """Options of FastV (arXiv 2403.06764, section 4).

    Args:
        keep_ratio: share of the tokens kept, in (0, 1]. It is 1 - R of the paper, whose R is 0.5.
        layers: the first decoder layer, counted from 0, that sees only the kept tokens. It is K of the paper, whose K
            is 2.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.5
    layers: Layers = (2,)
    keep_tokens: int | None = None


@checked_names("UniformOptions has")
@dataclass(frozen=True)
class UniformOptions(MethodOptions):
    """Options of a control that keeps equally spaced tokens.

    Args:
        keep_ratio: share of the tokens kept, in (0, 1].
        layers: the first decoder layer that sees only the kept tokens.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.4
    layers: Layers = None
    keep_tokens: int | None = None


@checked_names("RandomOptions has")
@dataclass(frozen=True)
class RandomOptions(MethodOptions):
    """Options of a control that keeps random tokens.

    Args:
        keep_ratio: share of the tokens kept, in (0, 1].
        random_seed: at least 0. Equal seeds and sizes keep equal tokens, on every device.
        layers: the first decoder layer that sees only the kept tokens.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
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
        keep_ratio: share of the tokens kept, in (0, 1], with ``keep_threshold=None``. 1 keeps all tokens, with any
            threshold.
        keep_threshold: tokens of a greater probability are kept; in [0, 1). None keeps the best ``keep_ratio`` instead.
        max_keep_ratio: largest share that the threshold may keep, in (0, 1]. None means no cap.
        min_keep_tokens: smallest number of tokens that the threshold keeps, at least 1.
        budget_scope: "sample" counts all images and videos of a prompt together, "image" each by itself.
        layers: the first decoder layer that sees only the kept tokens. None is the layer for which the method was
            trained, or the depth's default.
        keep_tokens: number of tokens kept of each video or image, at least 1, with ``keep_threshold=None``. None means
            a share.

    Raises:
        ConfigError: a value is out of its range, or two values contradict each other.
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
            raise ConfigError("keep_ratio=1 keeps all tokens, so max_keep_ratio has no effect: give one of them")
        if self.keep_tokens is not None and self.keep_threshold is not None:
            raise ConfigError(
                f"this selector keeps the tokens above keep_threshold={self.keep_threshold:g}, so "
                f"keep_tokens={self.keep_tokens} has no effect: pass keep_threshold=None too"
            )
        if self.keep_ratio == 1:
            return
        if self.keep_threshold is None:
            if self.max_keep_ratio is not None:
                raise ConfigError(
                    "keep_threshold=None keeps exactly keep_ratio, so max_keep_ratio has no effect: leave it out"
                )
        elif self.keep_ratio != ThresholdOptions.keep_ratio:
            raise ConfigError(
                f"this selector keeps the tokens above keep_threshold={self.keep_threshold:g}, so "
                f"keep_ratio={self.keep_ratio:g} has no effect: pass max_keep_ratio={self.keep_ratio:g} to keep at "
                "most that share, or keep_threshold=None too to keep exactly that share"
            )

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that may be left; None for a threshold without a cap."""
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
    """Options of a control that keeps tokens marked by the caller of `pruned`.

    The marks are the probabilities, and the options those of `ThresholdOptions`.
    """

    told: ClassVar[bool] = True


@checked_names("GlimpseOptions has")
@dataclass(frozen=True)
class GlimpseOptions(ThresholdOptions):
    """Options of GlimpsePrune (arXiv 2508.01548): those of `ThresholdOptions`, and the predictor of the probabilities.

    Args:
        glimpse_path: folder or hub id of the predictor. "bundled" is the predictor of the toy "bundled".
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
    **method_options.SELECTORS,
}
