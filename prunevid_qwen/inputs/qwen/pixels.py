"""Frames to the pixels that Qwen-VL models take: the stock processors' arithmetic, bit for bit, no torchvision."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from prunevid_qwen.errors import MediaError
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions as PixelOptions
from prunevid_qwen.inputs.qwen.pixel_options import frame_limit as frame_limit
from prunevid_qwen.inputs.qwen.pixel_options import smart_resize as smart_resize

if TYPE_CHECKING:
    import numpy as np


def video_pixels(
    frames: np.ndarray | torch.Tensor,
    options: PixelOptions,
    max_pixels: int | None = None,
    total_pixels: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn the frames of one video into ``pixel_values_videos`` and ``video_grid_thw``.

    Equal, bit for bit, to ``Qwen2VLVideoProcessor`` or ``Qwen3VLVideoProcessor`` with the same size limits. Frames are
    converted a pair at a time, so the memory is that of the result and of one pair.

    Args:
        frames: uint8 RGB ``[T, H, W, 3]`` or ``[T, 3, H, W]``, T at least 1; the last frame is repeated to fill a pair.
        options: the model's preprocessing.
        max_pixels: pixels a frame at most, instead of the model's own limit.
        total_pixels: pixels of the whole video at most, Qwen's way: divided by 784 it is the video's visual tokens, so
            a frame gets ``total_pixels / (T / 2)``. Both limits hold. (Of Qwen3-VL 1,024 are a token.)

    Returns:
        float32 ``[T/2 * grid_h * grid_w, 1176]`` (Qwen3-VL: 1536) and int64 ``[1, 3]`` (t, h, w in patches).

    Raises:
        ConfigError: the limits leave a frame fewer pixels than the model takes at least; the least that works is named.
        MediaError: frames of another shape or type, or an aspect above 200.
    """
    tensor = _channels_first(frames)
    count, _, height, width = tensor.shape
    fit = options.for_video(count, height, width, max_pixels, total_pixels)
    return _cut(tensor, options, *fit.fit(height, width))


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
        float32 ``[grid_h * grid_w, 1176]`` (Qwen3-VL: 1536) and int64 ``[1, 3]`` (1, h, w in patches).

    Raises:
        ConfigError: ``max_pixels`` is below the fewest pixels that the model takes.
        MediaError: an image of another shape or type, or an aspect above 200.
    """
    tensor = _channels_first(torch.as_tensor(image)[None] if getattr(image, "ndim", 0) == 3 else image)
    if len(tensor) != 1:
        raise MediaError(f"one image is [H, W, 3] or [3, H, W], got {list(image.shape)}")
    limit = frame_limit(1, options, max_pixels, None)
    return _cut(tensor, options, *options.fit(tensor.shape[2], tensor.shape[3], limit))


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
