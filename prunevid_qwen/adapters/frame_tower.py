"""A CLIP or SigLIP tower that is given the frames of videos as images, and what is known of its pixels and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunevid_qwen.adapters.seams import missing_seam

# Of a channel on a scale of 0 to 1, as the processors of these towers divide by it. A model does not hold what its
# processor divides by, and all checkpoints of these families have their tower's.
DEVIATIONS = {
    "clip_vision_model": (0.26862954, 0.26130258, 0.27577711),
    "siglip_vision_model": (0.5, 0.5, 0.5),
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
ATTENTION, OUT = "self_attn", "out_proj"


@dataclass(frozen=True)
class FrameTower:
    """The tower of a family's videos, whose layers see each frame alone.

    Args:
        module: takes pixels [frames, 3, H, W] first, or as ``pixel_values``.
        layers: from and to [frames, P, C], a CLS token first where there is one.
        side: patches along a frame's side. Pixels beyond them, at the right and lower edge, are not read.
        patch: pixels along a patch's side.
        has_cls: a CLS token stands before the patches.
        deviations: by how much of a channel's range of 1 its pixels were divided, for red, green and blue.
    """

    module: nn.Module
    layers: Sequence[nn.Module]
    side: int
    patch: int
    has_cls: bool
    deviations: tuple[float, float, float]

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return self.side**2

    def attention(self, layer: nn.Module) -> Any:
        """Return the attention of a layer.

        Raises:
            SetupError: it is not there, or not made of the projections that are known.
        """
        attention = getattr(layer, ATTENTION, None)
        for name in (*PROJECTIONS, OUT, "num_heads", "scale"):
            if not hasattr(attention, name):
                raise missing_seam("a layer of the vision encoder", f"{ATTENTION}.{name}")
        return attention

    def patches_of(self, pixels: Tensor) -> Tensor:
        """Cut frames [frames, 3, H, W] into patches: [frames, patches, 3 * patch * patch]."""
        length = self.side * self.patch
        cut = pixels[..., :length, :length].unflatten(-1, (self.side, self.patch))
        cut = cut.unflatten(-3, (self.side, self.patch))  # [frames, 3, y, rows, x, columns]
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def frames_of(pixels: Any) -> list[int] | None:
    """Count the frames of each video of [videos, frames, 3, H, W], as features are asked for; None of another form."""
    if not isinstance(pixels, Tensor) or pixels.ndim != 5:
        return None
    videos, frames = pixels.shape[:2]
    return [int(frames)] * int(videos)
