"""Videos and images as one model wants them: read, resized, cut into patches, with the facts for a receipt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.adapters import families, family_of
from prunevid_qwen.adapters.folder_json import read_json
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import MediaError
from prunevid_qwen.inputs.qwen.feed import Chunk as Chunk
from prunevid_qwen.inputs.qwen.feed import VideoFeed as VideoFeed
from prunevid_qwen.inputs.qwen.feed import facts_of, merged_grid, planner_of
from prunevid_qwen.inputs.qwen.pixel_options import STOCK, PixelOptions, smart_resize
from prunevid_qwen.inputs.qwen.pixels import fitted_frame, image_pixels, video_pixels
from prunevid_qwen.video import FramesChanged, Video, open_video, read_video
from prunevid_qwen.video.picture import Picture
from prunevid_qwen.vision.options import VisionOptions, vision_options

# frames a video would otherwise get the limit of a single image (16,384 tokens); qwen-vl-utils' VIDEO_MAX_PIXELS
VIDEO_MAX_PIXELS = 768 * 28 * 28
_RESIZED_TOKENS = 4, 16384  # least and most of a size that is asked for, as there

_SETTINGS = {
    "video": (("video_preprocessor_config.json", None), ("processor_config.json", "video_processor")),
    "image": (("processor_config.json", "image_processor"),),
}


@dataclass(frozen=True, eq=False)
class Medium:
    """One video or image, read and turned into patches.

    Args:
        kind: "video" or "image".
        pixels: [patches, 1176] fp32 (Qwen3-VL: 1536); of a video encoded ahead [patches, 2], see `adapters.vision`.
        grid: [1, 3] int64 (t, h, w) in patches.
        seconds_per_grid: of a video; 1.0 for an image.
        facts: what a receipt says of it.
        encoded: [T, L] bool, the visual tokens of a video that are encoded, see `prunevid_qwen.vision.plan`; None where
            its config asks for no copies.
        planned_for: the options that ``encoded`` was planned for.
    """

    kind: str
    pixels: Tensor
    grid: Tensor
    seconds_per_grid: float
    facts: dict[str, Any]
    encoded: Tensor | None = None
    planned_for: VisionOptions | None = None


class MediaReader:
    """Reads media for one model.

    Args:
        video: how the model wants frames; None is Qwen2.5-VL's stock default.
        image: how it wants images; None is Qwen2.5-VL's stock default.
    """

    def __init__(self, video: PixelOptions | None = None, image: PixelOptions | None = None) -> None:
        self.video = video or STOCK["qwen"]["video"]
        self.image = image or STOCK["qwen"]["image"]
        self.merge_size = self.video.merge_size

    @classmethod
    def from_pretrained(cls, source: str, **hub: Any) -> MediaReader:
        """Read the settings from a folder or a hub id, whose config names the family; ``hub`` as in transformers."""
        model_type = read_json(source, "config.json", hub).get("model_type")
        frontend = family_of(model_type).frontend if model_type in families() else ""
        fallback = read_json(source, "preprocessor_config.json", hub)
        options = {}
        for kind, files in _SETTINGS.items():
            found: dict[str, Any] = {}
            for name, section in files:
                content = read_json(source, name, hub)
                found = found or (content if section is None else content.get(section) or {})
            given = found or fallback
            options[kind] = PixelOptions.from_folder_json(given, video=kind == "video", frontend=frontend)
        return cls(options["video"], options["image"])

    @classmethod
    def of_processor(cls, processor: Any, frontend: str = "qwen") -> MediaReader:
        """Take the settings of a loaded transformers processor; ``frontend`` is a key of `STOCK`."""
        options = []
        for kind in ("video", "image"):
            own = getattr(processor, f"{kind}_processor", None)
            given = {} if own is None else own.to_dict()
            options.append(PixelOptions.from_folder_json(given, video=kind == "video", frontend=frontend))
        return cls(*options)

    def read_video(self, source: Any, config: PruneVidConfig, **given: Any) -> Medium:
        """Read a video as ``config`` samples it; ``given`` overrides (start, fps, min_frames, resized, ...)."""
        options, fit, limits = self._asked(config, given)
        video: Video = read_video(source, **options)
        pixels, grid = video_pixels(video.frames, fit.for_video(len(video.timestamps), *video.size, *limits))
        vision = vision_options(config.reading)
        encoded = planner_of(vision, fit).plan(pixels, int(grid[0, 0])) if vision.reuses else None
        return Medium("video", pixels, grid, video.seconds_per_grid, facts_of(video, grid, fit), encoded, vision)

    def open_video(
        self, source: Any, config: PruneVidConfig, *, dtype: torch.dtype, pin: bool = False, **given: Any
    ) -> VideoFeed:
        """Open the video that `read_video` reads whole, and start reading it in chunks that fit the vision encoder.

        Args:
            source: as in `read_video`.
            config: how it is sampled, and how large a chunk is.
            dtype: of the vision encoder.
            pin: put the pixels into pinned memory.
            given: as in `read_video`.
        """
        options, fit, limits = self._asked(config, given)
        stream, vision = open_video(source, **options), vision_options(config.reading)
        return VideoFeed(stream, fit, limits, config.vision_chunk_tokens, dtype, pin, vision)

    def read_fitted(
        self, source: Any, config: PruneVidConfig, most_tokens: int | None = None, **given: Any
    ) -> tuple[np.ndarray, float, dict[str, Any]]:
        """Read the video that `read_video` reads, resized but not cut into patches: a quarter of the bytes.

        With ``most_tokens`` a video of more visual tokens is a `MediaError`, before a frame of it is decoded.

        Returns: frames uint8 RGB ``[T, h, w, 3]``, T even, for `pixels.fitted_pixels`; the seconds of a temporal
            position; and what a receipt says.
        """
        options, own, limits = self._asked(config, given)
        stream, frames = open_video(source, **options), list[np.ndarray]()
        try:
            while True:
                fit = own.for_video(stream.taken, *stream.size, *limits)
                frames.clear()
                _check_tokens(fit, stream.count, stream.size, most_tokens)
                try:
                    for chunk in stream.chunks(own.temporal_patch_size):
                        frames.extend(fitted_frame(frame, fit) for frame in chunk)
                    break
                except FramesChanged:
                    continue
        finally:
            stream.close()
        video, depth = stream.video(), own.temporal_patch_size
        sides = [side // own.patch_size for side in frames[0].shape[:2]]
        grid = torch.tensor([[math.ceil(len(frames) / depth), *sides]])
        return np.stack(frames), video.seconds_per_grid, facts_of(video, grid, own)

    def _asked(
        self, config: PruneVidConfig, given: dict[str, Any]
    ) -> tuple[dict[str, Any], PixelOptions, tuple[int, int | None]]:
        """Return the arguments of the reader, how frames are fitted, and the limits on pixels."""
        options = {
            "sampling": config.video_sampling,
            "max_frames": config.max_frames,
            "fps": config.fps,
            "backend": config.video_backend,
            "time_limit": config.video_time_limit,
            **given,
        }
        limit = options.pop("max_pixels", config.max_pixels)
        total = options.pop("total_pixels", config.total_pixels)
        fit = _fit(self.video, options, limit)
        if fit.fixed is not None:
            limit = total = None  # a size that is given is no matter of limits
        elif limit is None and fit.whole is None:
            limit = max(fit.min_pixels, min(self.video.max_pixels, VIDEO_MAX_PIXELS))
        return options, fit, (limit, total)

    def grid_of(self, config: PruneVidConfig, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return (t, h, w) in visual tokens of a video of so many frames of that size, as ``config`` has it read.

        Raises:
            ConfigError, MediaError: as `PixelOptions.for_video`.
        """
        _, fit, limits = self._asked(config, {})
        rows, columns = fit.for_video(frames, height, width, *limits).fit(height, width)
        return math.ceil(frames / fit.temporal_patch_size), rows // fit.factor, columns // fit.factor

    def read_image(self, source: Any, config: PruneVidConfig, **given: Any) -> Medium:
        """Read one image."""
        shown = Picture.of(source)
        limit = given.pop("max_pixels", config.max_pixels)
        fit = _fit(self.image, given, limit)
        pixels, grid = image_pixels(shown.pixels, fit, max_pixels=None if fit.fixed else limit)
        resized = [int(side) * self.image.patch_size for side in grid[0, 1:]]
        facts = {**shown.facts, "resized": resized, "grid": merged_grid(grid, self.image.merge_size)}
        return Medium("image", pixels, grid, 1.0, facts)


def _check_tokens(fit: PixelOptions, frames: int, size: tuple[int, int], most: int | None) -> None:
    rows, columns = (side // fit.factor for side in fit.fit(*size))
    tokens = math.ceil(frames / fit.temporal_patch_size) * rows * columns
    if most is not None and tokens > most:
        raise MediaError(
            f"the video has {tokens:,} visual tokens, and at most {most:,} are taken: ask for fewer frames"
        )


def _fit(options: PixelOptions, given: dict[str, Any], max_pixels: Any) -> PixelOptions:
    """Take ``min_pixels`` and ``resized`` out of ``given``: they go before the model's own limits, as Qwen has it."""
    least, resized = given.pop("min_pixels", None), given.pop("resized", None)
    if resized is not None:
        least, most = (tokens * options.factor**2 for tokens in _RESIZED_TOKENS)
        return replace(options, fixed=smart_resize(resized[0], resized[1], options.factor, least, most))
    if least is None:
        return options
    most = max_pixels if isinstance(max_pixels, int) else 0  # what else it is, is refused where it is used
    return replace(options, min_pixels=least, max_pixels=max(options.max_pixels, most))
