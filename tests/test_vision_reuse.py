"""Reuse in Qwen's towers against what it claims to be, by the oracles of the vision encoder's specification.

| No. | Oracle | Qwen2.5-VL (windows) | Qwen2-VL (full) | Qwen3-VL (DeepStack) | Where |
|---|---|---|---|---|---|
| 1 | None: the stock forward, bit for bit | x | x | x | test_without_options_nothing_stands_in |
| 2 | all moving: equals stock | x | x | x | test_what_all_moves_is_the_stock_call |
| 3 | equal positions: stock with 1/T of the rows | x | x | x | test_equal_positions |
| 4 | no full blocks, whole still windows: stock | x | no windows | no windows | test_still_windows |
| 5 | random plans: the plain canvas loop | x | x | x | test_any_plan_is_the_canvas_loop |
| 6 | any cut into chunks equals one call | x | x | x | test_any_cut_into_chunks, test_chunks_of_a_feed |
| 7 | two videos and an image: each alone | x | x | x | test_several_videos_and_an_image |
| 8 | rlt told of copies: the same map | tower is not seen | - | - | test_vision_reuse_pruned.py, test_rlt.py |
| 9 | queries unpadded = padded | x | pads nothing | pads nothing | test_padding_changes_nothing |
| 10 | sdpa, eager, flash stand-in | x | x | x | test_attention_implementations |
| 11 | Qwen2-VL | | x | | the whole file |
| 12 | FLOPs counted | x | x | x | test_flops_fall_with_what_is_encoded |
| 13 | context left or raised: restored | x | x | x | test_the_tower_is_restored |
| 14, 15 | noise, dot, drift | decided by pixels alone | - | - | test_vision_plan.py |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from prunevid_qwen import ConfigError, UnsupportedError
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import source_of, vision_in_chunks
from prunevid_qwen.vision import unit_rows
from prunevid_qwen.vision.carried import Carried, Count
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.plan import sources
from prunevid_qwen.vision.tower import Reuse, reusing
from tests import flash_attention
from tests.tolerances import LOGITS, close
from tests.vision_towers import (
    FORMS,
    call,
    canvas,
    deep_model,
    half_still,
    levels_of,
    patch_grid,
    pixels_of,
    stock_calls,
)

GRID = (5, 3, 5)  # windows of 2 x 2 tokens are cut at two edges
CELLS = 15
ZERO = VisionOptions(reuse_threshold=0)
EARLY = VisionOptions(early_tau=0.2, early_block=1)
BOTH = VisionOptions(reuse_threshold=0, early_tau=0.2, early_block=1)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@contextmanager
def given(model: Any, encoded: Tensor, options: VisionOptions = ZERO) -> Iterator[Carried]:
    """The tower under a plan: call it with ``reuse`` of what is yielded."""
    with reusing(adapter_for(model), options):
        yield Carried(encoded)


def plans(seed: int, share: float = 0.5, positions: int = GRID[0]) -> Tensor:
    encoded = torch.rand(positions, CELLS, generator=torch.Generator().manual_seed(seed)) < share
    encoded[0] = True
    return encoded


@pytest.mark.parametrize("family", FORMS)
def test_without_options_nothing_stands_in(family: str) -> None:
    model = deep_model(family)
    tower = model.model.visual
    pixels = half_still(GRID)
    stock = call(model, pixels, GRID)
    with reusing(adapter_for(model), VisionOptions(reuse_identical=True)):
        assert not any("forward" in vars(module) for module in tower.modules())
        out = call(model, pixels, GRID)
    assert torch.equal(out.pooler_output, stock.pooler_output) and source_of(out) is None


@pytest.mark.parametrize("family", FORMS)
def test_what_all_moves_is_the_stock_call(family: str) -> None:
    model, pixels = deep_model(family), pixels_of(GRID)
    stock = call(model, pixels, GRID)
    with stock_calls(model) as calls, reusing(adapter_for(model), ZERO, count := Count()):
        out = call(model, pixels, GRID)
    assert calls == [patch_grid(GRID).tolist()]
    assert torch.equal(levels_of(out), levels_of(stock))
    assert torch.equal(out.last_hidden_state, stock.last_hidden_state)  # no row was taken out inside it
    assert count.take() == (5 * CELLS,) * 3
    assert torch.equal(source_of(out)[:, 0], torch.arange(5 * CELLS))


@pytest.mark.parametrize("options", [ZERO, EARLY, BOTH], ids=["pixels", "states", "both"])
@pytest.mark.parametrize("family", FORMS)
def test_equal_positions(family: str, options: VisionOptions) -> None:
    model, pixels = deep_model(family), pixels_of(GRID)[:1].expand(5, -1, -1, -1)
    with reusing(adapter_for(model), options, count := Count()):
        out = call(model, pixels, GRID)
    close(levels_of(out), levels_of(call(model, pixels, GRID)), LOGITS)
    entered = 5 * CELLS if options is EARLY else CELLS
    assert count.take() == (5 * CELLS, entered, CELLS)
    assert torch.equal(source_of(out)[:, 0], torch.arange(CELLS).repeat(5))
    assert source_of(out)[:, 1].view(5, -1)[1:].unique().tolist() == [2 if options is EARLY else 0]
    copies = out.pooler_output.view(5, CELLS, -1)
    assert torch.equal(copies[1:], copies[:1].expand(4, -1, -1))


def test_still_windows() -> None:
    model, pixels = deep_model("qwen2_5_vl", full=()), pixels_of(GRID)
    still = torch.arange(CELLS).view(3, 5)[:, 2:].flatten()  # all windows but the first two
    pixels[:, still] = pixels[:1, still]
    with reusing(adapter_for(model), ZERO, count := Count()):
        out = call(model, pixels, GRID)
    close(out.pooler_output, call(model, pixels, GRID).pooler_output, LOGITS)
    assert count.take()[2] == CELLS + 4 * 6
    pixels[:, still[1:]] = pixels[:1, still[1:]]
    mixed = deep_model("qwen2_5_vl")  # where blocks see the whole picture it is not the stock model
    with reusing(adapter_for(mixed), ZERO):
        out = call(mixed, pixels, GRID)
    with pytest.raises(AssertionError):
        close(out.pooler_output, call(mixed, pixels, GRID).pooler_output, LOGITS)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", FORMS)
def test_any_plan_is_the_canvas_loop(family: str, seed: int) -> None:
    model, pixels, encoded = deep_model(family), pixels_of(GRID, seed), plans(seed, seed / 4)
    if seed == 3:
        encoded[2] = False  # a position of which nothing is encoded
    with given(model, encoded) as video:
        out = call(model, pixels, GRID, reuse=video)
    wanted, _ = canvas(model, pixels, GRID, encoded)
    close(levels_of(out), wanted, LOGITS)
    number = sources(encoded) * CELLS + torch.arange(CELLS)
    assert torch.equal(source_of(out)[:, 0], number.flatten())
    assert torch.equal(out.pooler_output, out.pooler_output[number.flatten()])  # copies have equal bits


@pytest.mark.parametrize("block", [0, 1, 2, 3])
@pytest.mark.parametrize("family", FORMS)
def test_states_behind_an_early_block(family: str, block: int) -> None:
    """With a random plan by pixels ahead of them, and DeepStack on both sides of the block."""
    tau = 0.3
    model, pixels = deep_model(family), half_still(GRID, 4, 0.2)
    pixels += 0.3 * pixels_of(GRID, 9)  # states of still places differ a little
    encoded = plans(4, 0.8)
    with given(model, encoded, VisionOptions(early_tau=tau, early_block=block)) as video:
        out = call(model, pixels, GRID, reuse=video)
    wanted, final = canvas(model, pixels, GRID, encoded, (block, tau))
    assert CELLS < int(final.sum()) < int(encoded.sum())
    ran = source_of(out)[:, 1].view(5, CELLS)
    assert torch.equal(ran, torch.where(final, 4, torch.where(encoded, block + 1, 0)))
    close(levels_of(out), wanted, LOGITS)


CUTS = ((3, 2), (1, 2, 2), (1,) * 5, (4, 1))


@pytest.mark.parametrize("options", [ZERO, EARLY, BOTH], ids=["pixels", "states", "both"])
@pytest.mark.parametrize("family", FORMS)
def test_any_cut_into_chunks(family: str, options: VisionOptions) -> None:
    """Cut below the context that plans, as `pruned` does it, in a call with another video ahead and an image behind."""
    model = deep_model(family)
    adapter, tower = adapter_for(model), model.model.visual
    grids = ((2, 3, 5), GRID, (1, 3, 5))
    rows = [half_still(grids[0], 7), half_still(GRID, 5), pixels_of(grids[2], 6)]
    pixels = torch.cat([each.reshape(-1, 1176) for each in rows])
    reuse = Reuse(adapter, options)
    outputs = []
    for tokens in (None, 15, 30, 45, 60):
        with reuse.reusing(), vision_in_chunks(tower, tokens), reuse.planning():
            outputs.append(tower(pixels, grid_thw=patch_grid(*grids)))
    for each in outputs[1:]:
        close(levels_of(each), levels_of(outputs[0]), LOGITS)
        assert torch.equal(source_of(each), source_of(outputs[0]))
    assert int((source_of(outputs[0])[:, 1] < 4).sum()) > 0


@pytest.mark.parametrize("options", [ZERO, EARLY, BOTH], ids=["pixels", "states", "both"])
@pytest.mark.parametrize("family", FORMS)
def test_chunks_of_a_feed(family: str, options: VisionOptions) -> None:
    """One call a chunk, as videos are encoded ahead: the video carries what the next may copy."""
    model, pixels = deep_model(family), half_still(GRID, 5)
    encoded = plans(5) if options.reuse_threshold == 0 else torch.ones(5, CELLS, dtype=torch.bool)
    with given(model, encoded, options) as video:
        whole = call(model, pixels, GRID, reuse=video)
        for cuts in CUTS:
            video, parts, at = Carried(), [], 0
            for size in cuts:
                video.give(encoded[at : at + size], at + size < 5)
                parts.append(call(model, pixels[at : at + size], (size, 3, 5), reuse=video))
                at += size
                if at < 5:  # however long the video is: one state of each place
                    assert video.state is not None
                    held = [*(x for lent in video.state.lent.values() for x in lent), *video.state.tokens.values()]
                    assert sorted({len(each) for each in held}) == [CELLS, 4 * CELLS]
            close(torch.cat([levels_of(each) for each in parts]), levels_of(whole), LOGITS)
            assert torch.equal(torch.cat([source_of(each) for each in parts]), source_of(whole))
            assert video.state is None


@pytest.mark.parametrize("family", FORMS)
def test_a_video_that_begins_anew_copies_nothing_of_before(family: str) -> None:
    model, pixels = deep_model(family), half_still(GRID, 5)
    with given(model, plans(5)) as video:
        whole = call(model, pixels, GRID, reuse=video)
        first = Carried(plans(5)[:2], more=True)
        call(model, pixels_of(GRID, 8)[:2], (2, 3, 5), reuse=first)
        again = call(model, pixels, GRID, reuse=Carried(plans(5)))
        late = call(model, pixels[2:], (3, 3, 5), reuse=Carried(plans(5)[2:]))  # nothing before it: all is encoded
    assert torch.equal(levels_of(again), levels_of(whole))
    assert source_of(late)[:CELLS, 1].tolist() == [4] * CELLS


@pytest.mark.parametrize("family", FORMS)
def test_several_videos_and_an_image(family: str) -> None:
    model = deep_model(family)
    tower, grids = model.model.visual, (GRID, (1, 4, 4), (4, 2, 3), (2, 3, 5))
    videos = [half_still(GRID, 1), pixels_of(grids[1], 2), half_still(grids[2], 3), pixels_of(grids[3], 4)]
    pixels = torch.cat([each.reshape(-1, 1176) for each in videos])
    with reusing(adapter_for(model), BOTH, count := Count()):
        together = tower(pixels, grid_thw=patch_grid(*grids))
        counted = count.take()
        alone = [call(model, each, grid) for each, grid in zip(videos, grids, strict=True)]
    close(levels_of(together), torch.cat([levels_of(each) for each in alone]), LOGITS)
    assert torch.equal(source_of(together), torch.cat([source_of(each) for each in alone]))
    assert torch.equal(alone[1].pooler_output, call(model, videos[1], grids[1]).pooler_output)
    assert counted[0] == 75 + 24 + 30 and counted == count.take()


def test_padding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = deep_model("qwen2_5_vl"), half_still((6, 6, 6), 2)
    with reusing(adapter_for(model), ZERO):
        padded = call(model, pixels, (6, 6, 6))
        stock = unit_rows.UnitRows._batched
        monkeypatch.setattr(
            unit_rows.UnitRows, "_batched", lambda own, edges, pad, device: stock(own, edges, False, device)
        )
        exact = call(model, pixels, (6, 6, 6))
    close(padded.pooler_output, exact.pooler_output, LOGITS)


@pytest.mark.parametrize("family", FORMS)
def test_attention_implementations(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = half_still(GRID, 3)
    flash_attention.install(monkeypatch)
    models = [deep_model(family, "sdpa"), deep_model(family, "eager")]
    models.append(flash_attention.flash_model(deep_model(family, "eager")))
    outputs = []
    for model in models:
        with reusing(adapter_for(model), BOTH):
            outputs.append(levels_of(call(model, pixels, GRID)))
    close(outputs[1], outputs[0], LOGITS)
    close(outputs[2], outputs[0], LOGITS)


@pytest.mark.parametrize("family", FORMS)
def test_half_precision(family: str) -> None:
    model, pixels, encoded = deep_model(family, dtype=torch.bfloat16), half_still(GRID, 3), plans(3)
    with given(model, encoded) as video:
        out = call(model, pixels, GRID, reuse=video)
    exact, _ = canvas(deep_model(family), pixels, GRID, encoded)
    assert out.pooler_output.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(levels_of(out).float(), exact, dim=1).min() > 0.99


def flops(model: Any, pixels: Tensor, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call(model, pixels, GRID, **kwargs)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FORMS)
def test_flops_fall_with_what_is_encoded(family: str) -> None:
    """Each row costs what it costs the stock tower, queries and keys of windows padded to a power of two at most."""
    model, pixels, encoded = deep_model(family), pixels_of(GRID), plans(6, 0.4)
    encoded[1:, ::2], encoded[1:, 1::2] = True, False
    share = float(encoded.float().mean())
    stock = flops(model, pixels)
    with given(model, encoded) as video:
        own = flops(model, pixels, reuse=video)
    assert own / stock == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize("family", FORMS)
def test_the_tower_is_restored(family: str) -> None:
    model, pixels = deep_model(family), half_still(GRID)
    stock = call(model, pixels, GRID)

    class Odd(Exception):
        pass

    def fail(*_: Any) -> None:
        raise Odd

    adapter = adapter_for(model)
    with pytest.raises(Odd), reusing(adapter, BOTH):
        handle = model.model.visual.blocks[2].register_forward_hook(fail)
        try:
            call(model, pixels, GRID)
        finally:
            handle.remove()
    with reusing(adapter, BOTH) as _:
        after = call(model, pixels, GRID)  # a pass that raised left nothing behind
    with reusing(adapter, BOTH):
        assert torch.equal(call(model, pixels, GRID).pooler_output, after.pooler_output)
    assert not any("forward" in vars(module) for module in model.modules())
    assert "get_video_features" not in vars(model.model)
    assert torch.equal(call(model, pixels, GRID).pooler_output, stock.pooler_output)


def test_what_cannot_be_honoured_is_refused() -> None:
    model, pixels = deep_model("qwen2_5_vl"), half_still(GRID)
    adapter = adapter_for(model)
    with reusing(adapter, ZERO):
        for odd in ({"output_hidden_states": True}, {"cu_seqlens": torch.tensor([0, 4])}):
            with pytest.raises(UnsupportedError, match=next(iter(odd))):
                call(model, pixels, GRID, **odd)
        call(model, pixels_of(GRID), GRID, output_hidden_states=True)  # all of it moves
        with pytest.raises(ValueError, match="planned"):
            call(model, pixels, GRID, reuse=Carried(plans(1)[:2]))
    with pytest.raises(ConfigError, match="early_block"):
        Reuse(adapter, VisionOptions(early_tau=0.9, early_block=4))


def test_checkpointed_blocks_are_refused() -> None:
    model, pixels = deep_model("qwen2_5_vl"), half_still(GRID)
    tower = model.model.visual
    tower.train()
    for block in tower.blocks:
        block.gradient_checkpointing = True
    try:
        with (
            torch.enable_grad(),
            reusing(adapter_for(model), ZERO),
            pytest.raises(UnsupportedError, match="checkpoint"),
        ):
            call(model, pixels, GRID)
    finally:
        tower.eval()
        for block in tower.blocks:
            block.gradient_checkpointing = False
