"""What Video-LLaVA and InternVL have that other families have not: two towers, frames led by CLS, folded tiles."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.internvl import DECODERS
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import AttentionQuery, Needs, VisionQuery
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model
from tests.models import make_inputs
from tests.test_family_evidence import KINDS, visual_in, with_decoder
from tests.test_family_oracles import OUT, config
from tests.tolerances import LOGITS, close
from tests.watching import Notes, watched

VIDEO_LLAVA, INTERNVL = "video_llava", "internvl"
IMAGES = next(name for name in FAMILIES[VIDEO_LLAVA].pixels if "video" not in name)
NAMES = {VIDEO_LLAVA: ("self_attn", "k_proj"), INTERNVL: ("attention", "k_norm")}


@torch.no_grad()
def of_tower(family: str, kind: str, pixels: Tensor, number: int) -> dict[str, Tensor]:
    """What a layer of a tower makes by itself: [images, 1 + patches, ...], from what its projections return."""
    model = family_model(family, "eager")
    tower = adapter_for(model).parts.towers[kind]
    layers = (
        tower.encoder.layer
        if family == INTERNVL
        else next(m for name, m in tower.named_modules() if name.endswith("layers"))
    )
    attention, k_name = NAMES[family]
    inner, seen = getattr(layers[number], attention), dict[str, Any]()
    handles = [
        layers[number].register_forward_hook(
            lambda _m, _a, out: seen.update(states=out[0] if isinstance(out, tuple) else out)
        ),
        inner.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1])),
        inner.get_submodule(k_name).register_forward_hook(lambda _m, _a, out: seen.update(keys=out)),
        inner.get_submodule(f"q{k_name[1:]}").register_forward_hook(lambda _m, _a, out: seen.update(queries=out)),
    ]
    tower(pixel_values=pixels)
    for handle in handles:
        handle.remove()
    weights = seen["weights"]  # [images, H, P, P], of the eager kernel
    queries, keys = (seen[name].unflatten(-1, (weights.shape[1], -1)) for name in ("queries", "keys"))
    logits = torch.einsum("ihd,iphd->ihp", queries.mean(1), keys) * inner.scale
    return {
        "received": weights.mean((1, 2))[..., None], "cls": weights[:, :, 0].mean(1)[..., None], "keys": keys.mean(2),
        "states": seen["states"], "pooled": logits.softmax(-1).mean(1)[..., None],
    }  # fmt: skip


def tokens_of(family: str, kind: str, states: Tensor) -> Tensor:
    """Of patches [images, 1 + patches, C] the mean of each visual token, one by one: [N, C]."""
    if family == VIDEO_LLAVA:
        return (states if kind == "video" else states[:, 1:]).flatten(0, 1)
    out = [
        torch.stack([tile[1 + 8 * (2 * row + i) + 2 * column + j] for i in (0, 1) for j in (0, 1)]).mean(0)
        for tile in states for row in range(4) for column in range(4)
    ]  # fmt: skip
    return torch.stack(out)


@pytest.mark.parametrize("family", [VIDEO_LLAVA, INTERNVL])
@pytest.mark.parametrize("at", [DOOR, 2])
def test_every_tower_shows_what_its_eager_attention_computes(family: str, at: int) -> None:
    inputs, notes = family_inputs(family, "batch"), Notes(Needs(vision=VisionQuery((-1, 0), what=KINDS)))
    watched(family_model(family), inputs, Plan((Step(at, notes),)))
    last = len(adapter_for(family_model(family)).vision_blocks) - 1
    if family == VIDEO_LLAVA:
        videos, images = inputs["pixel_values_videos"], inputs[IMAGES]
        rows = [[("video", videos[0])], [("image", images), ("video", videos[1:].flatten(0, 1))]]
    else:
        tiles = inputs["pixel_values"]
        rows = [[("image", tiles[:2])], [("image", tiles[2:])]]
    for row, seen in zip(rows, notes.seen, strict=True):
        assert seen.vision is not None and tuple(seen.vision) == KINDS
        made = [[(kind, of_tower(family, kind, pixels, number)) for kind, pixels in row] for number in (last, 0)]
        for what, found in seen.vision.items():
            wanted = [torch.cat([tokens_of(family, kind, each[what]) for kind, each in block]) for block in made]
            close(found, torch.stack(wanted)[..., 0] if found.ndim == 2 else torch.stack(wanted), LOGITS)


def test_a_frame_is_led_by_cls_and_an_image_is_not() -> None:
    model, inputs = family_model(VIDEO_LLAVA), family_inputs(VIDEO_LLAVA, "batch")
    notes = Notes(Needs())
    watched(model, inputs, Plan((Step(DOOR, notes),)))
    second = notes.seen[1].layout
    assert [(block.kind, block.grid, block.unplaced) for block in second.blocks] == [
        ("image", (1, 4, 4), 0), ("video", (4, 4, 4), 4), ("video", (4, 4, 4), 4),
    ]  # fmt: skip
    assert second.cells is not None
    video = second.cells[16 : 16 + 4 * 17].view(4, 17)
    assert torch.equal(video[:, 0], torch.full((4,), -1))
    assert torch.equal(video[:, 1:].flatten(), torch.arange(64))


def test_mergers_leave_a_frames_cls_where_it_stands() -> None:
    model = family_model(VIDEO_LLAVA)
    with pruned(model, config(VIDEO_LLAVA)) as trace:
        model.generate(**family_inputs(VIDEO_LLAVA, "one"), max_new_tokens=1)
    merged = trace.samples[0].merged
    assert merged is not None and merged.n_out < merged.n_in
    led = torch.arange(0, 68, 17)
    groups = merged.target[led]
    assert torch.equal(merged.rep[groups], led)
    assert all(int((merged.target == group).sum()) == 1 for group in groups)


def test_both_towers_in_chunks_make_the_same_choice() -> None:
    model, sizes = family_model(VIDEO_LLAVA), list[int]()
    handles = [
        next(m for n, m in tower.named_modules() if n.endswith("patch_embedding")).register_forward_pre_hook(
            lambda _m, args: sizes.append(len(args[0]))
        )
        for tower in adapter_for(model).parts.towers.values()
    ]
    try:
        with pruned(model, config(VIDEO_LLAVA)) as trace:
            whole = model.generate(**family_inputs(VIDEO_LLAVA, "batch"), max_new_tokens=3, **OUT)
            kept = [sample.reductions for sample in trace.samples]
        with pruned(model, config(VIDEO_LLAVA, vision_chunk_tokens=80)) as trace:
            cut = model.generate(**family_inputs(VIDEO_LLAVA, "batch"), max_new_tokens=3, **OUT)
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(sizes[:2]) == [1, 12] and sorted(sizes[2:]) == [1, 2, 5, 5]
    for one, other in zip(kept, trace.samples, strict=True):
        for before, after in zip(one, other.reductions, strict=True):
            assert torch.equal(before.map.target, after.map.target)
    for one, other in zip(whole.logits, cut.logits, strict=True):
        close(one, other, LOGITS)


def test_frames_of_features_that_nobody_watched_are_not_guessed() -> None:
    adapter, features = adapter_for(family_model(VIDEO_LLAVA)), type("Features", (), {})()
    features.pooler_output = torch.zeros(8, 17, 64)
    assert adapter.pictures("video", {}, features) is None
    given = {"pixel_values_videos": torch.zeros(2, 4, 3, 56, 56)}
    grids = adapter.pictures("video", given, features)
    assert grids is not None and [grid.grid for grid in grids] == [(4, 4, 4)] * 2
    features.pooler_output = torch.zeros(8, 16, 64)
    assert adapter.pictures("video", given, features) is None


def test_a_tile_is_a_square() -> None:
    adapter, features = adapter_for(family_model(INTERNVL)), type("Features", (), {})()
    features.pooler_output = torch.zeros(2, 16, 64)
    assert adapter.pictures("image", {}, features) == [PictureGrid("image", (1, 4, 4))] * 2
    features.pooler_output = torch.zeros(2, 12, 64)
    assert adapter.pictures("image", {}, features) is None


@pytest.mark.parametrize("family", [VIDEO_LLAVA, INTERNVL])
def test_towers_and_decoders_of_another_kind_are_refused(family: str) -> None:
    model = family_model(family)
    for part in ("text_config", "vision_config"):
        odd = copy.copy(model)
        odd.config = copy.deepcopy(model.config)
        getattr(odd.config, part).model_type = "another"
        with pytest.raises(UnsupportedError):
            adapter_for(odd)


@pytest.mark.parametrize("decoder", DECODERS)
def test_each_decoder_of_an_internvl_makes_queries_and_keys_as_is_known(decoder: str) -> None:
    model, inputs = with_decoder(INTERNVL, decoder), family_inputs(INTERNVL, "one")
    notes = Notes(Needs(AttentionQuery(heads="mean", rows="each", projections="next")))
    made = watched(model, inputs, Plan((Step(DOOR, notes), Step(2, notes))))
    visual = visual_in(model, inputs, 0)
    for seen, layer in zip(notes.seen, (0, 3), strict=True):
        assert seen.attention is not None
        close(seen.attention, made.weights[layer][0][:, int(visual[-1]) + 1 :, visual].mean(0).log())


def test_the_words_of_an_internvls_turn() -> None:
    adapter = adapter_for(family_model(INTERNVL))
    end, closing, line = 1, adapter.parts.model.config.image_token_id - 1, 198
    inputs = make_inputs([[("text", 3), ("image", 1), ("text", 6)]], family=INTERNVL)
    ids = inputs["input_ids"][0]
    shown = [PictureGrid("image", (1, 4, 4))]
    first = int((ids == closing + 1).nonzero()[-1]) + 1
    for question, words in (
        ([closing, line, 50, 51, end, line, 60], (2, 4)),
        ([closing, 50, 51, line, end, 60, 61], (1, 4)),
        ([closing, line, end, 50, 51, 52, 53], None),
        ([closing, line, 50, 51, 52, 53, 54], None),
    ):
        ids[first:] = torch.tensor(question)
        layout = adapter.layout(ids, None, len(ids), shown)
        assert layout is not None and layout.words == words
