"""Positions of equal pixels are encoded once: found by definition, encoded once, copied to the right rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config, pruned
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.attachments import replaced
from prunevid_qwen.adapters.vision import source_of, taps_of, vision_from_memory, vision_in_chunks
from prunevid_qwen.forward.vision_evidence import watched_vision
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.receipt.encoder_work import vision_facts
from prunevid_qwen.vision import identical
from prunevid_qwen.vision.equal_frames import encoded_of
from prunevid_qwen.vision.identical import identical_once, planned_ahead
from prunevid_qwen.vision.options import VisionOptions, vision_options
from prunevid_qwen.vision.tower import reusing
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer
from tests.families import FAMILIES, family_inputs, family_model
from tests.models import ONE_VIDEO, make_inputs, tiny_model
from tests.test_equal_frames import sources_by_loops
from tests.tolerances import LOGITS, close

QWEN = [name for name in FAMILIES if name.startswith("qwen")]
OTHERS = [name for name in FAMILIES if name not in QWEN]


# ---- towers of Qwen's families

VIDEOS = [[4, 4, 6], [1, 4, 4], [5, 8, 4], [1, 4, 4], [2, 4, 6]]
SHOWS = [[0, 1, 0, 0], [0], [0, 0, 1, 2, 1], [0], [0, 1]]  # pictures of each; the second and fourth are one image


def videos(tower: Any, shows: Sequence[Sequence[int]] = SHOWS) -> tuple[Tensor, Tensor]:
    given, width = torch.Generator().manual_seed(0), 6 * tower.config.patch_size**2
    drawn = [
        torch.randn(max(own) + 1, h * w, width, generator=given) for (_, h, w), own in zip(VIDEOS, shows, strict=True)
    ]
    drawn[3][0] = drawn[1][0]
    drawn[4][0] = drawn[0][0]  # what another video shows is of no account
    pixels = torch.cat([part[own].flatten(0, 1) for part, own in zip(drawn, shows, strict=True)])
    return pixels.to(next(tower.parameters()).dtype), torch.tensor(VIDEOS)


@contextmanager
def calls_of(tower: Any) -> Iterator[list[tuple[Any, Any]]]:
    """First argument and grid (or None) of each call of the tower's forward."""
    seen: list[tuple[Any, Any]] = []
    stock = tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        names = ("hidden_states", "grid_thw") if "grid_thw" in kwargs or len(args) > 1 else ("pixel_values", "")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        seen.append((given[names[0]], given.get("grid_thw")))
        return stock(*args, **kwargs)

    with replaced(tower, "forward", forward):
        yield seen


def rows_of(shows: Sequence[Sequence[int]]) -> int:
    return sum(len(set(own)) * h * w for (_, h, w), own in zip(VIDEOS, shows, strict=True))


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for name in theirs:
        for one, other in zip(*(_flat(out[name]) for out in (ours, theirs)), strict=True):
            close(one, other, LOGITS)


def _flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [each for part in value or () for each in _flat(part)]


