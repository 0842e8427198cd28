"""The options of methods that cut several times, by a schedule over the decoder's layers. Imports no torch.

PAPERS.md has the source of each default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from prunevid_qwen.config.method_base import Layers, MethodOptions, scaled_layers
from prunevid_qwen.config.option_checks import check_count, check_share, checked_names, is_number, unknown
from prunevid_qwen.errors import ConfigError, quoted

PAPER_DEPTH = 32
"""Number of decoder layers of LLaVA-1.5-7B, the model of both papers' schedules."""
PAPER_TOKENS = 576
"""Number of visual tokens of an image in LLaVA-1.5."""

TABLE: dict[int, tuple[int, int, int]] = {
    192: (300, 200, 110),
    128: (303, 110, 36),
    96: (238, 48, 26),
    64: (66, 30, 17),
}
"""SparseVLM v1.5: for each budget, the tokens kept of 576 at each of three cuts, without recycled tokens."""
TABLE_LAYERS = (3, 7, 16)
"""SparseVLM: the layers before which the three cuts of a table act."""
RANK: dict[int, tuple[float, float]] = {192: (13.5, 0.0), 128: (9.0, 6.0), 64: (0.8, 0.0)}
"""SparseVLM v1.0: for each budget, scale and bias of the number kept of 576: ``int(rank * scale + bias)``."""


@dataclass(frozen=True)
class ScheduledOptions(MethodOptions):
    """Base class of options with several cuts. It checks for a single budget and one schedule entry for each cut."""

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
                f"layers={own} and {of} differ in length, but each cut needs one of both: give {entries} layers, or an "
                "entry for each layer, or an average over all layers (keep_ratio)"
            )

    def _check_kept(self, tabled: bool = True) -> None:
        """Check SparseVLM's budgets: ``kept``, an average, or, if ``tabled``, an entry of a table of three cuts."""
        kept = self.kept  # type: ignore[attr-defined]
        cuts = None if self.layers is None else len(self.layers)  # type: ignore[attr-defined]
        if kept is not None:
            for each in kept:
                check_share("kept", each) if isinstance(each, float) else check_count("kept", each, 1)
            self._check_cuts(len(kept), f"kept={kept}")
            if cuts is None and len(kept) != len(TABLE_LAYERS):
                raise ConfigError(
                    f"there are {len(TABLE_LAYERS)} layers by default, got kept={kept}: give `layers` too, one each"
                )
        elif self.keep_ratio is not None or self.keep_tokens is not None:  # type: ignore[attr-defined]
            if cuts not in (None, 1, len(TABLE_LAYERS)):
                raise ConfigError(
                    f"keep_ratio and keep_tokens need 1 or {len(TABLE_LAYERS)} entries in `layers`, got {cuts}"
                )
        elif tabled:
            self._check_cuts(len(TABLE_LAYERS), f"a table of {len(TABLE_LAYERS)} cuts")

    def _check_retained(self, known: Mapping[int, Any], where: str = "") -> None:
        own = self.retained_tokens  # type: ignore[attr-defined]
        if not isinstance(own, int) or own not in known:
            raise ConfigError(
                f"retained_tokens is one of {', '.join(map(str, known))}{where}, got {quoted(own)}: for another budget "
                "give keep_ratio or keep_tokens"
            )


def as_tuple(options: Any, name: str) -> tuple[Any, ...]:
    """Make a field of options a tuple, and return it.

    Raises:
        ConfigError: it is empty.
    """
    value = getattr(options, name)
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not value:
        raise ConfigError(f"{name} has one entry for each cut, got no entry")
    object.__setattr__(options, name, value)
    return value


def _descends(name: str, values: Sequence[int | float]) -> None:
    if any(after > before for before, after in pairwise(values)):
        raise ConfigError(f"{name} may not grow from cut to cut, because dropped tokens do not come back; got {values}")


