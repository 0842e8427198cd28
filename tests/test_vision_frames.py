"""A tower of CLIP's form that encodes of each frame what changed, against plain loops that say what it claims to be.

Oracles of ../shared/specs/vision_encoder.md, section 7, as these towers have them:

| oracle | here |
|---|---|
| 1 nothing asked: the stock objects | `test_nothing_asked_leaves_the_stock_objects` |
| 2 all moving; 3 equal frames | each family |
| 4 towers of windows alone | no meaning: every layer sees a whole frame |
| 5 random masks: a canvas of keys and values | each family, with and without an early layer |
| 6 chunks | each family |
| 7 two videos and an image | each family |
| 8 `rlt` on copies | no meaning where frames are pooled: a token is of several patches |
| 9 padded queries | in 5: a frame's queries are padded to whole parts |
| 10 eager | one family |
| 11 Qwen2-VL | tests of Qwen's towers |
| 12 FLOPs; 13 context; 14 noise and a dot; 15 no drift | one or both kinds of tower |
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.frame_tower import FrameTower
from prunevid_qwen.adapters.tiny import PATCH, SIDE
from prunevid_qwen.errors import ConfigError, SetupError, UnsupportedError
from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.vision.frame_rows import FrameRows
from tests.families import family_model
from tests.frame_towers import CELLS, FAMILIES, canvas_loop, drawn, features, images, outputs, reused, some, tower_of
from tests.stock_videos import SETTINGS
from tests.tolerances import LOGITS, close

# ---- what is exact


@pytest.mark.parametrize("family", FAMILIES)
def test_where_all_moves_it_is_the_stock_tower(family: str) -> None:
    videos = torch.stack([drawn(torch.ones(4, CELLS).bool(), seed) for seed in (0, 1)])
    stock = features(family, videos)
    with reused(family) as seen:
        assert torch.equal(features(family, videos), stock)
    assert seen == [(8 * CELLS, 8 * CELLS, 8 * CELLS)]
    with reused(family, chunk=3):  # the last frame of a chunk is carried: the layers are stood in for
        close(features(family, videos), stock, LOGITS)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_frames_are_encoded_once(family: str) -> None:
    videos = drawn(torch.zeros(5, CELLS).bool())[None]
    stock = features(family, videos)
    with reused(family) as seen:
        close(features(family, videos), stock, LOGITS)
    assert seen == [(5 * CELLS, CELLS, CELLS)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("early", [None, (0, 0.6), (1, 0.6)])
def test_any_mask_equals_a_loop_over_a_canvas(family: str, early: tuple[int, float] | None) -> None:
    moves = some(6, 0.4)
    frames = drawn(moves)
    if early is not None:  # alike, not equal: some go on after the early layer
        frames = frames + 0.3 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(9))
        moves = torch.ones_like(moves)
    wanted = canvas_loop(family, frames, moves, early)
    with reused(family, early=early) as seen, outputs(family) as got:
        features(family, frames[None])
    for one, other in zip(got, wanted, strict=True):
        close(one[0], other, LOGITS)
    _, entered, encoded = seen[0]
    assert entered == int(moves.sum())
    assert encoded == entered if early is None else CELLS < encoded < entered, "the case shows nothing"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("early", [None, (1, 0.6)])
@pytest.mark.parametrize("chunk", [1, 2, 4, 5])
def test_chunks_are_one_call(family: str, early: tuple[int, float] | None, chunk: int) -> None:
    videos = torch.stack([drawn(some(6, 0.4, seed), seed) for seed in (3, 4)])
    if early:
        videos = videos + 0.3 * torch.randn(videos.shape, generator=torch.Generator().manual_seed(9))
    with reused(family, early=early) as whole:
        wanted = features(family, videos)
    with reused(family, early=early, chunk=chunk) as cut:
        close(features(family, videos), wanted, LOGITS)
    assert len(cut) == -(-12 // chunk)
    assert [sum(each) for each in zip(*cut, strict=True)] == list(whole[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("early", [None, (1, 0.6)])
def test_videos_lend_nothing_to_each_other(family: str, early: tuple[int, float] | None) -> None:
    one = drawn(some(4, 0.3, 5), 5)
    videos = torch.stack([one, one.flip(0), one])  # each begins as the one before ends
    with reused(family, early=early) as seen:
        together = features(family, videos)
    with reused(family, early=early) as apart:
        alone = [features(family, video[None]) for video in videos]
    close(together, torch.cat(alone), LOGITS)
    assert list(seen[0]) == [sum(each) for each in zip(*apart, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_images_lend_and_borrow_nothing(family: str) -> None:
    stock = images(family)
    with reused(family, threshold=255.0) as seen:
        features(family, drawn(some(3, 0.5))[None])
        count = len(seen)
        assert all(torch.equal(one, other) for one, other in zip(images(family), stock, strict=True))
    assert count == len(seen) == 1


@pytest.mark.parametrize("family", ["llava_next_video", "llava_onevision"])
def test_an_eager_model_lends_the_same(family: str) -> None:
    videos = drawn(some(4, 0.4))[None]
    with reused(family):
        wanted = features(family, videos)
    with reused(family, attention="eager"):
        close(features(family, videos, "eager"), wanted, LOGITS)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_frames_of_equal_pixels_are_copies_where_only_states_are_compared(chunk: int | None) -> None:
    moves = torch.zeros(6, CELLS).bool()
    moves[2, 3] = moves[4] = True
    videos = drawn(moves)[None].repeat(2, 1, 1, 1, 1)
    with reused("video_llava", None, (1, 1.0), chunk, identical=True) as seen:
        made = features("video_llava", videos)
    assert [sum(each) for each in zip(*seen, strict=True)] == [12 * CELLS, 6 * CELLS, 6 * CELLS]
    with reused("video_llava", None, (1, 1.0)):
        close(made, features("video_llava", videos), LOGITS)


# ---- CLS


def test_cls_runs_where_anything_of_its_frame_does() -> None:
    moves = torch.zeros(3, CELLS).bool()
    moves[2, 5] = True
    with reused("video_llava") as seen, outputs("video_llava") as got:
        features("video_llava", drawn(moves)[None])
    last = got[-1][0]
    assert torch.equal(last[1, 0], last[0, 0]) and not torch.equal(last[2, 0], last[0, 0])
    assert torch.equal(last[2, 1], last[0, 1]) and not torch.equal(last[2, 6], last[0, 6])
    assert seen == [(3 * CELLS, CELLS + 1, CELLS + 1)]


# ---- what is compared


def levels(family: str, pixels: Tensor) -> Tensor:
    """Normalise grey levels [..., 3, H, W] as the family's processor does, but for the mean: differences have none."""
    deviations = torch.tensor({**VIDEO_DEFAULTS[family], **SETTINGS[family]}["image_std"])
    return pixels / (255 * deviations[:, None, None])