@torch.no_grad()
@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tower_encodes_equal_positions_once(family: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny_model(family=family, dtype=dtype))  # the library hooks what is asked for its states
    tower = adapter_for(model).parts.vision
    pixels, grid = videos(tower)
    stock = tower(pixels, grid_thw=grid, output_hidden_states=True)
    with calls_of(tower) as calls, identical_once(adapter_for(model)):
        ours = tower(pixels, grid_thw=grid, output_hidden_states=True)
    same(ours, stock)
    assert [(len(x), g[:, 0].tolist()) for x, g in calls] == [(rows_of(SHOWS), [2, 1, 3, 1, 2])]
    assert grid.tolist() == VIDEOS
    sizes = [t * h * w // 4 for t, h, w in VIDEOS]
    for own, tokens, source in zip(
        SHOWS, *(x.split(sizes) for x in (ours.pooler_output, source_of(ours))), strict=True
    ):
        positions, numbers = tokens.unflatten(0, (len(own), -1)), source.unflatten(0, (len(own), -1))
        for at, picture in enumerate(own):  # copies have equal bits, and say so
            first = own.index(picture)
            assert torch.equal(positions[at], positions[first])
            assert torch.equal(numbers[at, :, 0], torch.arange(numbers.shape[1]) + first * numbers.shape[1])
            assert set(numbers[at, :, 1].tolist()) == {len(tower.blocks) * (first == at)}


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_all_different_is_the_stock_call(family: str) -> None:
    model = tiny_model(family=family)
    tower = adapter_for(model).parts.vision
    pixels, grid = videos(tower, [list(range(t)) for t, _, _ in VIDEOS])
    stock = tower(pixels, grid_thw=grid)
    with calls_of(tower) as calls, identical_once(adapter_for(model)):
        ours = tower(pixels, grid_thw=grid)
    assert calls[0][0] is pixels and calls[0][1] is grid
    assert torch.equal(ours.pooler_output, stock.pooler_output)


@torch.no_grad()
def test_equal_sums_of_unequal_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    tower = adapter_for(model).parts.vision
    pixels, grid = videos(tower)
    monkeypatch.setattr(identical, "_weights", lambda n, device: torch.zeros(n, dtype=torch.long))
    stock = tower(pixels, grid_thw=grid)
    with calls_of(tower) as calls, identical_once(adapter_for(model)):
        same(tower(pixels, grid_thw=grid), stock)
    assert calls[0][1][:, 0].tolist() == [
        2,
        1,
        4,
        1,
        2,
    ]  # of [0, 0, 1, 2, 1] the last was compared with the first alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("change", [(0, 0), (17, 3), (-1, -1)])
def test_one_bit_is_a_difference(dtype: torch.dtype, change: tuple[int, int]) -> None:
    pixels = torch.randn(2 * 24, 1176, generator=torch.Generator().manual_seed(0)).to(dtype)
    pixels[24:] = pixels[:24]
    assert identical._sources(pixels, [(2, 24)]) == [[0, 0]]
    word = pixels[24:].view(identical._WORDS[dtype.itemsize])
    word[change] ^= 1
    assert identical._sources(pixels, [(2, 24)]) is None


def test_numbers_that_are_none_are_equal_by_their_bits() -> None:
    pixels = torch.full((6, 8), torch.nan)
    assert identical._sources(pixels, [(3, 2)]) == [[0, 0, 0]]
    pixels[2:4] = 0.0
    pixels[4:] = -0.0
    assert identical._sources(pixels, [(3, 2)]) is None


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("tokens", [1, 20])
def test_chunks_hold_what_is_encoded(family: str, tokens: int) -> None:
    model = tiny_model(family=family)
    tower = adapter_for(model).parts.vision
    pixels, grid = videos(tower)
    stock = tower(pixels, grid_thw=grid)
    with calls_of(tower) as calls, vision_in_chunks(tower, tokens), identical_once(adapter_for(model)):
        same(tower(pixels, grid_thw=grid), stock)
    assert sum(len(x) for x, _ in calls) == rows_of(SHOWS)
    if tokens == 1:
        assert len(calls) == 2 + 1 + 3 + 1 + 2


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_taps_go_with_their_positions(family: str) -> None:
    model = tiny_model(family=family)
    adapter = adapter_for(model)
    tower = adapter.parts.vision
    pixels, grid = videos(tower)
    with watched_vision(adapter, VisionQuery((0,), what=("states", "received", "keys"))):
        stock = taps_of(tower(pixels, grid_thw=grid))
        with identical_once(adapter):
            ours = taps_of(tower(pixels, grid_thw=grid))
    close(ours, stock, LOGITS)


@torch.no_grad()
def test_what_is_made_for_the_whole_input_is_passed_on() -> None:
    """Encoded videos, and tensors that somebody made ahead."""
    model = tiny_model()
    adapter = adapter_for(model)
    tower = adapter.parts.vision
    pixels, grid = videos(tower)
    with vision_from_memory(tower) as memory, identical_once(adapter):
        made = memory.encode(pixels[: 4 * 24], grid[:1])
        again = tower(memory.hold(made), grid_thw=grid[:1])
        assert torch.equal(again.pooler_output, made.tokens) and torch.equal(source_of(again), made.source)
    seen: list[Any] = []
    with replaced(tower, "forward", lambda x, **given: seen.append((x, given))), identical_once(adapter):
        tower(pixels, grid_thw=grid, cu_seqlens=torch.zeros(3))
    assert seen[0][0] is pixels


@torch.no_grad()
def test_a_reader_that_took_them_out_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    tower = adapter_for(model).parts.vision
    pixels, grid = videos(tower)
    with calls_of(tower) as calls, identical_once(adapter_for(model)):
        with planned_ahead():
            tower(pixels, grid_thw=grid)
        tower(pixels, grid_thw=grid)
    assert [len(x) for x, _ in calls] == [len(pixels), rows_of(SHOWS)]


# ---- towers whose frames are images


@torch.no_grad()
@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("taps", [False, True])
def test_equal_images_and_frames_are_encoded_once(family: str, taps: bool) -> None:
    model = copy.deepcopy(family_model(family))
    adapter = adapter_for(model)
    inputs = family_inputs(family, "batch")
    found = next(value for name, value in inputs.items() if name in FAMILIES[family].pixels)
    pixels = found.flatten(0, -4)[:3]
    pixels = pixels[[0, 1, 0, 2, 2, 0][: 2 * len(pixels)]] if len(pixels) > 2 else pixels[[0, 0]]
    unique = 3 if len(pixels) > 2 else 1
    for tower in dict.fromkeys(adapter.parts.towers.values()):
        query = VisionQuery((0,), what=("states", "keys"))
        with watched_vision(adapter, query) if taps else nullcontext():
            stock = tower(pixels, output_hidden_states=True)
            with calls_of(tower) as calls, identical_once(adapter):
                ours = tower(pixels, output_hidden_states=True)
        same(ours, stock)
        assert len(calls[0][0]) == unique
        if taps:
            close(taps_of(ours), taps_of(stock), LOGITS)
        ran = source_of(ours).unflatten(0, (len(pixels), -1))
        for at in range(len(pixels)):
            first = next(n for n in range(at + 1) if torch.equal(pixels[n], pixels[at]))
            assert set(ran[at, :, 1].tolist()) == {float(len(adapter.vision_blocks) * (first == at))}


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava_next_video", "video_llava"])
@pytest.mark.parametrize(("shown", "told"), [([0, 0, 1, 1], [0, 0, 2, 2]), ([0, 1, 0, 0], [0, 1, 2, 2])])
def test_a_row_is_told_of_equal_frames(family: str, shown: list[int], told: list[int]) -> None:
    """Of a frame that comes back it is told that no layer ran, not which one it copies."""
    model, inputs = family_model(family), dict(family_inputs(family, "one"))
    name = next(each for each in FAMILIES[family].pixels if "video" in each)
    frames = inputs[name].clone()
    frames = frames[:, shown]
    inputs[name] = frames
    config = get_baseline_config().replace(reuse_identical=True)
    with pruned(model, get_baseline_config()):
        stock = model(**inputs).logits
    with pruned(model, config) as trace:
        close(model(**inputs).logits, stock, LOGITS)
    (sample,) = trace.samples
    assert sample.source is not None and not sample.tokens % len(shown)
    source, each = sample.source.view(len(shown), -1, 2), sample.tokens // len(shown)
    assert source[:, :, 0].tolist() == [[own * each + place for place in range(each)] for own in told]
    assert [set(own.tolist()) == {0} for own in source[:, :, 1]] == [own in shown[:at] for at, own in enumerate(shown)]
    said = vision_facts(sample, vision_options(config.reading), 0.0)
    assert (said["units"], said["encoded"]) == (sample.tokens, each * len(set(shown)))
    assert said["share"] == pytest.approx(len(set(shown)) / len(shown))


# ---- with the other contexts, and through the package


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_reuse_of_places_sees_what_is_encoded(family: str) -> None:
    """Without a threshold's slack and with each picture in one piece, both find the same."""
    model = tiny_model(family=family)
    adapter = adapter_for(model)
    tower = adapter.parts.vision
    pixels, grid = videos(tower, [[0, 0, 1, 1], [0], [0, 1, 1, 2, 2], [0], [0, 1]])
    with reusing(adapter, VisionOptions(reuse_threshold=0)):
        alone = tower(pixels, grid_thw=grid)
        with identical_once(adapter):  # one video, of which places are left out besides
            half = pixels[: 4 * 24].clone()
            half[48:54] = half[:6]  # of the second picture
            part = tower(half, grid_thw=grid[:1])
        close(part.pooler_output, tower(half, grid_thw=grid[:1]).pooler_output, LOGITS)
        with calls_of(tower) as calls, identical_once(adapter):
            ours = tower(pixels, grid_thw=grid)
    assert calls[0][1][:, 0].tolist() == [2, 1, 3, 1, 2]
    assert torch.equal(source_of(ours), source_of(alone))
    close(ours.pooler_output, alone.pooler_output, LOGITS)
    for one, other in zip(*(out.get("deepstack_features", []) for out in (ours, alone)), strict=True):
        close(one, other, LOGITS)


@torch.no_grad()
def test_pruned_tells_which_tokens_are_copies() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    inputs["pixel_values_videos"][160:240] = inputs["pixel_values_videos"][:80]  # 4 positions of 20 tokens
    config = get_baseline_config()
    with pruned(model, config) as trace:
        stock = model(**inputs).logits
    assert trace.samples[0].source is None
    with pruned(model, config.replace(reuse_identical=True)) as trace:
        close(model(**inputs).logits, stock, LOGITS)
    source = trace.samples[0].source
    assert source is not None
    assert source[:, 0].tolist() == [*range(40), *range(20), *range(60, 80)]
    assert source[:, 1].tolist() == [1] * 40 + [0] * 20 + [1] * 20


PICTURES = [0, 0, 1, 0, 2, 2, 2, 3, 3, 3, 3, 0, 1, 1, 4, 4]


@pytest.fixture(scope="module")
def toy() -> PruneVidQwen25VL:
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)  # 16 tokens a temporal position
    made = PruneVidQwen25VL(build_model(0).eval(), tokenizer=build_tokenizer())
    made.preprocessor.media = MediaReader(small, small)
    return made


