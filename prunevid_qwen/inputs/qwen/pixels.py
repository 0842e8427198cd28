"""Frames to the pixels that Qwen2.5-VL takes: the stock processors' arithmetic, bit for bit, no torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from prunevid_qwen.errors import ConfigError, MediaError, quoted

if TYPE_CHECKING:
    import numpy as np

_MAX_ASPECT = 200
_TOKEN_PIXELS = 28 * 28


@dataclass(frozen=True)
class PixelOptions:
    """How frames become patches; the defaults are the stock image processor's.

    Args:
        patch_size: side of a patch in pixels.
        temporal_patch_size: frames that one patch spans.
        merge_size: patches per side that the vision tower merges into one visual token.
        image_mean: mean of each RGB channel, on a scale of 0 to 1.
        image_std: standard deviation of each RGB channel, on the same scale, above 0.
        min_pixels: pixels of a resized frame at least.
        max_pixels: pixels of a resized frame at most, not below ``min_pixels``.
        fixed: rows and columns in pixels that every frame gets, multiples of ``factor``; None: as its own size asks.

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

    @classmethod
    def from_folder_json(cls, settings: Mapping[str, Any], *, video: bool = False) -> PixelOptions:
        """Read the options from the dict in a model folder's ``preprocessor_config.json``.

        Both spellings of the size limits are understood: ``min_pixels``/``max_pixels``, which win, and
        ``size: {shortest_edge, longest_edge}``. What the file does not say takes the stock default.

        Args:
            settings: the parsed JSON; keys that do not concern pixels are passed over.
            video: take the stock video processor's default limits (128 and 768 tokens a frame) instead of the image
                processor's (4 and 1280).

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
                f"(bicubic) are what Qwen2.5-VL was trained with"
            )
        low, high = (128, 768) if video else (4, 1280)
        size = settings.get("size") or {}
        limits = {
            "min_pixels": (settings.get("min_pixels"), size.get("shortest_edge"), low * _TOKEN_PIXELS),
            "max_pixels": (settings.get("max_pixels"), size.get("longest_edge"), high * _TOKEN_PIXELS),
        }
        options: dict[str, Any] = {
            name: next(value for value in values if value is not None) for name, values in limits.items()
        }
        for name in ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std"):
            if settings.get(name) is not None:
                value = settings[name]
                options[name] = tuple(value) if isinstance(value, (list, tuple)) else value
        return cls(**options)


def smart_resize(
    height: int, width: int, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 28 * 28 * 1280
) -> tuple[int, int]:
    """Return the height and width to resize to: multiples of ``factor``, the aspect nearly kept, the area in limits.

    Args:
        height, width: pixels, at least 1.
        factor: pixels per side of a visual token.
        min_pixels, max_pixels: area at least and at most.

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
    if rows * columns > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def video_pixels(
    frames: np.ndarray | torch.Tensor,
    options: PixelOptions,
    max_pixels: int | None = None,
    total_pixels: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn the frames of one video into ``pixel_values_videos`` and ``video_grid_thw``.

    Equal, bit for bit, to ``Qwen2VLVideoProcessor`` with the same size limits. Frames are converted a pair at a time,
    so the memory is that of the result and of one pair.

    Args:
        frames: uint8 RGB ``[T, H, W, 3]`` or ``[T, 3, H, W]``, T at least 1; the last frame is repeated to fill a pair.
        options: the model's preprocessing.
        max_pixels: pixels a frame at most, instead of the model's own limit.
        total_pixels: pixels of the whole video at most, Qwen's way: divided by 784 it is the video's visual tokens, so
            a frame gets ``total_pixels / (T / 2)``. Both limits hold.

    Returns:
        float32 ``[T/2 * grid_h * grid_w, 1176]`` and int64 ``[1, 3]`` (t, h, w in patches).

    Raises:
        ConfigError: the limits leave a frame fewer pixels than the model takes at least; the least that works is named.
        MediaError: frames of another shape or type, or an aspect above 200.
    """
    tensor = _channels_first(frames)
    return _patches(tensor, options, frame_limit(len(tensor), options, max_pixels, total_pixels))


def image_pixels(
    image: np.ndarray | torch.Tensor, options: PixelOptions, max_pixels: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn one image into ``pixel_values`` and ``image_grid_thw``.

    Equal, bit for bit, to the torchvision-backed ``Qwen2VLImageProcessor`` with the same size limits.

    Args:
        image: uint8 RGB ``[H, W, 3]`` or ``[3, H, W]``.
        options: the model's preprocessing.
        max_pixels: pixels at most, instead of the model's own limit.

    Returns:
        float32 ``[grid_h * grid_w, 1176]`` and int64 ``[1, 3]`` (1, h, w in patches).

    Raises:
        ConfigError: ``max_pixels`` is below the fewest pixels that the model takes.
        MediaError: an image of another shape or type, or an aspect above 200.
    """
    tensor = _channels_first(torch.as_tensor(image)[None] if getattr(image, "ndim", 0) == 3 else image)
    if len(tensor) != 1:
        raise MediaError(f"one image is [H, W, 3] or [3, H, W], got {list(image.shape)}")
    return _patches(tensor, options, frame_limit(1, options, max_pixels, None))


def fitted_frame(frame: np.ndarray, options: PixelOptions) -> np.ndarray:
    """Resize one frame to the size at which the model takes it; uint8 ``[H, W, 3]`` to uint8 ``[h, w, 3]``.

    Frames that were fitted one by one and then cut by `fitted_pixels` give the bits of `video_pixels` and
    `image_pixels`.

    Args:
        frame: RGB.
        options: the model's preprocessing; its ``max_pixels`` is the limit.

    Raises:
        MediaError: a frame of another shape or type, or an aspect above 200.
    """
    tensor = _channels_first(frame[None])
    return _resized(tensor, *options.fit(*tensor.shape[2:]))[0].permute(1, 2, 0).contiguous().numpy()


def fitted_pixels(frames: np.ndarray | torch.Tensor, options: PixelOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut frames that have their final size into patches; returns what `video_pixels` does.

    Args:
        frames: uint8 RGB ``[T, h, w, 3]`` from `fitted_frame`: sides are multiples of ``options.factor``.
        options: the model's preprocessing; its limits are not looked at again.
    """
    tensor = _channels_first(frames)
    return _cut(tensor, options, *tensor.shape[2:])


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


def _channels_first(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Check and return a view ``[T, 3, H, W]``."""
    if not isinstance(frames, torch.Tensor):
        import warnings

        import numpy as np

        with warnings.catch_warnings():
            # A read-only array makes torch warn; it is never written to here.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            frames = torch.from_numpy(np.ascontiguousarray(frames))
    if frames.dtype != torch.uint8:
        raise MediaError(f"frames are uint8 from 0 to 255, got {frames.dtype}: scale floats by 255, round and convert")
    if frames.ndim != 4 or 0 in frames.shape or 3 not in (frames.shape[1], frames.shape[3]):
        raise MediaError(f"frames are [T, H, W, 3] or [T, 3, H, W] with T at least 1, got {list(frames.shape)}")
    return frames.permute(0, 3, 1, 2) if frames.shape[3] == 3 else frames


def _patches(frames: torch.Tensor, options: PixelOptions, max_pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _cut(frames, options, *options.fit(frames.shape[2], frames.shape[3], max_pixels))


def _cut(frames: torch.Tensor, options: PixelOptions, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    count, channels = frames.shape[:2]
    patch, merge, depth = options.patch_size, options.merge_size, options.temporal_patch_size
    steps, grid_h, grid_w = math.ceil(count / depth), rows // patch, columns // patch
    # The stock processor scales the mean and deviation instead of the pixels; the order of roundings is kept.
    mean = (torch.tensor(options.image_mean, dtype=torch.float32) * 255.0).view(1, 3, 1, 1)
    std = (torch.tensor(options.image_std, dtype=torch.float32) * 255.0).view(1, 3, 1, 1)
    out = torch.empty(steps, grid_h * grid_w, channels * depth * patch * patch, dtype=torch.float32)
    for step in range(steps):
        span = frames[step * depth : (step + 1) * depth].cpu()
        pixels = (_resized(span, rows, columns).to(torch.float32) - mean) / std
        if len(pixels) < depth:
            pixels = torch.cat([pixels, pixels[-1:].expand(depth - len(pixels), -1, -1, -1)])
        blocks = pixels.view(depth, channels, grid_h // merge, merge, patch, grid_w // merge, merge, patch)
        out[step].view(grid_h // merge, grid_w // merge, merge, merge, channels, depth, patch, patch).copy_(
            blocks.permute(2, 5, 3, 6, 1, 0, 4, 7)
        )
    return out.flatten(0, 1), torch.tensor([[steps, grid_h, grid_w]])


def _resized(frames: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Resize uint8 ``[n, 3, H, W]`` as torchvision does: in uint8, because float and rounding differ by up to 6."""
    if frames.shape[-2:] == (rows, columns):
        return frames.contiguous()
    resized = F.interpolate(frames, size=(rows, columns), mode="bicubic", align_corners=False, antialias=True)
    return resized.contiguous()