@pytest.mark.parametrize("family", ["video_llava", "llava_onevision"])
def test_noise_below_the_threshold_is_not_encoded_and_a_dot_is(family: str) -> None:
    numbers = torch.Generator().manual_seed(0)
    frames = torch.full((4, 3, SIDE * PATCH, SIDE * PATCH), 100.0)
    frames += (torch.rand(frames.shape, generator=numbers) - 0.5) * 8
    frames[3, :, 15:20, 29:32] += 60  # 15 pixels in one cell: 18 grey levels of its mean
    with reused(family, threshold=8.0) as seen:
        features(family, levels(family, frames)[None])
    assert seen == [(4 * CELLS, CELLS + 1, CELLS + 1)]


@pytest.mark.parametrize("family", ["video_llava", "llava_onevision"])
def test_slow_change_does_not_drift_away(family: str) -> None:
    frames = 100 + torch.arange(30.0)[:, None, None, None].expand(30, 3, SIDE * PATCH, SIDE * PATCH)
    with reused(family, threshold=8.0, chunk=4) as seen:
        features(family, levels(family, frames)[None])
    assert sum(encoded for *_, encoded in seen) == 4 * CELLS  # at 0, 9, 18 and 27


@pytest.mark.parametrize(("patch", "extra"), [(14, 6), (16, 0), (32, 1)])
def test_patches_are_those_of_the_embedding(patch: int, extra: int) -> None:
    side, numbers = 3, torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, side * patch + extra, side * patch + extra, generator=numbers)
    weight = torch.randn(5, 3, patch, patch, generator=numbers)
    cut = FrameTower(nn.Identity(), [], side, patch, False, (0.5, 0.5, 0.5)).patches_of(pixels)
    wanted = F.conv2d(pixels, weight, stride=patch).flatten(2).transpose(1, 2)
    close(cut @ weight.flatten(1).T, wanted)


# ---- what others see


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_see_whole_frames(family: str) -> None:
    adapter, videos = adapter_for(family_model(family)), drawn(torch.zeros(3, CELLS).bool())[None]
    kinds = ("states", "received", "keys", "pooled", *(["cls"] if tower_of(family).has_cls else []))
    noted: dict[tuple[int, str], Tensor] = {}

    def note(block: int, kind: str, made: Tensor) -> None:
        noted[block, kind] = made

    with adapter.vision_query(VisionQuery((0, 2), what=kinds), note):
        features(family, videos)
        stock = dict(noted)
        noted.clear()
        with reused(family, chunk=2):
            features(family, videos)
        last = dict(noted)
        with reused(family):
            features(family, videos)
    assert noted.keys() == stock.keys() == last.keys() and len(stock) == 2 * len(kinds)
    for key, wanted in stock.items():
        close(noted[key], wanted, LOGITS)
        close(last[key], wanted[2:], LOGITS)


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl"])
def test_families_of_images_alone_refuse(family: str) -> None:
    with pytest.raises(UnsupportedError), reused(family):
        pass


