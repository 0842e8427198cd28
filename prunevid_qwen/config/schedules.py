"""The options of methods that cut several times, by a schedule over the decoder's layers. Imports no torch.

The source of each default stands in PAPERS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from prunevid_qwen.config.method_base import Layers, MethodOptions, scaled_layers
from prunevid_qwen.config.option_checks import check_count, check_share, checked_names, is_number, unknown
from prunevid_qwen.errors import ConfigError, quoted

PAPER_DEPTH = 32
"""Decoder layers of LLaVA-1.5-7B, for which both papers' schedules were made."""
PAPER_TOKENS = 576
"""Visual tokens of its one image."""

TABLE: dict[int, tuple[int, int, int]] = {
    192: (300, 200, 110),
    128: (303, 110, 36),
    96: (238, 48, 26),
    64: (66, 30, 17),
}
"""SparseVLM v1.5: for each budget the tokens kept of 576 at its three cuts; recycled ones come on top."""
RANK: dict[int, tuple[float, float]] = {192: (13.5, 0.0), 128: (9.0, 6.0), 64: (0.8, 0.0)}
"""SparseVLM v1.0: for each budget the scale and the bias of ``int(rank * scale + bias)`` tokens kept of 576."""


@dataclass(frozen=True)
class ScheduledOptions(MethodOptions):
    """Base of options of several cuts: at most one budget, and as many cuts as the schedule has entries."""

    most_layers: ClassVar[int | None] = None
    exact: ClassVar[bool] = True
    averages: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("keep_ratio", "keep_tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = type(self)
        given = [name for name in self.budgets if getattr(self, name) != getattr(plain, name)]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are two budgets: give one of them")

    def _check_cuts(self, entries: int, of: str) -> None:
        own = self.layers  # type: ignore[attr-defined]
        if own is not None and len(own) != entries:
            raise ConfigError(
                f"layers={own} and {of}: a schedule has one entry for each layer that it cuts before. Give {entries} "
                "layers, an entry for each of these, or an average over all layers (keep_ratio)"
            )


def _as_tuple(options: Any, name: str) -> tuple[Any, ...]:
    value = getattr(options, name)
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not value:
        raise ConfigError(f"{name} has one entry for each cut, got none")
    object.__setattr__(options, name, value)
    return value


def _descends(name: str, values: Sequence[int | float]) -> None:
    if any(after > before for before, after in pairwise(values)):
        raise ConfigError(f"{name} descends from cut to cut: a token that is gone does not come back; got {values}")


@checked_names("PyramidDropOptions has")
@dataclass(frozen=True)
class PyramidDropOptions(ScheduledOptions):
    """PyramidDrop (arXiv 2410.17247, section 3).

    Args:
        ratios: share of each video's or image's tokens that each cut leaves, in (0, 1], descending; of the tokens that
            came to the first cut.
        layers: before which decoder layers it cuts, one for each ratio, ascending; None for the paper's 8, 16 and 24 of
            32, at the same shares of another depth: layer l stands at ``l * depth / 32``, rounded, halves up.
        keep_ratio: instead of ``ratios``, the visual tokens that a decoder layer sees, averaged over all its layers, as
            a share of those that came to the first cut, in (0, 1]. The cuts leave x, x * x and so on, with the largest
            x that does not exceed it: the paper's own ratios are those of x = 0.5.
        keep_tokens: that average as a number of tokens of each video or image, at least 1.
    """

    budgets: ClassVar[tuple[str, ...]] = ("ratios", "keep_ratio", "keep_tokens")

    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)
    layers: Layers = None
    keep_ratio: float | None = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        ratios = _as_tuple(self, "ratios")
        super().__post_init__()
        for ratio in ratios:
            check_share("ratios", ratio)
        _descends("ratios", ratios)
        if self.keep_ratio is None and self.keep_tokens is None:
            self._check_cuts(len(ratios), f"ratios={ratios}")
            if self.layers is None and len(ratios) != len(_PYRAMID):
                raise ConfigError(
                    f"the paper cuts before {len(_PYRAMID)} layers, got ratios={ratios}: give `layers` too"
                )

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Say how many visual tokens may be left at most; None where an average over layers is asked for.

        Args:
            layout: `TokenLayout` of what comes to the cut; its blocks are read.
            step: which cut it is, from 0.
        """
        if self.keep_ratio is not None or self.keep_tokens is not None:
            return None
        before = self.ratios[step - 1] if step else 1.0
        sizes: list[int] = [each.stop - each.start for each in layout.blocks if each.stop > each.start]
        # what came to the first cut is not known here: below a token more than this share leaves
        return sum(min(size, max(1, int((size + bool(step)) * self.ratios[step] / before))) for size in sizes)

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return before which layers of a decoder of ``depth`` layers it cuts.

        Raises:
            ConfigError: so shallow a decoder has no room for three cuts.
        """
        return scaled_layers(_PYRAMID, PAPER_DEPTH, depth) if self.layers is None else tuple(self.layers)  # type: ignore[arg-type]


