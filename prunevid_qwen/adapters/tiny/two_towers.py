"""A tiny Video-LLaVA: two CLIP towers, and videos of frames with a CLS token before each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prunevid_qwen.adapters.tiny.family import IMAGE, PATCH, SIDE, VIDEO, TinyBatch, TinyFamily
from prunevid_qwen.adapters.tiny.llava import clip


def _video_llava(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "text_config": {**text, "model_type": "llama"}, "vision_config": clip(), "image_token_index": IMAGE,
        "video_token_index": VIDEO, "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip


def image_pixels() -> str:
    """Say under which name the installed transformers takes a Video-LLaVA's images."""
    from transformers import VideoLlavaForConditionalGeneration

    taken = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    return "pixel_values" if "pixel_values" in taken else "pixel_values_images"


def frames(count: int, side: int, numbers: torch.Generator) -> torch.Tensor:
    """Make a still scene of ``side`` x ``side`` patches with noise on some of them, [count, 3, H, W]."""
    still = torch.randn(1, 3, side * PATCH, side * PATCH, generator=numbers)
    noise = torch.randn(count, *still.shape[1:], generator=numbers)
    moves = (torch.rand(1, 1, side, side, generator=numbers) < 0.5).float()
    return still + noise * (0.05 + moves.repeat_interleave(PATCH, -1).repeat_interleave(PATCH, -2))


class VideoLlavaMedia:
    """Images of one grid, and videos of as many frames as the others of a call."""

    def __init__(self) -> None:
        self.made: list[tuple[str, torch.Tensor]] = []

    def show(self, kind: str, size: Sequence[int], numbers: torch.Generator) -> tuple[list[int], list[int]]:
        """Make pixels of ("image",) or ("video", T); return its token ids and their types."""
        count = size[0] if kind == "video" else 1
        pixels = frames(count, SIDE, numbers)
        self.made.append((kind, pixels if kind == "video" else pixels[0]))
        token, which, tokens = (VIDEO, 2, SIDE**2 + 1) if kind == "video" else (IMAGE, 1, SIDE**2)
        return [token] * count * tokens, [which] * count * tokens

    def inputs(self, first: int, last: int) -> dict[str, Any]:
        """Return what `generate` takes of those made from ``first`` on to before ``last``."""
        shown = self.made[first:last]
        images, videos = ([pixels for each, pixels in shown if each == kind] for kind in ("image", "video"))
        out = {image_pixels(): torch.stack(images)} if images else {}
        return {**out, "pixel_values_videos": torch.stack(videos)} if videos else out


_SCENES = TinyBatch(  # an image, which passes, and videos: half of each frame and its CLS token are left
    (
        (("text", 2), ("image",), ("text", 1), ("video", 2), ("text", 5)),
        (("text", 3), ("video", 2), ("text", 5)),
    ),
    (8, 8), ((16, 34), (34,)), ((16, 18), (18,)),
)  # fmt: skip

VIDEO_LLAVA: Mapping[str, TinyFamily] = {
    "video_llava": TinyFamily("VideoLlava", _video_llava, VideoLlavaMedia, _SCENES),
}
