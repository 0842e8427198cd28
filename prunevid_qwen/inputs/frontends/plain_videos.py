"""Frames to pixels as the library's video processors make them, bit for bit, where torchvision is not installed.

The library's video processors are written with torchvision, and its image processors and tokenizers are not. So the
rest of a processor is the library's, and what it asks its video processor for is answered here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.errors import SetupError

_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711),
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "resample": 3,
    "rescale_factor": 1 / 255, "crop_size": None,
}  # fmt: skip
_SQUARE = {**_CLIP, "size": {"height": 384, "width": 384}}
_CROPPED = {
    **_CLIP, "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
}  # fmt: skip

VIDEO_DEFAULTS: dict[str, Mapping[str, Any]] = {
    "llava_next_video": _CROPPED, "llava_onevision": _SQUARE, "video_llava": _CROPPED, "internvl": _SQUARE,
}  # fmt: skip
"""Of a ``model_type`` whose stock processor accepts videos: the settings that a file may leave out, as the library's
class has them. Its row here is all that a family needs to be shown videos by the stock frontend."""

_HINT = "install torchvision, the one of the installed torch (pip install 'prunevid_qwen[torchvision]')"


class PlainVideoProcessor(dict[str, Any]):
    """Answers for a video processor of the library. It is a dict of its settings, in which the library writes it down.

    Args:
        settings: of the model's files, as in ``video_preprocessor_config.json``.
        model_type: of the model's config, one of `VIDEO_DEFAULTS`.

    Raises:
        SetupError: the settings ask for something that only the library's own video processor does.
    """

    model_input_names: tuple[str, ...] = ("pixel_values_videos",)

    def __init__(self, settings: Mapping[str, Any], model_type: str) -> None:
        from transformers.processing_utils import VideosKwargs

        self.valid_kwargs = VideosKwargs
        given = {name: value for name, value in settings.items() if value is not None}
        # older downloads have the image processor's settings alone: "do_pad" there fills up tiles, and no video
        known = {**VIDEO_DEFAULTS[model_type], **given}
        super().__init__(known)
        size = _sides(known["size"], "shortest_edge")
        crop = _sides(known["crop_size"], "height", "width") if known["do_center_crop"] else None
        odd = [step for step in ("do_resize", "do_rescale", "do_normalize") if not known[step]]
        if odd or known["resample"] not in (3, "bicubic") or size is None or (known["do_center_crop"] and crop is None):
            asked = {name: known[name] for name in ("size", "crop_size", "resample")}
            raise SetupError(
                f"the video processor of this {model_type} model has {', '.join(odd) or asked} set in a way that only "
                f"the library's own supports: {_HINT}"
            )
        self.size, self.crop = size, crop
        scale = 1.0 / float(known["rescale_factor"])
        # the stock processor scales mean and deviation instead of the pixels; the order of roundings is kept
        self.mean, self.std = (
            (torch.tensor(list(known[name]), dtype=torch.float32) * scale).view(3, 1, 1)
            for name in ("image_mean", "image_std")
        )

    def __call__(self, videos: Sequence[Any], **_asked: Any) -> Any:
        """Make ``pixel_values_videos`` [videos, T, 3, h, w] fp32 of videos, each uint8 RGB [T, H, W, 3]."""
        from transformers.feature_extraction_utils import BatchFeature

        return BatchFeature({"pixel_values_videos": torch.stack([self.pixels(np.asarray(each)) for each in videos])})

    def pixels(self, frames: np.ndarray) -> Tensor:
        """Make the pixels of one video, frame by frame: uint8 RGB [T, H, W, 3] to [T, 3, h, w] fp32."""
        return torch.stack([self._frame(torch.tensor(frame).permute(2, 0, 1).contiguous()) for frame in frames])

    def _frame(self, frame: Tensor) -> Tensor:
        rows, columns = self._fitted(*frame.shape[1:])
        if (rows, columns) != tuple(frame.shape[1:]):
            # in uint8, as torchvision does: floats and rounding differ by some levels
            frame = F.interpolate(frame[None], (rows, columns), mode="bicubic", align_corners=False, antialias=True)[0]
        if self.crop is not None:
            frame = _cropped(frame, *self.crop)
        return (frame.to(torch.float32) - self.mean) / self.std

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        if len(self.size) == 2:
            return self.size[0], self.size[1]
        shortest = self.size[0]
        longest = int(shortest * max(height, width) / min(height, width))
        return (longest, shortest) if width <= height else (shortest, longest)


def _sides(size: Any, *bare: str) -> tuple[int, ...] | None:
    """Read (height, width), or (shortest edge,); None for another form. ``bare`` is what a plain number is."""
    if isinstance(size, int):
        size = dict.fromkeys(bare, size)
    if not isinstance(size, Mapping):
        return None
    held = {name: int(value) for name, value in size.items() if value is not None}
    if held.keys() == {"height", "width"}:
        return held["height"], held["width"]
    return (held["shortest_edge"],) if held.keys() == {"shortest_edge"} else None


def _cropped(frame: Tensor, rows: int, columns: int) -> Tensor:
    """Cut the middle out of a frame; one that is smaller gets black edges."""
    height, width = frame.shape[1:]
    down, across = max(0, rows - height), max(0, columns - width)
    if down or across:
        frame = F.pad(frame, (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2))
        height, width = frame.shape[1:]
    top, left = int((height - rows) / 2.0), int((width - columns) / 2.0)
    return frame[:, top : top + rows, left : left + columns]