@checked_names("PyramidDropOptions has")
@dataclass(frozen=True)
class PyramidDropOptions(ScheduledOptions):
    """Options of PyramidDrop (arXiv 2410.17247, section 3).

    Args:
        ratios: share of each video's or image's tokens left by each cut, in (0, 1], not growing. It is a share of the
            tokens before the first cut.
        layers: the decoder layers before which it cuts, one for each ratio, ascending. None means the paper's 8, 16 and
            24 of 32 layers. In a decoder of another depth, layer l becomes ``l * depth / 32``, rounded, halves up.
        keep_ratio: instead of ``ratios``, a budget in (0, 1]: the share of the tokens before the first cut that a
            decoder layer sees, averaged over all layers. The cuts leave x, x * x and so on, with the largest x within
            the budget. The paper's ratios have x = 0.5.
        keep_tokens: the same average as a number of tokens of each video or image, at least 1.
    """

    budgets: ClassVar[tuple[str, ...]] = ("ratios", "keep_ratio", "keep_tokens")

    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)
    layers: Layers = None
    keep_ratio: float | None = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        ratios = as_tuple(self, "ratios")
        super().__post_init__()
        for ratio in ratios:
            check_share("ratios", ratio)
        _descends("ratios", ratios)
        if self.keep_ratio is None and self.keep_tokens is None:
            self._check_cuts(len(ratios), f"ratios={ratios}")
            if self.layers is None and len(ratios) != len(_PYRAMID):
                raise ConfigError(
                    f"there are {len(_PYRAMID)} layers by default, got ratios={ratios}: give `layers` too, one for each"
                )

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that may be left; None if the budget is an average over layers.

        Args:
            layout: `TokenLayout` of the tokens before the cut; only its blocks are read.
            step: number of the cut, from 0.
        """
        if self.keep_ratio is not None or self.keep_tokens is not None:
            return None
        before = self.ratios[step - 1] if step else 1.0
        sizes: list[int] = [each.stop - each.start for each in layout.blocks if each.stop > each.start]
        # what came to the first cut is not known here: below a token more than this share leaves
        return sum(min(size, max(1, int((size + bool(step)) * self.ratios[step] / before))) for size in sizes)

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return the layers before which it cuts in a decoder of ``depth`` layers.

        Raises:
            ConfigError: the decoder has too few layers for three cuts.
        """
        return scaled_layers(_PYRAMID, PAPER_DEPTH, depth) if self.layers is None else tuple(self.layers)  # type: ignore[arg-type]


_PYRAMID = (8, 16, 24)


@checked_names("SparseVLMOptions has")
@dataclass(frozen=True)
class SparseVLMOptions(ScheduledOptions):
    """Options of SparseVLM (arXiv 2410.04417), with the defaults of version 1.5 of its authors' code.

    Args:
        schedule: "table" keeps fixed numbers of tokens, as version 1.5 does. "rank" keeps ``int(rank * scale + bias)``,
            as the paper and version 1.0 do; the rank is that of the attention from raters to visual tokens.
        retained_tokens: one of the authors' budgets of 576 tokens: 192, 128, 96 ("table" alone) or 64. A video or image
            of N tokens keeps N / 576 of each number, rounded down. The numbers are the authors' names: the layers see
            206, 145, 114 or 82 of 576 tokens on average.
        kept: the tokens that each cut keeps, instead of an entry of the table. An int is a count; a float in (0, 1) is
            a share of the tokens before the first cut. None means the table.
        recycle: share of the dropped tokens that is recycled, in [0, 1]. The best ``int(recycle * dropped) + 1`` of
            them are clustered, and the means of the clusters (about one for ten tokens) follow the kept tokens.
            Recycling merges inside the decoder, so the caches before a cut stay whole. At 0 it only drops, and they can
            be cut.
        layers: the decoder layers before which it cuts, ascending. None means the paper's 3, 7 and 16 of 32 layers (and
            20 with "rank"). In a decoder of another depth, layer l becomes ``l * depth / 32``, rounded, halves up.
        keep_ratio: instead of ``retained_tokens``, a budget in (0, 1]: the share of the tokens before the first cut
            that a decoder layer sees, averaged over all layers, recycled tokens included. The cuts keep numbers between
            two neighbouring rows of the table, at the same point between the rows for all three cuts. Above 192 the
            upper row is all tokens, below 64 the lower row is none. With one layer it is the share that this cut
            leaves.
        keep_tokens: the same average as a number of tokens of each video or image, at least 1.
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
        if self.kept is not None:
            as_tuple(self, "kept")
        super().__post_init__()
        if self.schedule not in ("table", "rank"):
            raise ConfigError(unknown("schedule is one of", self.schedule, ("table", "rank")))
        table = self.schedule == "table"
        self._check_retained(TABLE if table else RANK, f" with schedule={self.schedule!r}")
        if not is_number(self.recycle) or not 0 <= self.recycle <= 1:
            raise ConfigError(f"recycle is a share in [0, 1], got {quoted(self.recycle)}")
        solved = self.keep_ratio is not None or self.keep_tokens is not None
        if self.schedule == "rank" and (self.kept is not None or solved):
            raise ConfigError('with schedule="rank" the attention sets the number of tokens: leave other budgets out')
        self._check_kept(table)

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return the layers before which it cuts in a decoder of ``depth`` layers.

        Raises:
            ConfigError: the decoder has too few layers for all cuts.
        """
        if self.layers is not None:
            return tuple(self.layers)  # type: ignore[arg-type]
        return scaled_layers(TABLE_LAYERS if self.schedule == "table" else _RANK_LAYERS, PAPER_DEPTH, depth)

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return None: there is no largest number, because a cut may recycle as many tokens as it drops."""
        return None

    @property
    def merges_inside(self) -> bool:
        """True if dropped tokens are recycled."""
        return self.recycle > 0 and self.keep_ratio != 1


_RANK_LAYERS = (3, 7, 16, 20)
