"""The options of VScan's second step, inside the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunevid_qwen.config.method_base import Layers, MethodOptions, scaled_layers
from prunevid_qwen.config.option_checks import checked_names

PAPER_LAYER, PAPER_DEPTH = 14, 28
"""The layer before which VScan cuts, and the number of layers of Qwen2.5-VL-7B."""


@checked_names("VScanOptions has")
@dataclass(frozen=True)
class VScanOptions(MethodOptions):
    """Options of VScan's second step (arXiv 2505.22654), in the middle of the decoder.

    Args:
        keep_ratio: share of the tokens kept, in (0, 1].
        attention_source: "pre_rope" scores before rotary embedding, as the authors' code for Qwen2.5-VL does.
            "post_rope" scores by the attention that the layer will compute, as their code for LLaVA does.
        layers: the first decoder layer that sees only the kept tokens. None means the authors' 14 of 28 layers. In a
            decoder of another depth it is ``14 * depth / 28``, rounded, halves up.
        keep_tokens: number of tokens kept of each video or image, at least 1, instead of a share. None means the share.
    """

    exact: ClassVar[bool] = True

    keep_ratio: float = 0.333
    attention_source: str = "pre_rope"
    layers: Layers = None
    keep_tokens: int | None = None

    def layers_for(self, depth: int) -> tuple[int | float, ...]:
        """Return the layer before which it cuts in a decoder of ``depth`` layers.

        Raises:
            ConfigError: the decoder has no layer after the cut.
        """
        return scaled_layers((PAPER_LAYER,), PAPER_DEPTH, depth) if self.layers is None else tuple(self.layers)  # type: ignore[arg-type]
