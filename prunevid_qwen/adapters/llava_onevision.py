"""LLaVA-OneVision: one image in tiles, several images whole, a video with one newline at its end (arXiv 2408.03326)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.llava_next_video import LlavaNextVideo


@register_family("llava_onevision", name="LLaVA-OneVision", checkpoints="llava-hf/llava-onevision-*-hf")
class LlavaOnevision(LlavaNextVideo):
    """LLaVA-OneVision. The raster of an image's tiles shrinks where they are many; a newline ends a whole video.

    Of several images in a prompt each is one raster, with a newline at its end.

    Args:
        model: a loaded ``LlavaOnevisionForConditionalGeneration``.

    Raises:
        UnsupportedError: its vision tower or its decoder is of another kind.
    """

    ends = 1

    def packing(self) -> dict[str, Any]:
        """Return what else the model's ``pack_image_features`` is told."""
        return {"vision_aspect_ratio": self.config.vision_aspect_ratio}

    @property
    def pooled_side(self) -> int:
        """Rows of tokens of a frame."""
        return -(-self.side // 2)

    def pooled(self, rows: Tensor) -> Tensor:
        """Pool what the tower made of patches, [1, C, rows, columns], to tokens, as the model pools features."""
        return interpolate(rows, size=[self.pooled_side] * 2, mode="bilinear")
