"""Tiny families of LLaVA-NeXT's kind: images in tiles, a newline after each row, videos with fewer tokens a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from prunevid_qwen.adapters.tiny.family import IMAGE, PATCH, SIDE, VIDEO, TinyBatch, TinyFamily
from prunevid_qwen.adapters.tiny.llava import clip

PIXELS = SIDE * PATCH
PINPOINTS = [[PIXELS, 2 * PIXELS], [2 * PIXELS, PIXELS], [2 * PIXELS, 2 * PIXELS]]
IDS = {"image_token_index": IMAGE, "video_token_index": VIDEO, "image_grid_pinpoints": PINPOINTS}


def _next(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": {**text, "model_type": "llama"}, "vision_config": clip(), **IDS, "image_seq_length": SIDE**2,
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip


def _next_video(text: dict[str, Any]) -> dict[str, Any]:
    return {**_next(text), "spatial_pool_mode": "average", "spatial_pool_stride": 2, "video_seq_length": SIDE}


def _onevision(text: dict[str, Any]) -> dict[str, Any]:
    vision = {**clip(vision_use_head=False), "model_type": "siglip_vision_model"}
    del vision["projection_dim"]
    return {
        "text_config": {**text, "model_type": "qwen2"}, "vision_config": vision, **IDS, "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_3",
    }  # fmt: skip


class NewlineMedia:
    """Images of any size in pixels, and videos of square frames.

    Args:
        most: tiles whose tokens an image may have; above it the grid of its tiles shrinks. None: any number.
        ends: tokens after a whole video.
        frames: the family is shown videos.
    """

    def __init__(self, most: int | None = None, ends: int = 0, frames: bool = True) -> None:
        self.most, self.ends, self.frames = most, ends, frames
        self.made: list[tuple[str, tuple[int, ...], torch.Tensor]] = []  # kind, size, pixels

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of ("image", H, W) in pixels, or of ("video", T); return its token ids and their types."""
        if kind == "video":
            if not self.frames:
                raise ValueError("this tiny family is shown images alone")
            still = torch.randn(1, 3, PIXELS, PIXELS, generator=numbers)
            noise = torch.randn(size[0], *still.shape[1:], generator=numbers)
            self.made.append((kind, tuple(size), still + noise * 0.4))
            n = size[0] * (SIDE // 2) ** 2 + self.ends
            return [VIDEO] * n, [2] * n
        (rows, columns), tiles = tiled(size[0], size[1], self.most)
        self.made.append((kind, tuple(size), torch.randn(1 + tiles, 3, PIXELS, PIXELS, generator=numbers)))
        n = SIDE**2 + rows * (columns + 1)
        return [IMAGE] * n, [1] * n

    def inputs(self, first: int, last: int) -> dict[str, Any]:
        """Return what `generate` takes of those made from ``first`` on to before ``last``."""
        out: dict[str, Any] = {}
        images = [each for each in self.made[first:last] if each[0] == "image"]
        videos = [each[2] for each in self.made[first:last] if each[0] == "video"]
        if images:
            most = max(len(pixels) for _, _, pixels in images)
            out["image_sizes"] = torch.tensor([size for _, size, _ in images])
            out["pixel_values"] = torch.stack(
                [torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]) for _, _, x in images]
            )
        if videos:
            out["pixel_values_videos"] = torch.stack(videos)
        return out


def tiled(height: int, width: int, most: int | None = None) -> tuple[tuple[int, int], int]:
    """Say how the tiles of an image are cut: rows and columns of tokens without padding, and the number of tiles.

    >>> tiled(100, 200), tiled(200, 100), tiled(50, 90)
    (((4, 8), 2), ((8, 4), 2), ((4, 8), 2))
    """

    def fits(pinpoint: Sequence[int]) -> tuple[int, int]:
        scale = min(pinpoint[0] / height, pinpoint[1] / width)
        used = min(int(height * scale) * int(width * scale), height * width)
        return used, used - pinpoint[0] * pinpoint[1]

    down, across = max(PINPOINTS, key=fits)
    rows, columns = down // PATCH, across // PATCH
    if width / height > columns / rows:
        rows -= (rows - int(round(height * columns / width, 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * rows / height, 7))) // 2 * 2
    if most is not None and (ratio := (rows * columns / (most * SIDE**2)) ** 0.5) > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return (rows, columns), down * across // PIXELS**2


def _shown(*videos: int, ends: int = 0) -> TinyBatch:
    """Two images side by side, or an image and a video; then a video, or an image."""
    wide, high, thumb = ("image", 100, 200), ("image", 200, 100), SIDE**2
    frame, tiles, newlines = (SIDE // 2) ** 2, 2 * SIDE**2, SIDE
    if not videos:
        rows = ((("text", 3), wide, high, ("text", 5)), (("text", 2), wide, ("text", 5)))
        image = (thumb, tiles + newlines), (thumb // 2, tiles // 2 + newlines)
        tall = (thumb, tiles + 2 * newlines), (thumb // 2, tiles // 2 + 2 * newlines)
        return TinyBatch(
            rows, (8, 7), ((*image[0], *tall[0]), image[0]), ((*image[1], *tall[1]), image[1]), {"merge_images": True}
        )
    first, second = ((t * frame + ends, t * frame // 2 + ends) for t in videos)
    return TinyBatch(
        (
            (("text", 3), wide, ("text", 2), ("video", videos[0]), ("text", 5)),
            (("text", 2), ("video", videos[1]), ("text", 5)),
        ),
        (10, 7),
        ((thumb, tiles + newlines, first[0]), (second[0],)),
        ((thumb, tiles + newlines, first[1]), (second[1],)),
    )


def _media(**options: Any) -> Callable[[], NewlineMedia]:
    return partial(NewlineMedia, **options)


LLAVA_NEXT: Mapping[str, TinyFamily] = {
    "llava_next": TinyFamily("LlavaNext", _next, _media(frames=False), _shown()),
    "llava_next_video": TinyFamily("LlavaNextVideo", _next_video, _media(), _shown(4, 4)),
    "llava_onevision": TinyFamily("LlavaOnevision", _onevision, _media(most=3, ends=1), _shown(4, 4, ends=1)),
}
