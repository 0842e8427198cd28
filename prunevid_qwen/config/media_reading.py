"""Reading: how videos and images are read. Imports no torch."""

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
    """How a video is sampled and read.

    Args:
        max_frames: frames sampled from a video at most, at least 2.
        sampling: "uniform" takes ``max_frames``, equally spaced; "fps" takes ``fps`` a second, at most those.
        fps: frames a second for ``sampling="fps"``, above 0.
        max_pixels: pixels a frame at most, or None for the model's own limit.
        total_pixels: pixels of a whole video at most (divided by 784 it is its visual tokens), or None.
        backend: which library reads video files.
        time_limit: seconds that reading one video may take, above 0, or None; checked between frames.
        chunk_tokens: visual tokens that the vision encoder takes at once, at least 1, or None for no limit.

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

    def __post_init__(self) -> None:
        check_count("max_frames", self.max_frames, 2)
        for name in ("max_pixels", "total_pixels"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 28 * 28)
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
