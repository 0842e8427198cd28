"""Videos and images as one model wants them: read, resized, cut into patches, with the facts for a receipt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.pixels import PixelOptions, image_pixels, video_pixels
from prunevid_qwen.video import Video, read_image, read_video

# frames a video would otherwise get the limit of a single image (16,384 tokens); qwen-vl-utils' VIDEO_MAX_PIXELS
VIDEO_MAX_PIXELS = 768 * 28 * 28

_SETTINGS = {
    "video": (("video_preprocessor_config.json", None), ("processor_config.json", "video_processor")),
    "image": (("processor_config.json", "image_processor"),),
}


@dataclass(frozen=True, eq=False)
class Medium:
    """One video or image, read and turned into patches.

    Args:
        kind: "video" or "image".
        pixels: [patches, 1176] fp32.
        grid: [1, 3] int64 (t, h, w) in patches.
        seconds_per_grid: of a video; 1.0 for an image.
        facts: what a receipt says of it.
    """

    kind: str
    pixels: Tensor
    grid: Tensor
    seconds_per_grid: float
    facts: dict[str, Any]


class MediaReader:
    """Reads media for one model.

    Args:
        video: how the model wants frames; None is the stock default.
        image: how it wants images; None is the stock default.
    """

    def __init__(self, video: PixelOptions | None = None, image: PixelOptions | None = None) -> None:
        self.video = video or PixelOptions.from_folder_json({}, video=True)
        self.image = image or PixelOptions.from_folder_json({})
        self.merge_size = self.video.merge_size

    @classmethod
    def from_pretrained(cls, source: str, **hub: Any) -> MediaReader:
        """Read the settings from a folder or a hub id; ``hub`` as in transformers."""
        fallback = read_json(source, "preprocessor_config.json", hub)
        options = {}
        for kind, files in _SETTINGS.items():
            found: dict[str, Any] = {}
            for name, section in files:
                content = read_json(source, name, hub)
                found = found or (content if section is None else content.get(section) or {})
            options[kind] = PixelOptions.from_folder_json(found or fallback, video=kind == "video")
        return cls(options["video"], options["image"])

    @classmethod
    def of_processor(cls, processor: Any) -> MediaReader:
        """Take the settings of a loaded transformers processor."""
        video, image = (getattr(processor, f"{kind}_processor", None) for kind in ("video", "image"))
        return cls(
            None if video is None else PixelOptions.from_folder_json(video.to_dict(), video=True),
            None if image is None else PixelOptions.from_folder_json(image.to_dict()),
        )

    def read_video(self, source: Any, config: PruneVidConfig, **given: Any) -> Medium:
        """Read a video as ``config`` samples it; ``given`` overrides (start, end, fps, max_frames, ...)."""
        sampling = given.pop("sampling", config.video_sampling)
        limit = given.pop("max_pixels", config.max_pixels)
        total = given.pop("total_pixels", config.total_pixels)
        options = {
            "max_frames": config.max_frames,
            "fps": config.fps,
            "backend": config.video_backend,
            "time_limit": config.video_time_limit,
            **given,
        }
        video: Video = read_video(source, sampling=sampling, **options)
        if limit is None:
            limit = max(self.video.min_pixels, min(self.video.max_pixels, VIDEO_MAX_PIXELS))
        pixels, grid = video_pixels(video.frames, self.video, max_pixels=limit, total_pixels=total)
        facts = {
            "source": video.source,
            "backend": video.backend,
            "frames": len(video.timestamps),
            "padded": video.padded,
            "timestamps": list(video.timestamps),
            "seconds_per_grid": video.seconds_per_grid,
            "duration": video.duration,
            "size": list(video.size),
            "resized": [int(side) * self.video.patch_size for side in grid[0, 1:]],
            "grid": _merged(grid, self.video.merge_size),
            "warnings": list(video.warnings),
        }
        return Medium("video", pixels, grid, video.seconds_per_grid, facts)

    def read_image(self, source: Any, config: PruneVidConfig, **given: Any) -> Medium:
        """Read one image."""
        image = read_image(source)
        pixels, grid = image_pixels(image, self.image, max_pixels=given.get("max_pixels", config.max_pixels))
        facts = {
            "source": str(source) if isinstance(source, (str, Path)) else type(source).__name__,
            "size": list(image.shape[:2]),
            "resized": [int(side) * self.image.patch_size for side in grid[0, 1:]],
            "grid": _merged(grid, self.image.merge_size),
        }
        return Medium("image", pixels, grid, 1.0, facts)


def _merged(grid: Tensor, merge: int) -> list[int]:
    t, h, w = grid[0].tolist()
    return [t, h // merge, w // merge]


def read_json(source: str, name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """Read an optional JSON file of a model folder or hub repository; {} when it has none."""
    from transformers.utils import cached_file

    path = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False, **hub
    )
    if path is None:
        return {}
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
