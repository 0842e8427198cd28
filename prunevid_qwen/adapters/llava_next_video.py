"""LLaVA-NeXT-Video: LLaVA-NeXT's images, and videos whose frames are pooled to a quarter of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.llava_next import LlavaNext
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.positions import VIDEO


@register_family("llava_next_video", name="LLaVA-NeXT-Video", checkpoints="llava-hf/LLaVA-NeXT-Video-*-hf")
class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT-Video. A video is one raster of all its frames.

    Args:
        model: a loaded ``LlavaNextVideoForConditionalGeneration``.

    Raises:
        UnsupportedError: its vision tower or its decoder is of another kind.
    """

    tower_names: Mapping[str, str] = {"image": "vision_tower", "video": "vision_tower"}
    media = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
    noted = ("image", "video")
    ends = 0
    """Tokens without a place after a whole video."""

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for image and 2 for video tokens, same shape as ``ids``."""
        return super().types(ids) + (ids == self.config.video_token_id).long() * VIDEO

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Make the rasters of each image, and one raster of each video."""
        if kind == "image":
            return super().pictures(kind, given, features)
        out, cells = list[PictureGrid](), self.pooled_side**2
        for own in self.made(features, "videos"):
            placed, rest = divmod(own.numel() // own.shape[-1], cells)
            if not placed or rest not in (0, self.ends):  # some releases end a video later, in the model's forward
                return None
            placed *= cells
            places = (*range(placed), *[-1] * self.ends) if self.ends else None
            out.append(PictureGrid("video", (placed // cells, self.pooled_side, self.pooled_side), places))
        return out

    def arranged(
        self, kind: str, given: Mapping[str, Any], features: Any, seen: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """Arrange what the tower made of tiles and frames, each [patches, L, C], as the tokens of images and videos."""
        if kind == "image":
            return super().arranged(kind, given, features, seen)
        videos = len(self.made(features, "videos"))
        out = list[Tensor]()
        for number, frame in enumerate(seen, 1):
            rows = frame.flatten(1).T.unflatten(-1, (self.side, self.side))  # [L * C, rows, columns]
            pooled = self.pooled(rows[None].float())[0].to(frame.dtype)
            out.append(pooled.flatten(1).T.unflatten(-1, frame.shape[1:]))
            if self.ends and number % (len(seen) // videos) == 0:
                out.append(frame.new_zeros(self.ends, *frame.shape[1:]))
        return out

    @property
    def pooled_side(self) -> int:
        """Rows of tokens of a frame."""
        return self.side // int(self.config.spatial_pool_stride)

    def pooled(self, rows: Tensor) -> Tensor:
        """Pool what the tower made of patches, [1, C, rows, columns], to tokens, by their mean in every mode."""
        return avg_pool2d(rows, int(self.config.spatial_pool_stride))
