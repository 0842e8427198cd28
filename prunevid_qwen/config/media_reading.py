"""Reading: the options of sampling and reading videos and images. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunevid_qwen.config.option_checks import check_count, check_share, checked_names, is_number, unknown
from prunevid_qwen.errors import ConfigError, quoted

CHOICES: dict[str, tuple[str, ...]] = {
    "sampling": ("uniform", "fps"),
    "backend": ("pyav", "decord", "opencv", "torchcodec", "qwen-vl-utils"),
}
STOCK_ENCODER = {"reuse_threshold": None, "early_tau": None, "early_block": None, "reuse_identical": False}
"""Options that leave the vision encoder as it is, by flat name."""


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
        reuse_threshold: grey levels in [0, 255]. The vision encoder leaves out a place of a video that differs by at
            most so much, in its worst cell of 7 x 7 pixels, from its last encoded state, and copies that state's token.
            None encodes every place.
        early_tau: cosine in (0, 1]. A place whose state after block ``early_block`` of the vision encoder is more
            alike to the last one that went on there goes no further, and its token is a copy. None lets all go on.
        early_block: block of the vision encoder after which ``early_tau`` compares: an index from 0, or a share of the
            encoder's depth in (0, 1) as a float. It is set together with ``early_tau``, or neither is.
        reuse_identical: encode temporal positions of a video whose pixels are equal bit for bit once.

    Raises:
        ConfigError: a value is outside its range or of the wrong type, or one of ``early_tau`` and ``early_block`` is
            set without the other.
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
    reuse_threshold: float | None = None
    early_tau: float | None = None
    early_block: int | float | None = None
    reuse_identical: bool = False

    def __post_init__(self) -> None:
        check_count("max_frames", self.max_frames, 2)
        for name in ("max_pixels", "total_pixels"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 28 * 28)
        for name in ("drop_empty_frames", "reuse_identical"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, got {quoted(getattr(self, name))}")
        check_reuse(self.reuse_threshold, self.early_tau, self.early_block)
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


def check_reuse(threshold: object, tau: object, block: object) -> None:
    """Check the values of ``reuse_threshold``, ``early_tau`` and ``early_block``.

    Raises:
        ConfigError: a value is outside its range or of the wrong type, or ``early_tau`` or ``early_block`` is alone.
    """
    if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 255):  # type: ignore[operator]
        raise ConfigError(f"reuse_threshold is a number of grey levels in [0, 255], or None; got {quoted(threshold)}")
    if tau is not None:
        check_share("early_tau", tau)
    if block is not None:
        share = isinstance(block, float) and 0 < block < 1
        if not share and (not isinstance(block, int) or isinstance(block, bool) or block < 0):
            raise ConfigError(
                "early_block is the index of a block of the vision encoder, from 0, or a share of its depth in (0, 1) "
                f"as a float; got {quoted(block)}"
            )
    if (tau is None) != (block is None):
        raise ConfigError(
            f"early_tau and early_block belong together, got early_tau={quoted(tau)} and early_block={quoted(block)}: "
            "set both, or neither"
        )
