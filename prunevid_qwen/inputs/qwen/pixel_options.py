"""How frames become patches: sizes, limits and normalisation of the stock processors of Qwen's families."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError, quoted

_MAX_ASPECT = 200
_TOKEN_PIXELS = 28 * 28


@dataclass(frozen=True)
class WholeVideo:
    """Limits on all frames of a video together, which Qwen3-VL has in place of limits on each frame.

    Args:
        least: pixels of all frames together at least.
        most: pixels of all frames together at most, not below ``least``.
        capped: a frame gets ``max_pixels`` of its `PixelOptions` at most, and of a long video 1.05 * ``least`` all the
            same: transformers' ``cap_pixels_per_frame``, as in qwen-vl-utils. False: a short video spends ``most``.
    """

    least: int
    most: int
    capped: bool = True

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"the preprocessor's limits on a whole video are whole numbers, got {quoted(value)}")
        if self.least > self.most:
            raise ConfigError(f"a whole video has at least {self.least} and at most {self.most} pixels: swap the two")


@dataclass(frozen=True)
class PixelOptions:
    """How frames become patches; the defaults are those of Qwen2.5-VL's stock image processor.

    Args:
        patch_size: side of a patch in pixels.
        temporal_patch_size: frames that one patch spans.
        merge_size: patches per side that the vision tower merges into one visual token.
        image_mean: mean of each RGB channel, on a scale of 0 to 1.
        image_std: standard deviation of each RGB channel, on the same scale, above 0.
        min_pixels: pixels of a resized frame at least.
        max_pixels: pixels of a resized frame at most, not below ``min_pixels``.
        fixed: rows and columns in pixels that every frame gets, multiples of ``factor``; None: as its own size asks.
        whole: of a video, limits on all of its frames together, in place of ``min_pixels``; None: each frame by itself.

    Raises:
        ConfigError: a size below 1, a mean or deviation that is not three numbers, or limits the wrong way round.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    min_pixels: int = 4 * _TOKEN_PIXELS
    max_pixels: int = 1280 * _TOKEN_PIXELS
    fixed: tuple[int, int] | None = None
    whole: WholeVideo | None = None

    def __post_init__(self) -> None:
        for name in ("patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} of the preprocessor is a whole number of at least 1, got {quoted(value)}")
        for name, least in (("image_mean", -math.inf), ("image_std", 0.0)):
            values = getattr(self, name)
            if len(values) != 3 or not all(isinstance(v, (int, float)) and v > least for v in values):
                raise ConfigError(f"{name} of the preprocessor is three numbers, one per RGB channel; got {values!r}")
        if self.min_pixels > self.max_pixels:
            raise ConfigError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}: no frame can satisfy both"
            )

    @property
    def factor(self) -> int:
        """Side of the square of pixels that one visual token stands for; resized sides are multiples of it."""
        return self.patch_size * self.merge_size

    def fit(self, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int]:
        """Return the rows and columns that a frame is resized to; ``max_pixels`` stands instead of its own limit."""
        limit = self.max_pixels if max_pixels is None else max_pixels
        return self.fixed or smart_resize(height, width, self.factor, self.min_pixels, limit)

    def for_video(
        self, count: int, height: int, width: int, max_pixels: int | None = None, total_pixels: int | None = None
    ) -> PixelOptions:
        """Return the options with the size ``fixed`` that each frame of a video gets.

        Args:
            count: frames of the video, without padding.
            height: pixels of a frame.
            width: pixels of a frame.
            max_pixels: as in `pixels.video_pixels`.
            total_pixels: as in `pixels.video_pixels`.

        Raises:
            ConfigError, MediaError: as `pixels.video_pixels`.
        """
        if self.fixed is not None:
            return self
        limit = frame_limit(count, self, max_pixels, total_pixels)
        if self.whole is None:
            return replace(self, fixed=self.fit(height, width, limit))
        count = max(count, self.temporal_patch_size)
        least, most = self.whole.least, self.whole.most
        if self.whole.capped or max_pixels is not None or total_pixels is not None:
            most = count * min(limit, max(most // count, int(least * 1.05)))
        if self.min_pixels > self.factor**2:  # somebody asked for more than the one token that every frame has
            least = max(least, count * self.min_pixels)
        if min(height, width) < self.factor:
            grow = max(self.factor / height, self.factor / width)
            height, width = int(height * grow), int(width * grow)
        fixed = smart_resize(height, width, self.factor, least, most, count, self.temporal_patch_size)
        return replace(self, fixed=fixed)

    @classmethod
    def from_folder_json(
        cls, settings: Mapping[str, Any], *, video: bool = False, frontend: str = "qwen"
    ) -> PixelOptions:
        """Read the options from the dict in a model folder's ``preprocessor_config.json``.

        Both spellings of the size limits are understood: ``min_pixels``/``max_pixels``, which win, and
        ``size: {shortest_edge, longest_edge}``. What the file does not say is taken from `STOCK`.

        Args:
            settings: the parsed JSON; keys that do not concern pixels are passed over.
            video: the settings are a video processor's, not an image processor's.
            frontend: that the model's family is registered with, a key of `STOCK`; any other means "qwen".

        Raises:
            ConfigError: a step that is always done here is switched off or done in another way, or a bad value.
        """
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if settings.get(step, True) is False:
                raise ConfigError(f"the preprocessor config sets {step}=false: only true is supported")
        scale, resample = settings.get("rescale_factor", 1 / 255), settings.get("resample", 3)
        if not math.isclose(scale, 1 / 255, rel_tol=1e-6) or resample not in (3, "bicubic"):
            raise ConfigError(
                f"the preprocessor config asks for rescale_factor={scale!r}, resample={resample!r}; only 1/255 and 3 "
                f"(bicubic) are what Qwen-VL models were trained with"
            )
        stock = STOCK.get(frontend, STOCK["qwen"])["video" if video else "image"]
        size = settings.get("size") or {}
        given = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        if stock.whole is None:
            given |= {name: settings[name] for name in given if settings.get(name) is not None}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        for name in ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std"):
            if settings.get(name) is not None:
                value = settings[name]
                options[name] = tuple(value) if isinstance(value, (list, tuple)) else value
        if stock.whole is None:
            return replace(stock, **options)
        least = options.pop("min_pixels", stock.whole.least)
        most = options.pop("max_pixels", stock.whole.most)
        own = replace(
            stock, **options, whole=WholeVideo(least, most, settings.get("cap_pixels_per_frame") is not False)
        )
        tokens = settings.get("max_video_tokens") or 768
        return replace(own, min_pixels=own.factor**2, max_pixels=max(tokens * own.factor**2, int(least * 1.05)))


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 56 * 56,
    max_pixels: int = 28 * 28 * 1280,
    count: int = 1,
    depth: int = 1,
) -> tuple[int, int]:
    """Return the height and width to resize to: multiples of ``factor``, the aspect nearly kept, the area in limits.

    Args:
        height, width: pixels, at least 1.
        factor: pixels per side of a visual token.
        min_pixels, max_pixels: area at least and at most, of all ``count`` frames together.
        count: frames that share the area, at least ``depth``.
        depth: the area is compared as if ``count`` were the nearest multiple of it.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise MediaError(
            f"a frame of {width}x{height} (width x height) has an aspect ratio above {_MAX_ASPECT}, which the model "
            f"cannot take: crop it"
        )
    # round() to even and float square roots, in this order: other orders differ by one factor on some sizes.
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    even = round(count / depth) * depth
    if even * rows * columns > max_pixels:
        shrink = math.sqrt((count * height * width) / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif even * rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (count * height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def frame_limit(count: int, options: PixelOptions, max_pixels: int | None, total_pixels: int | None) -> int:
    """Return the pixels that one of ``count`` frames may have; raises as `video_pixels`.

    A video that is converted in parts takes it as ``max_pixels`` of each part.
    """
    for name, value in (("max_pixels", max_pixels), ("total_pixels", total_pixels)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} is a whole number of pixels above 0, or None; got {quoted(value)}")
    limit = options.max_pixels if max_pixels is None else max_pixels
    if limit < options.min_pixels:
        raise ConfigError(
            f"max_pixels={limit} is below this model's smallest frame: pass max_pixels={options.min_pixels} or more"
        )
    if total_pixels is None:
        return limit
    steps = math.ceil(count / options.temporal_patch_size)
    share = total_pixels // steps
    if share < options.min_pixels:
        raise ConfigError(
            f"total_pixels={total_pixels} leaves {share} pixels for each of {steps} pairs of frames, but this model "
            f"needs {options.min_pixels}: pass total_pixels={options.min_pixels * steps} or more for {count} frames, "
            "or take fewer frames"
        )
    return min(limit, share)


_HALF = (0.5, 0.5, 0.5)
_QWEN3 = PixelOptions(16, 2, 2, _HALF, _HALF, min_pixels=256 * 256, max_pixels=4096 * 4096)
STOCK: Mapping[str, Mapping[str, PixelOptions]] = {
    "qwen": {"image": PixelOptions(), "video": PixelOptions(min_pixels=128 * 784, max_pixels=768 * 784)},
    "qwen3": {
        "image": _QWEN3,
        "video": replace(
            _QWEN3, min_pixels=1024, max_pixels=768 * 1024, whole=WholeVideo(least=4096, most=24576 * 1024)
        ),
    },
}
"""By a family's frontend and the kind of medium: of "qwen" what the stock processors do if nobody sets anything, of
"qwen3" what the files of every published Qwen3-VL set."""
