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

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, UnsupportedError
from prunevid_qwen.forward.evidence import Sight
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.receipt.encoder_work import vision_facts
from prunevid_qwen.vision.carried import Count
from prunevid_qwen.vision.frame_reuse import FrameReuse
from prunevid_qwen.vision.frame_rows import FrameRows
from prunevid_qwen.vision.options import VisionOptions
from tests.families import family_inputs, family_model
from tests.stock_videos import SETTINGS
from tests.tolerances import LOGITS, close

FAMILIES = ("llava_next_video", "llava_onevision", "video_llava")
CELLS = SIDE**2


def tower_of(family: str, attention: str = "sdpa") -> FrameTower:
    tower = adapter_for(family_model(family, attention)).frame_tower()
    assert tower is not None
    return tower


class Calls(Count):
    """Keeps what was told of each call: patches, those that entered the tower, those that went through it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def add(self, units: int, entered: int, encoded: int) -> None:
        self.seen.append((units, entered, encoded))


@contextmanager
def reused(
    family: str, threshold: float | None = 0.0, early: tuple[int, float] | None = None, chunk: int | None = None,
    attention: str = "sdpa", identical: bool = False,
) -> Iterator[list[tuple[int, int, int]]]:  # fmt: skip
    """Let the tower of a family reuse; what is counted, call by call."""
    adapter, calls = adapter_for(family_model(family, attention)), Calls()
    options = VisionOptions(threshold, *((early[1], early[0]) if early else (None, None)), reuse_identical=identical)
    with ExitStack() as stack:
        if options:
            stack.enter_context(FrameReuse(adapter, options, calls).reusing())
        stack.enter_context(adapter.vision_in_chunks(chunk and chunk * CELLS))
        yield calls.seen


@torch.no_grad()
def features(family: str, videos: Tensor, attention: str = "sdpa") -> Tensor:
    out = family_model(family, attention).model.get_video_features(videos)
    return out.pooler_output  # type: ignore[no-any-return]


@torch.no_grad()
def images(family: str) -> Sequence[Tensor]:
    inputs = family_inputs(family, "batch")
    names = [name for name in inputs if name.startswith("pixel_values") and name != "pixel_values_videos"]
    given = {name: inputs[name] for name in (*names, "image_sizes") if name in inputs}
    return list(family_model(family).model.get_image_features(**given).pooler_output)


@contextmanager
def outputs(family: str) -> Iterator[list[list[Tensor]]]:
    """What hooks on the layers see, layer by layer: [T, P, C] of each call."""
    layers = tower_of(family).layers
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_hook(lambda _m, _a, out, own=own: own.append(out[0] if isinstance(out, tuple) else out))
        for layer, own in zip(layers, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def drawn(moves: Tensor, seed: int = 0) -> Tensor:
    """Draw a video [T, 3, H, W] whose patches are new where ``moves`` [T, L] and else stay as they are."""
    numbers = torch.Generator().manual_seed(seed)
    moves = moves.clone()
    moves[0] = True
    frame, out = torch.zeros(3, SIDE, PATCH, SIDE, PATCH), []
    for now in moves.view(-1, 1, SIDE, 1, SIDE, 1):
        frame = torch.where(now, torch.randn(frame.shape, generator=numbers), frame)
        out.append(frame.reshape(3, SIDE * PATCH, SIDE * PATCH))
    return torch.stack(out)


def some(frames: int, share: float, seed: int = 0) -> Tensor:
    """Draw which patches move, [T, L] bool; all of the first frame do, none of the third."""
    moves = torch.rand(frames, CELLS, generator=torch.Generator().manual_seed(seed)) < share
    moves[0] = True
    moves[2:3] = False
    return moves


@torch.no_grad()
def canvas_loop(family: str, frames: Tensor, encoded: Tensor, early: tuple[int, float] | None = None) -> list[Tensor]:
    """One frame after the other: each place has the keys and values, and the states, of when it was last encoded.

    Returns:
        [T, P, C] of each layer.
    """
    tower = tower_of(family)
    named = dict(tower.module.named_modules())
    embed = next(module for name, module in named.items() if name.endswith("embeddings"))
    first = next((module for name, module in named.items() if name.endswith("pre_layrnorm")), nn.Identity())
    led = int(tower.has_cls)
    states, keys, values = ({} for _ in range(3))  # by layer: [P, C]
    out: list[list[Tensor]] = [[] for _ in tower.layers]
    last = torch.zeros(())
    for t, frame in enumerate(frames):
        x = first(embed(frame[None]))[0]
        runs = _with_cls(encoded[t], led)
        for number, layer in enumerate(tower.layers):
            attention: Any = layer.self_attn
            if number not in states:
                states[number], keys[number], values[number] = (torch.zeros_like(x) for _ in range(3))
            for place in runs.nonzero()[:, 0].tolist():  # all of them before any looks
                y = layer.layer_norm1(x[place])
                keys[number][place], values[number][place] = attention.k_proj(y), attention.v_proj(y)
            made = x.clone()
            for place in runs.nonzero()[:, 0].tolist():
                query = attention.q_proj(layer.layer_norm1(x[place])).unflatten(-1, (attention.num_heads, -1))
                key, value = (each[number].unflatten(-1, (attention.num_heads, -1)) for each in (keys, values))
                weights = (torch.einsum("hd,phd->hp", query, key) * attention.scale).softmax(-1)
                y = x[place] + attention.out_proj(torch.einsum("hp,phd->hd", weights, value).flatten())
                made[place] = states[number][place] = y + layer.mlp(layer.layer_norm2(y))
            x = made
            out[number].append(states[number].clone())
            if early is not None and number == early[0]:
                own = F.normalize(states[number][led:], dim=-1)
                goes = runs[led:].clone() if t == 0 else runs[led:] & ((own * last).sum(-1) <= early[1])
                last = own if t == 0 else torch.where(goes[:, None], own, last)
                runs = _with_cls(goes, led)
    return [torch.stack(each) for each in out]


def _with_cls(patches: Tensor, led: int) -> Tensor:
    return torch.cat([patches.any()[None], patches]) if led else patches


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


# ---- what a receipt and stage 1 are told


def shown(family: str, moves: Tensor) -> dict[str, Any]:
    """Inputs of one prompt with one video of four frames that moves so."""
    inputs = dict(family_inputs(family, "one"))
    return {**inputs, "pixel_values_videos": drawn(moves)[None]}


def window(family: str) -> int:
    """Patches of a token along a side."""
    return 1 if family == "video_llava" else 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [None, CELLS])
def test_a_receipt_says_which_tokens_are_copies(family: str, chunk: int | None) -> None:
    model, moves = family_model(family), some(4, 0.1)
    what = PruneVidConfig(**ALL_OFF, reuse_threshold=4.0, vision_chunk_tokens=chunk)
    with pruned(model, what) as trace, torch.no_grad():
        model(**shown(family, moves))
    sample = trace.samples[0]
    block, found = sample.blocks[0], sample.source
    assert found is not None and len(found) == block.stop - block.start
    ran = F.max_pool2d(moves.view(4, SIDE, SIDE).float(), window(family)).flatten(1).bool()
    if tower_of(family).has_cls and family == "video_llava":
        ran = torch.cat([ran.any(1, keepdim=True), ran], dim=1)
    places = ran.shape[1]
    for token, (source, layers) in enumerate(found[: 4 * places].tolist()):
        t, place = divmod(token, places)
        last = max(each for each in range(t + 1) if ran[each, place])
        assert source == last * places + place, (t, place)
        assert (layers > 0) == bool(ran[t, place])
    assert torch.equal(found[4 * places :, 0], torch.arange(4 * places, len(found)))
    facts = vision_facts(sample, VisionOptions(4.0), 0.5)
    assert facts["encoded"] == int(ran.sum()) + len(found) - 4 * places and facts["note"] is None
    assert facts["share"] is not None and 0.2 < facts["share"] < 1  # a newline is no work
    assert int(found[:, 1].max()) == 3000


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_of_tokens_are_the_same_whether_copies_are_told_or_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = family_model(family), shown(family, some(4, 0.3, 7))
    what = PruneVidConfig(merger="rlt", enable_stage2=False, enable_cache_compression=False, reuse_threshold=4.0)
    maps, told, stock = [], list[bool](), Sight._source
    for tell in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr(Sight, "_source", lambda self, row, tell=tell: stock(self, row) if tell else None)
            with pruned(model, what) as trace, torch.no_grad():
                model(**inputs)
        assert trace.samples[0].merged is not None
        maps.append(trace.samples[0].merged.target)
        told.append(trace.samples[0].source is not None)
    assert torch.equal(*maps) and all(told)
    assert maps[0].max() + 1 < len(maps[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_videos_and_images_is_told_row_by_row(family: str) -> None:
    model, inputs = family_model(family), family_inputs(family, "batch")
    with pruned(model, PruneVidConfig(**ALL_OFF, reuse_threshold=30.0)) as trace, torch.no_grad():
        model(**inputs)
    for sample in trace.samples[:2]:
        assert sample.source is not None and len(sample.source) == sample.tokens
    for block in trace.samples[1].blocks:
        if block.kind == "image":
            own = trace.samples[1].source[block.start : block.stop, 0]
            assert torch.equal(own, torch.arange(len(own)))
