"""Reading: the options of sampling and reading videos and images. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunevid_qwen.config.option_checks import check_count, checked_names, is_number, unknown
from prunevid_qwen.errors import ConfigError, quoted

CHOICES: dict[str, tuple[str, ...]] = {
    "sampling": ("uniform", "fps"),
    "backend": ("pyav", "decord", "opencv", "torchcodec", "qwen-vl-utils"),
}


@checked_names("Reading has")
@dataclass(frozen=True)
class Reading:
    """Options of sampling and reading a video.

    Args:
        max_frames: largest number of frames taken of a video, at least 2.
        sampling: "uniform" takes ``max_frames`` frames, equally spaced. "fps" takes ``fps`` frames a second, at most
            ``max_frames``.
        fps: frames a second for ``sampling="fps"``, above 0.
        max_pixels: largest number of pixels of a frame. None means the model's own limit.
        total_pixels: largest number of pixels of a whole video; 784 of them are a visual token (Qwen3-VL: 1024). None
            means no limit.
        backend: library that reads video files.
        time_limit: seconds that reading a video may take, above 0, checked between frames. None means no limit.
        chunk_tokens: visual tokens that the vision encoder takes at once, at least 1. None means no limit.
        drop_empty_frames: for models that write a timestamp before each frame of a video (Qwen3-VL). A frame that loses
            all its tokens loses its timestamp and brackets too. Other models refuse True.

    Raises:
        ConfigError: a value is outside its range or of the wrong type.
    """

    max_frames: int = 16
    sampling: str = "uniform"
    fps: float = 2.0
    max_pixels: int | None = None
    total_pixels: int | None = None
    backend: str = "pyav"
    time_limit: float | None = 120.0
    chunk_tokens: int | None = 8192
    drop_empty_frames: bool = False

    def __post_init__(self) -> None:
        check_count("max_frames", self.max_frames, 2)
        for name in ("max_pixels", "total_pixels"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 28 * 28)
        if not isinstance(self.drop_empty_frames, bool):
            raise ConfigError(f"drop_empty_frames is True or False, got {quoted(self.drop_empty_frames)}")
        if self.chunk_tokens is not None:
            check_count("vision_chunk_tokens", self.chunk_tokens, 1)
        for name, flat in (("sampling", "video_sampling"), ("backend", "video_backend")):
            if getattr(self, name) not in CHOICES[name]:
                raise ConfigError(unknown(f"{flat} is one of", getattr(self, name), CHOICES[name]))
        if not is_number(self.fps) or not 0 < self.fps < math.inf:
            raise ConfigError(f"fps is a number above 0, got {quoted(self.fps)}")
        limit = self.time_limit
        if limit is not None and (not is_number(limit) or not limit > 0):
            raise ConfigError(f"video_time_limit is a number of seconds above 0, or None; got {quoted(limit)}")