_PYRAMID = (8, 16, 24)


@checked_names("SparseVLMOptions has")
@dataclass(frozen=True)
class SparseVLMOptions(ScheduledOptions):
    """SparseVLM (arXiv 2410.04417), as version 1.5 of its authors' code.

    Args:
        schedule: "table" keeps fixed numbers, as version 1.5; "rank" keeps ``int(rank * scale + bias)``, as version 1.0
            and the paper: rank is that of the attention from raters to visual tokens.
        retained_tokens: which of the authors' budgets, of 576 tokens: 192, 128, 96 (of the table alone) or 64. A video
            or image of N tokens keeps N / 576 of each of its numbers, rounded down. These are the authors' names: the
            layers see 206, 145, 114 or 82 of 576 on average.
        kept: instead of an entry of the table, what each cut keeps: a count, or a share (a float in (0, 1)) of the
            tokens that came to the first cut; None for the table.
        recycle: share of the dropped tokens that is clustered, in [0, 1]: the best so many and one more become a mean
            for each ten and one more, after the kept ones. That merges inside the decoder, so the caches before a cut
            stay whole; 0 only drops, and they can be cut.
        layers: before which decoder layers it cuts, ascending; None for the paper's 3, 7 and 16 of 32 (and 20 by rank),
            at the same shares of another depth: layer l stands at ``l * depth / 32``, rounded, halves up.
        keep_ratio: instead of ``retained_tokens``, the visual tokens that a decoder layer sees, averaged over all its
            layers, recycled ones included, as a share of those that came to the first cut, in (0, 1]. What each cut
            keeps lies between two neighbours of the table, at the same point between both for all three; beyond 192
            between that and everything, below 64 between that and nothing. With one layer it is what that cut leaves.
        keep_tokens: that average as a number of tokens of each video or image, at least 1.
    """

    budgets: ClassVar[tuple[str, ...]] = ("retained_tokens", "kept", "keep_ratio", "keep_tokens")

    schedule: str = "table"
    retained_tokens: int = 192
    kept: tuple[int | float, ...] | None = None
    recycle: float = 0.3
    layers: Layers = None
    keep_ratio: float | None = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        kept = () if self.kept is None else _as_tuple(self, "kept")
        super().__post_init__()
        if self.schedule not in ("table", "rank"):
            raise ConfigError(unknown("schedule is one of", self.schedule, ("table", "rank")))
        known = TABLE if self.schedule == "table" else RANK
        if not isinstance(self.retained_tokens, int) or self.retained_tokens not in known:
            raise ConfigError(
                f"retained_tokens is one of {', '.join(map(str, known))} with schedule={self.schedule!r}, got "
                f"{quoted(self.retained_tokens)}: for another budget give keep_ratio or keep_tokens"
            )
        if not is_number(self.recycle) or not 0 <= self.recycle <= 1:
            raise ConfigError(f"recycle is a share in [0, 1], got {quoted(self.recycle)}")
        solved = self.keep_ratio is not None or self.keep_tokens is not None
        if self.schedule == "rank" and (self.kept is not None or solved):
            raise ConfigError('with schedule="rank" what is seen decides how many are kept: leave other budgets out')
        if self.kept is not None:
            for each in kept:
                check_share("kept", each) if isinstance(each, float) else check_count("kept", each, 1)
            self._check_cuts(len(kept), f"kept={kept}")
            if self.layers is None and len(kept) != len(_TABLE_LAYERS):
                raise ConfigError(
                    f"the paper cuts before {len(_TABLE_LAYERS)} layers, got kept={kept}: give `layers` too"
                )
        elif solved:
            cuts = None if self.layers is None else len(self.layers)  # type: ignore[arg-type]
            if cuts not in (None, 1, len(_TABLE_LAYERS)):
                raise ConfigError(
                    f"an average over layers is spent at {len(_TABLE_LAYERS)} layers or at one, got {cuts}"
                )
        elif self.schedule == "table":
            self._check_cuts(len(_TABLE_LAYERS), f"a table of {len(_TABLE_LAYERS)} cuts")

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return before which layers of a decoder of ``depth`` layers it cuts.

        Raises:
            ConfigError: so shallow a decoder has no room for all cuts.
        """
        if self.layers is not None:
            return tuple(self.layers)  # type: ignore[arg-type]
        return scaled_layers(_TABLE_LAYERS if self.schedule == "table" else _RANK_LAYERS, PAPER_DEPTH, depth)

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Say nothing of how many visual tokens may be left at most: a cut may recycle as many as it drops."""
        return None

    @property
    def merges_inside(self) -> bool:
        """Whether dropped tokens are recycled."""
        return self.recycle > 0 and self.keep_ratio != 1


_TABLE_LAYERS, _RANK_LAYERS = (3, 7, 16), (3, 7, 16, 20)
