"""What LLaVA-NeXT, LLaVA-NeXT-Video and LLaVA-OneVision have: tiles without their padding, newlines, pooled frames."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.llava import LINES, TAILS
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.tiny import IMAGE, SIDE
from prunevid_qwen.adapters.tiny.newlines import tiled
from prunevid_qwen.errors import SetupError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import Needs, VisionQuery
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model
from tests.models import make_inputs
from tests.test_family_oracles import OUT, config, equals_masking, generate, identical, keep
from tests.tolerances import LOGITS, close
from tests.watching import Notes, watched

ALL = ("llava_next", "llava_next_video", "llava_onevision")
VIDEOS = ("llava_next_video", "llava_onevision")
EVERY = pytest.mark.parametrize("family", ALL)
SIZES = [(100, 200), (200, 70), (50, 90), (110, 105), (60, 61), (57, 112)]  # pixels
HIGH, WIDE = ("image", 200, 70), ("image", 60, 130)


def shows(family: str, *media: Any) -> dict[str, Any]:
    return make_inputs([[("text", 4), *media, ("text", 6)]], family=family)


@cache
def linear(family: str) -> Any:
    """A model whose projector has no nonlinearity: what is pooled before it, or after it, is the same."""
    model = copy.deepcopy(family_model(family))
    model.model.multi_modal_projector.act = nn.Identity()
    return model


@torch.no_grad()
def seen_and_made(family: str, inputs: dict[str, Any]) -> tuple[Any, Tensor]:
    """What a step sees of the layer that the features are made of, and the features, of one prompt."""
    model = linear(family)
    layer = range(3)[model.config.vision_feature_layer]
    if model.config.vision_feature_layer < 0:  # hidden states begin with those before the first layer
        layer = 3 + 1 + model.config.vision_feature_layer - 1
    notes = Notes(Needs(vision=VisionQuery((layer,), what=("states", "received"))))
    made = watched(model, inputs, Plan((Step(DOOR, notes),)))
    (seen,) = notes.seen
    return seen, made.embeds[0][seen.layout.visual]


# ---- grids and cells


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_two_rasters_with_a_newline_after_each_row(family: str, size: tuple[int, int]) -> None:
    seen, made = seen_and_made(family, shows(family, ("image", *size)))
    most = 3 if family == "llava_onevision" else None
    (rows, columns), _ = tiled(*size, most)
    whole, tiles = seen.layout.blocks
    assert (whole.grid, tiles.grid) == ((1, SIDE, SIDE), (1, rows, columns))
    assert (whole.unplaced, tiles.unplaced) == (0, rows)
    newlines = (made == linear(family).model.image_newline).all(-1)
    assert torch.equal(newlines, seen.layout.cells < 0)
    inside = seen.layout.cells[tiles.start :].view(rows, columns + 1)
    assert torch.equal(inside[:, :columns], torch.arange(rows * columns).view(rows, columns))
    assert torch.equal(inside[:, -1], torch.full((rows,), -1))


@EVERY
def test_a_strip_has_no_rows_of_tiles(family: str) -> None:
    strip = ("image", 20, 300)
    seen, made = seen_and_made(family, shows(family, strip, WIDE))
    assert tiled(20, 300)[0] == (0, 8)
    assert [block.grid for block in seen.layout.blocks] == [(1, SIDE, SIDE)] * 2 + [(1, 4, 8)]
    close(linear(family).model.multi_modal_projector(seen.vision["states"][0][:32]), made[:32], LOGITS)


@pytest.mark.parametrize("family", VIDEOS)
def test_a_release_may_end_a_video_after_its_features_are_made(family: str) -> None:
    adapter, ends = adapter_for(family_model(family)), int(family == "llava_onevision")
    for late, made in ((False, torch.zeros(2, 12 + ends, 64)), (True, [torch.zeros(3, 4, 64)] * 2)):
        grids = adapter.pictures("video", {}, SimpleNamespace(pooler_output=made))
        assert grids is not None and [each.grid for each in grids] == [(3, 2, 2)] * 2, late
        assert all(each.tokens == 12 + ends for each in grids)
    assert adapter.pictures("video", {}, SimpleNamespace(pooler_output=torch.zeros(1, 14, 64))) is None


@pytest.mark.parametrize("family", VIDEOS)
def test_a_video_is_one_raster_of_pooled_frames(family: str) -> None:
    seen, made = seen_and_made(family, shows(family, ("video", 3)))
    (block,) = seen.layout.blocks
    assert block.grid == (3, SIDE // 2, SIDE // 2)
    assert block.unplaced == (family == "llava_onevision")
    if block.unplaced:
        assert seen.layout.cells.tolist() == [*range(12), -1]
        assert torch.equal(made[-1], linear(family).model.image_newline)


@EVERY
def test_images_of_unlike_size_stand_side_by_side(family: str) -> None:
    inputs = shows(family, HIGH, WIDE, ("text", 1), HIGH)
    seen, _ = seen_and_made(family, inputs)
    alone = [seen_and_made(family, shows(family, each))[0].layout for each in (HIGH, WIDE, HIGH)]
    assert [each.grid for each in seen.layout.blocks] == [each.grid for one in alone for each in one.blocks]
    assert torch.equal(seen.layout.cells, torch.cat([each.cells for each in alone]))


# ---- evidence of the tower


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_the_towers_states_stand_at_their_images_tokens(family: str, size: tuple[int, int]) -> None:
    """The projector makes of them what the decoder is given; of a newline the tower knows nothing."""
    seen, made = seen_and_made(family, shows(family, ("image", *size)))
    placed = seen.layout.cells >= 0
    close(linear(family).model.multi_modal_projector(seen.vision["states"][0][placed]), made[placed], LOGITS)
    assert not seen.vision["states"][0][~placed].any() and not seen.vision["received"][0][~placed].any()
    assert bool((seen.vision["received"][0][placed] > 0).all())


@pytest.mark.parametrize("family", VIDEOS)
def test_the_towers_states_stand_at_their_videos_tokens(family: str) -> None:
    seen, made = seen_and_made(family, shows(family, ("video", 3), ("video", 3), ("text", 1), ("image", 60, 130)))
    placed = seen.layout.cells >= 0
    close(linear(family).model.multi_modal_projector(seen.vision["states"][0][placed]), made[placed], LOGITS)
    assert not seen.vision["states"][0][~placed].any()


@pytest.mark.parametrize("side", [4, 5, 9])
def test_frames_are_pooled_as_the_model_pools_them(side: int) -> None:
    """Of an odd number of rows too: a published tower has 27."""
    patches = torch.randn(2, side**2, 6)
    rows = patches.transpose(1, 2).unflatten(-1, (side, side))
    for family in VIDEOS:
        model, adapter = family_model(family), adapter_for(family_model(family))
        adapter.side = side
        if family == "llava_onevision":
            seen = SimpleNamespace(vision_config=SimpleNamespace(image_size=14 * side, patch_size=14))
            wanted = type(model.model).apply_pooling(SimpleNamespace(config=seen), patches)
        else:
            wanted = model.model.vision_resampler(patches)
        assert wanted.shape[1] == adapter.pooled_side**2
        assert torch.equal(adapter.pooled(rows).flatten(2).transpose(1, 2), wanted)


@EVERY
def test_a_release_that_packs_otherwise_is_refused(family: str) -> None:
    model = family_model(family)
    adapter = adapter_for(model)
    adapter.parts = replace(adapter.parts, root=SimpleNamespace())
    with pytest.raises(SetupError, match="pack_image_features"):
        adapter.pictures("image", {"image_sizes": [[60, 130]]}, SimpleNamespace(pooler_output=[torch.zeros(52, 64)]))
    for kind in ("image", "video")[: len(adapter.noted)]:
        with pytest.raises(SetupError, match="pooler_output"):
            adapter.pictures(kind, {}, SimpleNamespace())


@EVERY
def test_a_tower_in_chunks_makes_the_same_choice(family: str) -> None:
    model, sizes = family_model(family), []
    embedding = next(m for n, m in model.model.vision_tower.named_modules() if n.endswith("patch_embedding"))
    handle = embedding.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    try:
        with pruned(model, config(family)) as trace:
            whole = generate(model, family_inputs(family, "batch"), 3)
            kept = [sample.reductions for sample in trace.samples]
        calls = len(sizes)
        with pruned(model, config(family, vision_chunk_tokens=2 * SIDE**2)) as trace:
            cut = generate(model, family_inputs(family, "batch"), 3)
    finally:
        handle.remove()
    assert max(sizes[:calls]) > 2 >= max(sizes[calls:]) and sum(sizes[:calls]) == sum(sizes[calls:])
    for one, other in zip(kept, trace.samples, strict=True):
        for before, after in zip(one, other.reductions, strict=True):
            assert torch.equal(before.map.target, after.map.target)
    for one, other in zip(whole.logits, cut.logits, strict=True):
        close(one, other, LOGITS)


# ---- several images of LLaVA-OneVision


def several(pixels: int = 3) -> dict[str, Any]:
    """A prompt of two whole images, which are not cut into tiles, and one of a single image in tiles."""
    ids = [[20, 21, *[IMAGE] * (2 * (SIDE**2 + 1)), 30, 31, 32], [40, *[IMAGE] * (SIDE**2 + 36), 50, 51]]
    width = max(map(len, ids))
    numbers = torch.Generator().manual_seed(3)
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
        "pixel_values": torch.randn(3, pixels, 3, SIDE * 14, SIDE * 14, generator=numbers),
        "image_sizes": torch.tensor([[60, 80], [90, 70], [100, 200]]),
        "batch_num_images": torch.tensor([2, 1]),
    }


def test_several_images_are_a_raster_each() -> None:
    notes = Notes(Needs(vision=VisionQuery((2,), what="states")))
    watched(family_model("llava_onevision"), several(), Plan((Step(DOOR, notes),)))
    first, second = (seen.layout for seen in notes.seen)
    assert [(block.grid, block.unplaced) for block in first.blocks] == [((1, SIDE, SIDE), 1)] * 2
    assert [block.grid for block in second.blocks] == [(1, SIDE, SIDE), (1, 4, 8)]
    assert first.cells.tolist() == [*range(SIDE**2), -1] * 2
    shown = [seen.vision["states"][0] for seen in notes.seen]
    assert [bool(states[-1].any()) for states in shown] == [False, False]  # newlines


@pytest.mark.parametrize("what", ["keep", "prune"])
def test_several_images_pass_the_oracles(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_family_oracles.family_inputs", lambda *_: several())
    if what == "keep":
        identical("llava_onevision", "batch", "greedy", keep("llava_onevision"), family_model("llava_onevision"))
    else:
        pruning = config("llava_onevision", merge_images=True)
        equals_masking("llava_onevision", "batch", pruning, family_model("llava_onevision"))


# ---- features that are made elsewhere


@EVERY
def test_features_of_elsewhere_are_refused_where_nothing_tells_their_grid(family: str) -> None:
    model, inputs = family_model(family), shows(family, WIDE)
    pixels, sizes = inputs.pop("pixel_values"), inputs.pop("image_sizes")
    with torch.no_grad():
        outside = model.model.get_image_features(pixel_values=pixels, image_sizes=sizes, return_dict=True)
    adapter = adapter_for(model)
    assert adapter.pictures("image", {}, outside) is None
    assert adapter.arranged("image", {}, outside, [torch.zeros(SIDE**2, 1, 3)] * 3) is None
    told = adapter.pictures("image", {"image_sizes": sizes}, outside)
    assert told is not None and [each.grid for each in told] == [(1, SIDE, SIDE), (1, 4, 8)]
    try:
        model(**inputs, mm_encoder_outputs={"image": outside})
    except (TypeError, ValueError, RuntimeError):
        pytest.skip("this release takes no encoded images")
    with torch.no_grad(), pruned(model, config(family, merge_images=True)) as trace:
        with pytest.raises(UnsupportedError):
            model(**inputs, mm_encoder_outputs={"image": outside})
        inside = model.model.get_image_features(pixel_values=pixels, image_sizes=sizes, return_dict=True)
        model(**inputs, mm_encoder_outputs={"image": inside})
        assert trace.samples[0].after_stage2 < trace.samples[0].after_stage1 < 52


@EVERY
def test_grids_outlast_an_output_that_accelerate_makes_anew(family: str) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = copy.deepcopy(family_model(family))
    with pruned(model, config(family)) as trace:
        wanted = generate(model, family_inputs(family, "batch"), 3)
        kept = [sample.after_stage2 for sample in trace.samples]
    for module in (model, model.model):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    with pruned(model, config(family)) as trace:
        ours = generate(model, family_inputs(family, "batch"), 3)
    assert torch.equal(ours.sequences, wanted.sequences)
    assert [sample.after_stage2 for sample in trace.samples] == kept


# ---- the user's words


CLOSING = {"llama": [*TAILS["llama"]], "mistral": [*TAILS["mistral"]], "qwen2": [9, 60, 61]}  # 9: ends a turn


@pytest.mark.parametrize("decoder", CLOSING)
def test_the_users_words_end_before_the_templates_tail(decoder: str) -> None:
    adapter = adapter_for(family_model("llava_next"))
    adapter.parts = replace(adapter.parts, text_config=SimpleNamespace(model_type=decoder, eos_token_id=[8, 9]))
    lead = [*LINES.get(decoder, (29871, 13))]
    shown = [PictureGrid("image", (1, 2, 2))]
    for words in ([50, 51, 52], [50]):
        ids = torch.tensor([1, *[IMAGE] * 4, *lead, *words, *CLOSING[decoder]])
        layout = adapter.layout(ids, None, len(ids), shown)
        assert layout is not None and layout.words == (len(lead), len(lead) + len(words))
    ids = torch.tensor([1, *[IMAGE] * 4, 50, 51])
    layout = adapter.layout(ids, None, len(ids), shown)
    assert layout is not None and layout.words is None


@pytest.mark.parametrize("decoder", ["mistral", "qwen2"])
def test_other_decoders_pass_masking(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaVA-NeXT has been published with these too."""
    family, stock = "llava_next", family_model("llava_next", "eager")
    options = stock.config.to_dict()
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "eos_token_id", "pad_token_id")  # fmt: skip
    own = {name: options["text_config"][name] for name in sizes}
    options["text_config"] = {**own, "model_type": decoder, "head_dim": 16, "sliding_window": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = type(stock)._from_config(stock.config_class(**options), attn_implementation="eager").eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim >= 2:
                    weight.normal_().mul_(1.5 / weight[0].numel() ** 0.5)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 300
    monkeypatch.setattr("tests.test_family_oracles.family_model", lambda *_: model)
    equals_masking(family, "one", config(family), model)
    assert FAMILIES[family].options and OUT
