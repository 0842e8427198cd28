"""Video-LLaVA: a tower for images and one for videos, a CLS token before each frame (arXiv 2311.10122)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.family_table import register_family
from prunevid_qwen.adapters.llava import Llava, layers_of
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.positions import VIDEO
from prunevid_qwen.adapters.seams import first_argument, missing_seam
from prunevid_qwen.adapters.vision_blocks import Note, watched_layers
from prunevid_qwen.needs import VisionQuery


@register_family("video_llava", name="Video-LLaVA", checkpoints="LanguageBind/Video-LLaVA-*-hf")
class VideoLlava(Llava):
    """Video-LLaVA. Of a frame the decoder sees CLS, which has no place; of an image it does not.

    Args:
        model: a loaded ``VideoLlavaForConditionalGeneration``.

    Raises:
        UnsupportedError: its vision towers or its decoder are of another kind.
    """

    tower_names: Mapping[str, str] = {"image": "image_tower", "video": "video_tower"}
    # older releases give images the second name
    media = ("pixel_values", "pixel_values_images", "pixel_values_videos", "mm_encoder_outputs")
    noted = ("image", "video")

    def types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for image and 2 for video tokens, same shape as ``ids``."""
        return super().types(ids) + (ids == self.config.video_token_id).long() * VIDEO

    def pictures(self, kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
        """Make one raster of each image and of each video; CLS stands before each frame, without a place."""
        if kind == "image":
            return super().pictures(kind, given, features)
        pixels, cells = given.get("pixel_values_videos"), self.side**2
        made = getattr(features, "pooler_output", None)
        if made is None:
            raise missing_seam("the features of videos", "pooler_output")
        if not isinstance(pixels, Tensor) or made.shape[1] != cells + self.has_cls:
            return None  # without the pixels nobody knows how many frames are of one video
        videos, frames = pixels.shape[:2]
        led = [-1] * self.has_cls
        places = [place for t in range(frames) for place in (*led, *range(t * cells, (t + 1) * cells))]
        return [PictureGrid("video", (frames, self.side, self.side), tuple(places))] * videos

    @contextmanager
    def vision_query(self, query: VisionQuery, note: Note) -> Iterator[None]:
        """Look into blocks of both towers, inside the block.

        Raises:
            ConfigError: the query asks for a CLS token's attention, and the towers have none.
        """
        self.check_query(query)
        with ExitStack() as stack:
            for tower in self.parts.towers.values():
                stack.enter_context(watched_layers(layers_of(tower), query.indices, query.kinds, note))
            yield

    def tokens_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[int]:
        """Count what a tower makes of each image or frame, CLS among it."""
        images = len(first_argument(args, kwargs, "the vision encoder's call", "pixel_values"))
        return [self.side**2 + self.has_cls] * images

    def raster(self, states: Tensor, grid: Tensor | None) -> Tensor:
        """Flatten what a block holds, [images or frames, 1 + patches, C], to [N, C]."""
        return torch.flatten(states, 0, 1)

    def arranged(
        self, kind: str, given: Mapping[str, Any], features: Any, seen: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """Leave the CLS of images out, which the decoder does not see."""
        hidden = self.has_cls - self.shows_cls if kind == "image" else 0
        return [each[hidden:] for each in seen]
