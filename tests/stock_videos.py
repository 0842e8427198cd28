"""Videos of the proof that our pixels are those of the library's video processors, and what those make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS

# by a name that begins with the family: settings as published checkpoints have them, and as the library's classes have
# them where a file is silent
SETTINGS: dict[str, dict[str, Any]] = {
    "llava_next_video": {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    "llava_onevision": {
        "size": {"height": 384, "width": 384}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    },
    "video_llava": {}, "video_llava padded": {"size": {"shortest_edge": 60}, "crop_size": {"height": 75, "width": 71}},
    "internvl": {
        "size": {"height": 448, "width": 448}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
}  # fmt: skip
CLASSES = {
    "llava_next_video": "LlavaNextVideoVideoProcessor", "llava_onevision": "LlavaOnevisionVideoProcessor",
    "video_llava": "VideoLlavaVideoProcessor", "internvl": "InternVLVideoProcessor",
}  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """One video, made from its seed."""

    frames: int
    height: int
    width: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    def pixels(self) -> np.ndarray:
        """uint8 [frames, H, W, 3]: noise over a gradient, so that every value and every edge of the resize occurs."""
        rng = np.random.default_rng(self.seed)
        slope = np.linspace(0, 200, self.width)[None, None, :, None]
        noise = rng.integers(0, 56, (self.frames, self.height, self.width, 3))
        return (slope + noise).astype(np.uint8)


CLIPS = (
    Clip(3, 240, 426, 0),  # wide
    Clip(2, 337, 121, 1),  # high, odd sides
    Clip(1, 480, 640, 2),  # down, one frame
    Clip(2, 61, 37, 3),  # up by much
    Clip(2, 224, 224, 4),  # no resize for some
)


def stock_defaults(family: str) -> dict[str, Any]:
    """What the library's class has where a file is silent; its import must work."""
    import transformers

    stock = getattr(transformers, CLASSES[family])
    return {name: getattr(stock, name, None) for name in VIDEO_DEFAULTS[family]}


def stock_pixels(family: str, clip: Clip) -> torch.Tensor:
    """What the library's video processor makes of one video, [T, 3, h, w]; its import must work."""
    import transformers
    from transformers.video_utils import VideoMetadata

    processor = getattr(transformers, CLASSES[family.split()[0]])(**SETTINGS[family])
    about = VideoMetadata(total_num_frames=clip.frames, fps=2.0, frames_indices=list(range(clip.frames)))
    made = processor(videos=[clip.pixels()], video_metadata=[about], do_sample_frames=False, return_tensors="pt")
    return made["pixel_values_videos"][0]
