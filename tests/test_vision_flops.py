"""FLOPs of a vision encoder that copies: those of what it encodes, by hand and by what torch counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from prunevid_qwen.config import get_paper_config
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.evaluation.speed.flops import facts_of
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.timed_run import timed_parts
from prunevid_qwen.evaluation.speed.video_contents import content_pixels
from prunevid_qwen.evaluation.speed.vision_flops import units_run, vision_flops


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    yield build_model(shape_called("tiny"), torch.device("cpu"), torch.float32, "eager")


def brute_force(shape: Any, grid: tuple[int, int, int], masks: list[Tensor]) -> int:
    """Count queries and keys of each block patch by patch; ``masks`` are, of each block, the encoded units."""
    vision = shape.vision_config
    _, h, w = grid
    width, side = vision.hidden_size, vision.window_size // 28
    total = 2 * 4 * int(masks[0].sum()) * 1176 * width
    for block, mask in enumerate(masks):
        total += 4 * int(mask.sum()) * 2 * (4 * width**2 + 3 * width * vision.intermediate_size)
        for position, place in mask.nonzero().tolist():
            del position
            row, column = divmod(place, w)
            keys = [
                (y, x) for y in range(h) for x in range(w)
                if block in vision.fullatt_block_indexes or (y // side, x // side) == (row // side, column // side)
            ]  # fmt: skip
            total += 4 * 4 * len(keys) * 4 * width  # four patches ask four of each; scores and sums
    out = shape.text_config.hidden_size
    return total + int(masks[-1].sum()) * 2 * 4 * width * (4 * width + out)


@pytest.fixture
def mask() -> Tensor:
    chosen = torch.rand(3, 15, generator=torch.Generator().manual_seed(0)) < 0.5
    chosen[0] = True
    return chosen


def test_flops_of_a_windowed_tower_are_those_of_what_is_encoded(mask: Tensor) -> None:
    shape, grid = shape_called("tiny"), (3, 3, 5)
    assert vision_flops(shape, grid, 1, [[(0, mask)]]) == brute_force(shape, grid, [mask, mask])
    whole = torch.ones_like(mask)
    assert vision_flops(shape, grid, 2, [[(0, whole)], [(0, mask)]]) == vision_flops(shape, grid) + vision_flops(
        shape, grid, 1, [[(0, mask)]]
    )
    later = mask & (torch.arange(15) % 2 == 0)
    assert vision_flops(shape, grid, 1, [[(0, mask), (1, later)]]) == brute_force(shape, grid, [mask, later])


@pytest.mark.parametrize("shape", ["qwen2vl-7b_small", "qwen3vl-8b_small"])
def test_flops_of_a_tower_of_whole_positions_are_the_encoded_share(shape: str, mask: Tensor) -> None:
    config = shape_called(shape)
    share = int(mask.sum()) / mask.numel()
    assert vision_flops(config, (3, 3, 5), 1, [[(0, mask)]]) == pytest.approx(share * vision_flops(config, (3, 3, 5)))


def test_flops_of_a_tower_of_images_are_of_its_patches_and_the_whole_projector() -> None:
    config = shape_called("llava-ov-7b_small")
    form = form_of(config)
    grid, patches = (4, *(form.grid or ())), form.side**2
    whole, none = torch.ones(4, patches, dtype=torch.bool), torch.zeros(4, patches, dtype=torch.bool)
    half = whole.clone()
    half[2:] = False
    all_of_it, projector = (vision_flops(config, grid, 1, [[(0, each)]]) for each in (whole, none))
    assert all_of_it == vision_flops(config, grid) == 4 * vision_flops(config, (1, *grid[1:]))
    assert 0 < projector < all_of_it
    assert vision_flops(config, grid, 1, [[(0, half)]]) * 2 == all_of_it + projector


def attended(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    return torch.softmax(queries @ keys.transpose(-1, -2) * scale, dim=-1) @ values


@pytest.mark.parametrize("options", [{}, {"early_tau": 1.0, "early_block": 0}])
def test_flops_of_what_ran_are_those_that_torch_counts(
    model: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four columns are whole windows, so that no query is padded; the early rule drops nothing that moves."""
    size = PromptSize(8, 4, 4, 12)
    config = get_paper_config().replace(reuse_threshold=8.0, **options)
    inputs = make_inputs(size, model, content_pixels(size, 0.5, 0))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attended)  # a CPU's own is not counted
    with FlopCounterMode(display=False) as counter:
        parts = timed_parts(model, inputs, config)
    counts = {str(name): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    tower = max(n for name, n in counts.items() if name.endswith((".visual", "VisionTransformerPretrainedModel")))
    facts = facts_of(size, model, config, parts)
    assert facts["encoded"] == 0.625 and facts["flops"]["vision"] == tower < vision_flops(model.config, (4, 4, 4))


def test_a_copy_of_which_nothing_is_known_is_not_counted_as_encoded(model: Any) -> None:
    size = PromptSize(4, 4, 4, 12)
    config = get_paper_config().replace(reuse_threshold=8.0)
    parts = timed_parts(model, make_inputs(size, model, content_pixels(size, 0.5, 0)), config)
    assert parts.trace is not None
    parts.trace.samples = tuple(dataclasses.replace(sample, source=None) for sample in parts.trace.samples)
    with pytest.raises(UnsupportedError):
        facts_of(size, model, config, parts)


def test_patches_of_whole_images_count_by_their_share() -> None:
    form = form_of(shape_called("llava-ov-7b_small"))
    blocks = torch.tensor([2000] * 98 + [500] * 98)  # thousandths of two blocks; a half of the patches, half of a block
    (run,) = units_run(torch.stack([torch.arange(196), blocks], dim=1), form, 2)
    assert run[0] == 0 and run[1].shape == (2, form.side**2)
    assert int(run[1].sum()) == round((1 + 0.25) / 2 * run[1].numel())
