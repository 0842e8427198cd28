"""The options of HoliTom's inner merge, inside the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import Layers, MethodOptions, scaled_layers
from prunevid_qwen.config.option_checks import checked_names

PAPER_LAYER, PAPER_DEPTH = 18, 28
"""The layer before which HoliTom merges, and the number of layers of LLaVA-OneVision-7B."""


@checked_names("HoliTomOptions has")
@dataclass(frozen=True)
class HoliTomOptions(MethodOptions):
    """Options of HoliTom's inner merge (arXiv 2505.21334): the other tokens are merged into those kept.

    Args:
        keep_ratio: share of the tokens left, in (0, 1]. It is 1 - r of the authors, whose r is 0.5.
        layers: the first decoder layer that sees only the merged tokens. None means the authors' 18 of 28 layers. In a
            decoder of another depth it is ``18 * depth / 28``, rounded, halves up.
        keep_tokens: number of tokens left of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.5
    layers: Layers = None
    keep_tokens: int | None = None

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return the layer before which it cuts in a decoder of ``depth`` layers.

        Raises:
            ConfigError: the decoder has no layer after the cut.
        """
        return scaled_layers((PAPER_LAYER,), PAPER_DEPTH, depth) if self.layers is None else tuple(self.layers)  # type: ignore[arg-type]

    @property
    def merges_inside(self) -> bool:
        """True unless all tokens are kept."""
        return self.keep_ratio != 1