def test_a_tower_has_no_block_beyond_its_last() -> None:
    with pytest.raises(ConfigError), reused("video_llava", None, (3, 0.9)):
        pass
    with reused("video_llava", None, (2, 0.9)):
        pass


def test_nothing_asked_leaves_the_stock_objects() -> None:
    layer = tower_of("video_llava").layers[0]
    with reused("video_llava", None):
        assert "forward" not in vars(layer)
    with reused("video_llava", 0.0):
        assert "forward" in vars(layer)


def test_the_model_is_as_before_after_an_error() -> None:
    family = "video_llava"
    model = family_model(family)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}

    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    videos = drawn(some(3, 0.4))[None]
    stock = features(family, videos)
    with pytest.raises(Stop), reused(family):
        handle = tower_of(family).layers[1].register_forward_hook(stop)
        try:
            features(family, videos)
        finally:
            handle.remove()
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys(), name
    assert torch.equal(features(family, videos), stock)


def test_a_call_that_raised_leaves_nothing_to_the_next() -> None:
    family, videos = "llava_next_video", drawn(some(4, 0.4))[None]
    stock = images(family)
    with reused(family) as seen:
        wanted = features(family, videos)
        handle = tower_of(family).layers[1].register_forward_pre_hook(lambda _m, args: args[0].nothing)
        with pytest.raises(AttributeError):
            features(family, videos)
        handle.remove()
        assert all(torch.equal(one, other) for one, other in zip(images(family), stock, strict=True))
        assert torch.equal(features(family, videos), wanted)
    assert len(seen) == 2


def test_frames_that_never_reach_the_tower_are_missed() -> None:
    """Nobody would know of which video the others are."""
    family = "video_llava"
    with reused(family):
        module = tower_of(family).module
        inner = module.forward
        with replaced(module, "forward", lambda pixels, **asked: inner(pixels[1:], **asked)), pytest.raises(SetupError):
            features(family, drawn(some(4, 0.4))[None])


def test_pixels_under_another_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    root = family_model("video_llava").model
    monkeypatch.setattr(root, "get_video_features", lambda frames: frames)
    with reused("video_llava"), pytest.raises(SetupError):
        root.get_video_features(frames=drawn(some(4, 0.4))[None])


def test_frames_of_another_size_and_attention_weights_are_refused() -> None:
    family, videos = "video_llava", drawn(some(3, 0.4))[None]
    model = family_model(family).model
    with reused(family), pytest.raises(UnsupportedError):
        model.get_video_features(F.pad(videos, (0, PATCH, 0, PATCH)))
    with reused(family), pytest.raises(UnsupportedError):
        model.get_video_features(videos, output_attentions=True)


# ---- what is saved


@pytest.mark.parametrize("family", ["video_llava", "llava_onevision"])
def test_half_the_patches_are_half_the_work(family: str) -> None:
    tower, config = tower_of(family), tower_of(family).module.config
    moves = torch.zeros(6, CELLS).bool()
    moves[0] = True
    moves[1:5, : CELLS // 2] = True  # of 6 frames: one whole, four halves, one not at all
    videos, counts = drawn(moves)[None], list[int]()
    for context in (reused(family, threshold=None), reused(family)):  # without options the stock tower
        with sdpa_kernel(SDPBackend.MATH), context, FlopCounterMode(display=False) as counter:
            features(family, videos)
        counts.append(counter.get_total_flops())
    places, width = CELLS + tower.has_cls, config.hidden_size
    led = torch.cat([moves.any(1, keepdim=True)] * tower.has_cls + [moves], dim=1)
    rows = FrameRows(led, False)
    assert rows.count == 3 * CELLS + 5 * tower.has_cls
    linear = 2 * (6 * places - rows.count) * (4 * width**2 + 2 * width * config.intermediate_size)
    attention = 4 * width * (6 * places**2 - rows.pairs)
    planning = 2 * 5 * CELLS * 3 * PATCH**2 * 4  # the means of four cells of each patch of all frames but the first
    assert counts[0] - counts[1] == len(tower.layers) * (linear + attention) - planning
    assert rows.pairs <= places * sum(-(-int(frame.sum()) // 3) * 3 for frame in led)
