"""The options of SparseVLM+."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prunevid_qwen.config.method_base import Layers, scaled_layers
from prunevid_qwen.config.option_checks import checked_names, is_number
from prunevid_qwen.config.schedules import PAPER_DEPTH, PAPER_TOKENS, TABLE_LAYERS, ScheduledOptions, as_tuple
from prunevid_qwen.errors import ConfigError, quoted

PLUS_TABLE: dict[int, tuple[int, int, int]] = {
    192: (300, 200, 118),
    128: (238, 108, 60),
    96: (246, 54, 28),
    64: (66, 34, 20),
}
"""SparseVLM+: for each budget, the tokens kept of 576 at each of three cuts."""


@checked_names("SparseVLMPlusOptions has")
@dataclass(frozen=True)
class SparseVLMPlusOptions(ScheduledOptions):
    """Options of SparseVLM+ (version 2.0 of the code of arXiv 2410.04417), which only drops tokens.

    Args:
        retained_tokens: one of the authors' budgets of 576 tokens: 192, 128, 96 or 64. A video or image of N tokens
            keeps N / 576 of each number, rounded down. The numbers are the authors' names: the layers see 206.8, 144.1,
            113.9 or 81.8 of 576 tokens on average.
        kept: the tokens that each cut keeps, instead of an entry of the table. An int is a count; a float in (0, 1) is
            a share of the tokens before the first cut. None means the table.
        priority_heads: attention heads that decide, those that attend most to visual tokens. An int is a number of
            heads, at least 1; a float in (0, 1) a share of them, rounded down.
        layers: the decoder layers before which it cuts, ascending. None means the paper's 3, 7 and 16 of 32 layers. In
            a decoder of another depth, layer l becomes ``l * depth / 32``, rounded, halves up.
        keep_ratio: instead of ``retained_tokens``, a budget in (0, 1]: the share of the tokens before the first cut
            that a decoder layer sees, averaged over all layers. The cuts keep numbers between two neighbouring rows of
            the table, at the same point between the rows for all three cuts. Above 192 the upper row is all tokens,
            below 64 the lower row is none. With one layer it is the share that this cut leaves.
        keep_tokens: the same average as a number of tokens of each video or image, at least 1.
    """

    budgets: ClassVar[tuple[str, ...]] = ("retained_tokens", "kept", "keep_ratio", "keep_tokens")

    retained_tokens: int = 192
    kept: tuple[int | float, ...] | None = None
    priority_heads: int | float = 0.5
    layers: Layers = None
    keep_ratio: float | None = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.kept is not None:
            as_tuple(self, "kept")
        super().__post_init__()
        self._check_retained(PLUS_TABLE)
        heads = self.priority_heads
        if not is_number(heads) or not (0 < heads < 1 if isinstance(heads, float) else heads >= 1):
            raise ConfigError(
                f"priority_heads is a number of heads, at least 1, or a share in (0, 1) as a float, got {quoted(heads)}"
            )
        self._check_kept()

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return the layers before which it cuts in a decoder of ``depth`` layers.

        Raises:
            ConfigError: the decoder has too few layers for all cuts.
        """
        if self.layers is not None:
            return tuple(self.layers)  # type: ignore[arg-type]
        return scaled_layers(TABLE_LAYERS, PAPER_DEPTH, depth)

    def most(self, layout: Any, step: int = 0) -> int | None:
        """Return the largest number of visual tokens that may be left; None if the budget is an average over layers.

        Args:
            layout: `TokenLayout` of the tokens before the cut; only its blocks are read.
            step: number of the cut, from 0.
        """
        if self.keep_ratio is not None or self.keep_tokens is not None:
            return None
        own = None if self.kept is None else self.kept[step]

        def at_most(size: int) -> int:
            if isinstance(own, int):
                return own
            if step:  # how many came to the first cut is not known here: a token at least is dropped
                return size
            return size * PLUS_TABLE[self.retained_tokens][0] // PAPER_TOKENS if own is None else int(size * own)

        sizes: list[int] = [each.stop - each.start for each in layout.blocks if each.stop > each.start]
        return sum(max(1, min(at_most(size), size - 1)) for size in sizes)
