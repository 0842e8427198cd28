"""The inputs of the proof that our pixels are the stock processors', and the way to import those on a CPU."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

# torchvision from PyPI is a CUDA build: beside a CPU torch its import wants two operators that nothing here calls.
TORCHVISION_OPERATORS = """
import torch
_library = None
try:
    import torchvision
except ModuleNotFoundError:
    pass
except (RuntimeError, OSError):
    import sys
    for _name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[_name]
    _library = torch.library.Library("torchvision", "DEF")
    for _op in ("nms", "qnms"):
        _library.define(_op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@dataclass(frozen=True)
class Case:
    """One input, made from its seed, and its size limits."""

    kind: str
    frames: int
    height: int
    width: int
    min_pixels: int
    max_pixels: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.frames}x{self.height}x{self.width}_{self.min_pixels}_{self.max_pixels}"

    def pixels(self) -> np.ndarray:
        """uint8 [frames, H, W, 3]: noise over a gradient, so that every value and every edge of the resize occurs."""
        rng = np.random.default_rng(self.seed)
        slope = np.linspace(0, 200, self.width)[None, None, :, None]
        noise = rng.integers(0, 56, (self.frames, self.height, self.width, 3))
        return (slope + noise).astype(np.uint8)


CASES = (
    Case("video", 8, 96, 128, 56 * 56, 64 * 784, 0),  # up a little
    Case("video", 4, 240, 426, 128 * 784, 768 * 784, 1),  # the stock video limits
    Case("video", 2, 360, 640, 4 * 784, 32 * 784, 2),  # down by much
    Case("video", 5, 61, 37, 16 * 784, 100 * 784, 3),  # odd sizes, an odd count, up by much
    Case("video", 2, 84, 112, 4 * 784, 768 * 784, 4),  # no resize at all
    Case("video", 3, 30, 300, 4 * 784, 64 * 784, 5),  # long and flat
    Case("image", 1, 90, 110, 56 * 56, 64 * 784, 6),
    Case("image", 1, 480, 333, 56 * 56, 1280 * 784, 7),
    Case("image", 1, 17, 23, 56 * 56, 1280 * 784, 8),
    Case("image", 1, 700, 500, 56 * 56, 100 * 784, 9),
)


def checksum(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def stock_pixels(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """What the stock processor makes of a case; its import must work."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    size = {"shortest_edge": case.min_pixels, "longest_edge": case.max_pixels}
    pixels = case.pixels()
    if case.kind == "image":
        out = Qwen2VLImageProcessor(size=size)(images=[pixels[0]], return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]
    processor = Qwen2VLVideoProcessor(size=size, do_sample_frames=False, cap_pixels_per_frame=False)
    about = VideoMetadata(total_num_frames=case.frames, fps=2.0, frames_indices=list(range(case.frames)))
    out = processor(videos=[pixels], video_metadata=[about], return_tensors="pt")
    return out["pixel_values_videos"], out["video_grid_thw"]
