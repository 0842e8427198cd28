"""Random videos whose still share is exact, and one of a panning camera: for encoders that copy what stands still.

`prompt_inputs.pixels_of` puts noise on what stands still. Here the left columns of the picture are the same pixels at
every temporal position, and all else is drawn anew. The first position is new as a whole, so of T positions of which a
share s stands still, 1 - s * (1 - 1 / T) is new.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.option_checks import is_number
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.speed.prompt_forms import CHANNELS, PromptForm
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize

PAN = "pan"
PAN_STEP = 8  # pixels to the side from a frame to the next
STILL_SHARES = (0.0, 0.5, 0.8)

Content = float | str
"""The share of a position that stands still, in [0, 1], or `PAN`."""


def check_still(shares: tuple[float, ...]) -> None:
    """Refuse shares outside [0, 1], and one that is named twice, with a `ConfigError`."""
    for share in shares:
        if not is_number(share) or not 0 <= share <= 1:
            raise ConfigError(f"a still share is a number from 0 to 1, got {quoted(share)}")
    if len(set(shares)) < len(shares):
        raise ConfigError(f"a still share is named twice: {', '.join(map(str, shares))}")


def content_name(content: Content) -> str:
    """Return what tables call a content."""
    return PAN if isinstance(content, str) else f"{percent(content, 0)} still"


def content_pixels(size: PromptSize, content: Content, random_seed: int) -> Tensor:
    """Draw one video of a content as the vision tower takes it, of mean 0 and variance 1.

    Args:
        size: of the video; its own ``content`` is not read.
        content: a share is rounded to whole columns of tokens.
        random_seed: of the pixels.

    Returns:
        As `prompt_inputs.pixels_of`.
    """
    frames = _panned(size, random_seed) if content == PAN else _still(size, float(content), random_seed)
    form = size.form
    if form.merge:
        return _patches(frames[:, :, 0], form)
    return frames[:, 0] if form.tiles > 1 else frames[:, 0, 0]


def _sides(size: PromptSize) -> tuple[int, int]:
    """Height and width of a frame in pixels, as the tower is given it."""
    form = size.form
    if form.merge:
        return size.rows * form.merge * form.patch, size.columns * form.merge * form.patch
    return form.side * form.patch, form.side * form.patch


def _still(size: PromptSize, share: float, random_seed: int) -> Tensor:
    """Draw [T, frames of a position, tiles, channels, height, width]."""
    height, width = _sides(size)
    generator = torch.Generator().manual_seed(random_seed)
    form = size.form
    made = torch.randn(size.positions, form.frames, form.tiles, CHANNELS, height, width, generator=generator)
    columns = round(share * size.columns) * width // size.columns  # of pixels
    made[1:, ..., :columns] = made[:1, ..., :columns]
    return made


def _panned(size: PromptSize, random_seed: int) -> Tensor:
    """Draw frames as `_still` does, that show a wide picture from further and further to the right."""
    height, width = _sides(size)
    generator = torch.Generator().manual_seed(random_seed)
    form = size.form
    count = size.positions * form.frames
    picture = torch.randn(form.tiles, CHANNELS, height, width + PAN_STEP * (count - 1), generator=generator)
    frames = [picture[..., PAN_STEP * number : PAN_STEP * number + width] for number in range(count)]
    return torch.stack(frames).unflatten(0, (size.positions, form.frames))


def _patches(frames: Tensor, form: PromptForm) -> Tensor:
    """Cut [T, frames of a position, channels, height, width] into patches as the library's processors do."""
    merge, patch = form.merge, form.patch
    positions, depth, channels, height, width = frames.shape
    cut = frames.view(
        positions, depth, channels, height // patch // merge, merge, patch, width // patch // merge, merge, patch
    )
    # position, row and column of the token, row and column of the patch in it, channel, frame, pixel
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, channels * depth * patch * patch)