@pytest.mark.parametrize(("tokens", "at_once"), [(None, 16), (40, 2), (16, 1)])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_video_that_is_read_in_chunks(toy: PruneVidQwen25VL, tokens: int | None, at_once: int, reuse: bool) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (5, 2, 112, 112, 3), dtype=np.uint8)
    positions = drawn[PICTURES]
    encoded, before = 0, None
    for at in range(0, len(positions), at_once):
        chunk = list(positions[at : at + at_once])
        encoded += len(encoded_of(sources_by_loops(chunk, before)))
        before = chunk[-1]
    content = [{"type": "video", "video": positions.reshape(-1, 112, 112, 3)}, {"type": "text", "text": "what color ?"}]
    made, patches = [], list[int]()
    embed = toy.model.model.visual.patch_embed
    handle = embed.register_forward_pre_hook(lambda _module, args: patches.append(len(args[0])))
    config = get_baseline_config().replace(vision_chunk_tokens=tokens, max_frames=32)
    if reuse:
        config = config.replace(reuse_threshold=0)
    for once in (False, True):
        patches.clear()
        made.append(
            toy.with_config(config.replace(reuse_identical=once)).generate(
                messages=[{"role": "user", "content": content}], max_new_tokens=2, return_dict_in_generate=True,
                output_logits=True,
            )
        )  # fmt: skip
    handle.remove()
    assert sum(patches) == 64 * encoded
    if not reuse:
        for one, other in zip(*(each["output"].logits for each in made), strict=True):
            close(one, other, LOGITS)
        assert "vision" not in made[0]["stats"]
    said = made[1]["stats"]["vision"]
    assert (said["units"], said["encoded"]) == (256, 16 * encoded)
    assert said["share"] == pytest.approx(encoded / 16)
