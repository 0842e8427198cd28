"""Generated videos of the speed benchmark: what stands still does so exactly, and a pan shows one picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen.evaluation.speed.model_shapes import shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, pixels_of
from prunevid_qwen.evaluation.speed.video_contents import PAN, PAN_STEP, content_pixels
from prunevid_qwen.inputs.qwen.pixels import PixelOptions, fitted_pixels
from prunevid_qwen.vision.plan import PatchForm, plan_reuse
from tests.tolerances import close

SIZE = PromptSize(8, 4, 5, 12)  # 4 positions of 20 tokens
FORM = PatchForm(14, 2, (0.27, 0.26, 0.28))


def units(pixels: Tensor, size: PromptSize = SIZE) -> Tensor:
    return pixels.view(size.positions, size.rows * size.columns, 4, -1)


@pytest.mark.parametrize(("share", "columns"), [(0.0, 0), (0.5, 2), (0.8, 4), (1.0, 5)])
def test_the_share_stands_still_exactly_and_all_else_moves(share: float, columns: int) -> None:
    encoded = plan_reuse(units(content_pixels(SIZE, share, 0)), 8.0, form=FORM)
    still = torch.arange(20) % 5 < columns
    assert encoded[0].all()
    assert torch.equal(encoded[1:], (~still).expand(3, -1))
    made = units(content_pixels(SIZE, share, 0))
    assert torch.equal(made[1:, still], made[:1, still].expand(3, -1, -1, -1))
    assert torch.equal(content_pixels(SIZE, share, 0), content_pixels(SIZE, share, 0))
    assert not torch.equal(content_pixels(SIZE, share, 0), content_pixels(SIZE, share, 1))


def picture(pixels: Tensor, size: PromptSize = SIZE) -> Tensor:
    """Patches of Qwen's towers as frames [T * 2, 3, H, W], place by place."""
    h, w = size.rows, size.columns
    out = torch.empty(size.frames, 3, 28 * h, 28 * w)
    for number, patch in enumerate(pixels.view(-1, 3, 2, 14, 14)):
        position, place = divmod(number, 4 * h * w)
        token, inside = divmod(place, 4)
        top, left = 28 * (token // w) + 14 * (inside // 2), 28 * (token % w) + 14 * (inside % 2)
        out[2 * position : 2 * position + 2, :, top : top + 14, left : left + 14] = patch.transpose(0, 1)
    return out


def test_a_pan_shows_the_same_picture_further_to_the_right_and_nothing_stands_still() -> None:
    pixels = content_pixels(SIZE, PAN, 0)
    frames = picture(pixels)
    assert torch.equal(frames[:-1, ..., PAN_STEP:], frames[1:, ..., :-PAN_STEP])
    assert plan_reuse(units(pixels), 8.0, form=FORM).all()


def test_patches_are_in_the_order_of_the_processors() -> None:
    """Frames whose pixels are all different come out of both in the same place."""
    raw = np.random.default_rng(0).integers(0, 255, (2, 56, 84, 3), dtype=np.uint8)
    options = PixelOptions(14, 2, 2)
    wanted, _ = fitted_pixels(raw, options)
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (options.image_mean, options.image_std))
    frames = (torch.from_numpy(raw).permute(0, 3, 1, 2).float() - mean) / std
    from prunevid_qwen.evaluation.speed.video_contents import _patches

    close(_patches(frames[None], form_of(shape_called("7b_small"))), wanted)


@pytest.mark.parametrize(
    "shape", ["qwen3vl-8b_small", "llava-ov-7b_small", "llava-next-7b_small", "internvl3-8b_small"]
)
def test_every_form_of_pixels_has_these_contents(shape: str) -> None:
    form = form_of(shape_called(shape))
    rows, columns = form.grid or (2, 4)
    size = PromptSize(2 * form.frames, rows, columns, form=form)
    for content in (0.5, PAN):
        made = content_pixels(size, content, 0)
        assert made.shape == pixels_of(size, 0).shape and made.dtype == torch.float32
    if not form.merge:
        frames = content_pixels(size, 0.5, 0)
        same = (frames[1:] == frames[:1]).flatten(0, -2).all(0)
        assert 0 < int(same.sum()) == round(0.5 * columns) * len(same) // columns
