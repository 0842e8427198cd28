"""What the vision tower's blocks made reaches the right token of the right row, whatever way its features went."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import vision_from_memory, vision_in_chunks
from prunevid_qwen.adapters.windows import window_order
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.vision_evidence import VisionEvidence, taps_of, watched_vision
from prunevid_qwen.reducer import VisionTaps
from prunevid_qwen.tokens import TokenLayout
from tests import glimpse
from tests.models import CASES, IMAGES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.tolerances import close

pytestmark = pytest.mark.usefixtures("scores_apart")

GRIDS = [(1, 3, 4), (2, 5, 7), (1, 1, 1), (3, 4, 2), (1, 9, 6)]


@pytest.mark.parametrize("side", [2, 4])
def test_windows_are_ordered_as_the_library_orders_them(side: int) -> None:
    patches = torch.tensor([[t, 2 * h, 2 * w] for t, h, w in GRIDS])
    tower = tiny_model().model.visual
    own = window_order(GRIDS, side)
    if hasattr(tower, "get_window_index"):  # until it moved
        assert side * 28 == tower.window_size or side == 4
        if side * 28 == tower.window_size:
            assert torch.equal(own, tower.get_window_index(patches)[0])
        return
    from transformers.vision_utils import get_vision_window_index

    assert torch.equal(own, get_vision_window_index(patches, 2, 28 * side, 14)[0])


def deep_tower() -> Any:
    """A tower with windows of 2 x 2 tokens and four blocks, of which one sees whole images."""
    text = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}  # fmt: skip
    vision = {"depth": 4, "num_heads": 2, "hidden_size": 32, "intermediate_size": 48, "window_size": 56,
              "out_hidden_size": 64, "fullatt_block_indexes": [3]}  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


@torch.no_grad()
def test_the_last_block_is_what_the_merger_merges_token_by_token() -> None:
    """The merger works on each token's four patches alone: taps in raster order are known by what it makes of them."""
    model = deep_tower()
    adapter, tower = adapter_for(model), model.model.visual
    patches = torch.tensor([[t, 2 * h, 2 * w] for t, h, w in GRIDS])
    pixels = torch.randn(int(patches.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(0))
    kept: dict[str, torch.Tensor] = {}
    handle = tower.blocks[3].register_forward_hook(lambda _m, _a, out: kept.update(states=out))
    with watched_vision(adapter, VisionTaps((3, 0, 3), 32)):
        out = tower(pixels, grid_thw=patches)
    handle.remove()
    taps = taps_of(out)
    assert taps.shape == (out.pooler_output.shape[0], 3, 32)
    assert torch.equal(taps[:, 0], taps[:, 2])
    assert not torch.equal(taps[:, 0], taps[:, 1])
    merged = tower.merger(kept["states"])  # in the tower's own order, as `states` are
    means = kept["states"].view(-1, 4, 32).mean(1)
    # each token of the output is one of `merged`: its tap has to be the mean at the same place
    same = torch.cdist(out.pooler_output, merged).argmin(1)
    close(taps[:, 0], means[same])


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 20, None])
def test_chunks_bring_the_same_taps(tokens: int | None) -> None:
    model = deep_tower()
    adapter, tower = adapter_for(model), model.model.visual
    patches = torch.tensor([[t, 2 * h, 2 * w] for t, h, w in GRIDS])
    pixels = torch.randn(int(patches.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(0))
    with watched_vision(adapter, VisionTaps((3, 1), 32)):
        whole = taps_of(tower(pixels, grid_thw=patches))
        with vision_in_chunks(tower, tokens):
            parts = taps_of(tower(pixels, grid_thw=patches))
    close(parts, whole)
    assert "forward" not in vars(tower)
    assert all(not block._forward_hooks for block in tower.blocks)


def layouts(samples: Any, repeats: int = 1) -> list[TokenLayout | None]:
    inputs = make_inputs(samples)
    adapter = adapter_for(tiny_model())
    positions, _ = adapter.reference_positions(**inputs)
    out = []
    for b, row in enumerate(inputs["attention_mask"]):
        at = row.nonzero()[:, 0]
        out += [adapter.layout(inputs["input_ids"][b, at], positions[:, b, at], at.numel())] * repeats
    return out


def watched(samples: Any) -> VisionEvidence:
    """What is noted while the stock model is run on some prompts, once each."""
    model, shown = tiny_model(), VisionEvidence()
    adapter = adapter_for(model)
    with (
        watched_vision(adapter, VisionTaps((0,), 32)),
        shown.watching(adapter),
        torch.no_grad(),
    ):
        model(**make_inputs(samples))
    return shown


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("samples", [RAGGED, MIXED, IMAGES], ids=["ragged", "mixed", "images"])
def test_rows_get_their_own_also_when_they_are_repeated(samples: Any, repeats: int) -> None:
    rows, inputs = watched(samples).take(layouts(samples, repeats)), make_inputs(samples)
    with watched_vision(adapter_for(tiny_model()), VisionTaps((0,), 32)), torch.no_grad():
        made = {}
        for kind, pixels, grid in (("image", "pixel_values", "image_grid_thw"),
                                   ("video", "pixel_values_videos", "video_grid_thw")):  # fmt: skip
            if grid in inputs:
                sizes = (inputs[grid].prod(1) // 4).tolist()
                made[kind] = list(
                    taps_of(tiny_model().model.visual(inputs[pixels], grid_thw=inputs[grid])).split(sizes)
                )
    for b, sample in enumerate(samples):  # in the order of the prompt, not in that of the encoder's calls
        wanted = [made[kind].pop(0) for kind, *_ in sample if kind != "text"]
        for row in rows[b * repeats : (b + 1) * repeats]:
            assert (row is None) == (not wanted)
            assert row is None or torch.equal(row, torch.cat(wanted))


def test_features_that_were_made_elsewhere_are_refused() -> None:
    shown = watched(MIXED)
    with pytest.raises(UnsupportedError, match=r"\b0\b.*\b166\b.*\b9\b.*\b86\b"):
        shown.take(layouts(RAGGED))
    with pytest.raises(UnsupportedError, match=r"\b9\b.*\b86\b.*\b0\b.*\b0\b"):
        shown.take(layouts(MIXED))  # handed out once
    with pytest.raises(UnsupportedError, match=r"\[80\].*\(2, 4, 4\)"):  # as many tokens, of other videos
        watched(ONE_VIDEO).take(layouts([[("video", 2, 4, 4), ("video", 3, 4, 4), ("text", 1)]]))
    model, config = tiny_model(), glimpse.config()
    inputs = make_inputs(CASES["one_video"])
    with torch.no_grad():
        pixels, grid = inputs.pop("pixel_values_videos"), inputs["video_grid_thw"]
        ahead = {"video": model.model.get_video_features(pixels, grid)}
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this release of transformers takes no features that were encoded ahead")
    with pruned(model, config), pytest.raises(UnsupportedError, match="made elsewhere"):
        model(**inputs, mm_encoder_outputs=ahead)


def test_encoded_ahead_inside_the_context_is_as_good_as_encoded_then() -> None:
    model, config = tiny_model(), glimpse.config()
    inputs = make_inputs(CASES["ragged"])
    with pruned(model, config) as trace, torch.no_grad():
        model(**make_inputs(CASES["ragged"]))
    wanted = [sample.kept.rep for sample in trace.samples]
    with pruned(model, config) as trace, vision_from_memory(model.model.visual) as videos, torch.no_grad():
        sizes = inputs["video_grid_thw"].prod(1).tolist()
        parts = zip(inputs["pixel_values_videos"].split(sizes), inputs["video_grid_thw"], strict=True)
        held = [videos.hold(videos.encode(pixels, grid[None])) for pixels, grid in parts]
        model(**{**inputs, "pixel_values_videos": torch.cat(held)})
    assert all(torch.equal(a, s.kept.rep) for a, s in zip(wanted, trace.samples, strict=True))


def kept(trace: Any) -> list[torch.Tensor]:
    return [sample.kept.rep for sample in trace.samples]


def mismatched() -> dict[str, torch.Tensor]:
    """Another video, of which one placeholder was cut off: refused when its features are there already."""
    inputs = make_inputs(ONE_VIDEO, seed=3)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = torch.cat([inputs[name][:, :5], inputs[name][:, 6:]], dim=1)
    return inputs


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("how", ["mismatch", "interrupt"])
def test_a_video_whose_prompt_never_came_is_not_taken_for_the_next_one(how: str, beams: int) -> None:
    model, config = tiny_model(), glimpse.config()
    with pruned(model, config) as trace, torch.no_grad():
        model(**make_inputs(ONE_VIDEO))
    wanted = kept(trace)[0]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pruned(model, config) as trace:
        if how == "mismatch":
            with pytest.raises(ValueError, match=r"do not match|visual tokens stand where"), torch.no_grad():
                model(**mismatched())
        else:  # since 5.18 features are made ahead of the forward
            handle = model.register_forward_pre_hook(stop)
            with pytest.raises(KeyboardInterrupt):
                model.generate(**make_inputs(ONE_VIDEO, seed=3), max_new_tokens=2)
            handle.remove()
        model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=2, do_sample=False, num_beams=beams)
    assert all(torch.equal(rep, wanted) for rep in kept(trace))
    assert len(trace.samples) == beams


def test_features_made_ahead_carry_their_own_taps_and_no_longer_than_needed() -> None:
    model, config = tiny_model(), glimpse.config()
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this release of transformers takes no features that were encoded ahead")
    wanted, ahead, rest = [], [], []
    with pruned(model, config) as trace, torch.no_grad():
        for seed in (0, 3):
            inputs = make_inputs(ONE_VIDEO, seed=seed)
            model(**inputs)
            wanted += kept(trace)
            ahead.append(model.model.get_video_features(inputs.pop("pixel_values_videos"), inputs["video_grid_thw"]))
            rest.append(inputs)
        assert not torch.equal(*wanted)
        for number in (1, 0):  # not in the order in which they were made
            model(**rest[number], mm_encoder_outputs={"video": ahead[number]})
            assert torch.equal(kept(trace)[0], wanted[number])
        assert not any(isinstance(x, torch.Tensor) for x in vars(ahead[0])["_prunevid_taps"][1])
        inputs = make_inputs(ONE_VIDEO)
        other = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    with pruned(model, config), pytest.raises(UnsupportedError, match="encoded 0 and 0"), torch.no_grad():
        model(**rest[0], mm_encoder_outputs={"video": other})  # its taps may be of other blocks


def test_what_somebody_else_replaced_is_put_back() -> None:
    root, stock = tiny_model().model, tiny_model().model.get_video_features

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return stock(*args, **kwargs)

    root.get_video_features = theirs
    try:
        with pruned(tiny_model(), glimpse.config()):
            assert root.get_video_features is not theirs
        assert vars(root)["get_video_features"] is theirs
    finally:
        del root.get_video_features


@torch.no_grad()
def test_what_a_call_that_raised_had_seen_is_forgotten() -> None:
    model = deep_tower()
    adapter, tower = adapter_for(model), model.model.visual
    grid = torch.tensor([[1, 4, 4]])
    pixels = [torch.randn(16, 1176, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]

    def stop(*_: Any) -> None:
        raise MemoryError

    with vision_from_memory(tower) as videos, watched_vision(adapter, VisionTaps((0,), 32)):
        held = videos.hold(videos.encode(pixels[0], grid))
        handle = tower.blocks[1].register_forward_pre_hook(stop)
        with pytest.raises(MemoryError):
            tower(pixels[1], grid_thw=grid)
        handle.remove()
        assert torch.equal(taps_of(tower(held, grid_thw=grid)), videos.features[0].taps)


def test_a_tower_of_other_blocks_is_refused() -> None:
    model = tiny_model()
    for taps in (VisionTaps((1,), 32), VisionTaps((0,), 48)):
        with (
            pytest.raises(ConfigError, match=r"has 1 blocks of width 32"),
            watched_vision(adapter_for(model), taps),
        ):
            pass
