"""Reuse in the vision encoder inside `pruned` and `PrunedVLM`: what stage 1, selectors and the receipt are told."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunevid_qwen import (
    Plan,
    PruneVidConfig,
    PruneVidQwen25VL,
    Step,
    UnsupportedError,
    VisionQuery,
    get_baseline_config,
    pruned,
)
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import source_of, taps_of, vision_in_chunks
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import attached
from prunevid_qwen.forward.reuse import encoding_ahead
from prunevid_qwen.forward.vision_evidence import watched_vision
from prunevid_qwen.moving_shapes import write_video
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.receipt import receipt
from prunevid_qwen.receipt.encoder_work import vision_facts
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import SampleTrace
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.tower import Reuse
from tests import glimpse
from tests.families import FAMILIES, family_inputs, family_model
from tests.models import tiny_model
from tests.receipts import differences
from tests.tolerances import LOGITS, close
from tests.vision_towers import FORMS, call, deep_model, half_still, levels_of, patch_grid

ON = {"reuse_threshold": 8.0}
KEPT = PruneVidConfig(merger="rlt", tau=0.8, selector=None)


def still(inputs: dict[str, Tensor], share: float = 0.5) -> dict[str, Tensor]:
    """Let places of the videos of some inputs stand still, and all others change."""
    at = 0
    pixels = inputs["pixel_values_videos"].clone()
    for t, h, w in inputs["video_grid_thw"].tolist():
        own = pixels[at : at + t * h * w].view(t, h * w // 4, 4, -1)
        places = int(share * own.shape[1])
        own[1:, :places] = own[:1, :places]
        own[:, places:] = 2 * torch.randn(own[:, places:].shape, generator=torch.Generator().manual_seed(at))
        at += t * h * w
    return {**inputs, "pixel_values_videos": pixels}


class Sees:
    """A step at the door that keeps all and remembers what it was shown."""

    needs = Needs()

    def __init__(self, needs: Needs | None = None) -> None:
        self.needs = needs or Needs()
        self.seen: list[Evidence] = []

    def plan(self, seen: Evidence) -> TokenMap:
        self.seen.append(seen)
        return TokenMap.identity(seen.hidden.shape[0], seen.hidden.device)


def answer(model: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
    return model.generate(**inputs, max_new_tokens=2, do_sample=False, **options)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("qwen") and "moe" not in name])
def test_stage_one_is_told_what_is_a_copy(family: str) -> None:
    """Of a batch with an image, a text and several videos: each copy has the bits of what it copies."""
    model, inputs = family_model(family), still(family_inputs(family, "batch"))
    for threshold, beams in ((0.0, 1), (8.0, 2)):
        looks = Sees()
        with pruned(model, Plan((Step(-1, looks),), vision=VisionOptions(reuse_threshold=threshold))) as trace:
            answer(model, inputs, num_beams=beams)
        copies = 0
        for seen in looks.seen:
            assert seen.source is not None
            assert torch.equal(seen.hidden, seen.hidden[seen.source])
            own = torch.arange(len(seen.source))
            copies += int((seen.source != own).sum())
            for block in seen.layout.blocks:
                at = seen.source[block.start : block.stop]
                assert bool((at >= block.start).all()) and bool((at < block.stop).all())
                assert block.kind == "video" or torch.equal(at, own[block.start : block.stop])
        assert copies == 10 * 3 + 8 * 1  # half of the places of 4 x 5 and 4 x 4, but for the first positions
        assert [row.source is None for row in trace.samples] == [not row.tokens for row in trace.samples]


def test_without_the_option_nothing_is_told_and_nothing_changes() -> None:
    model, inputs = tiny_model(), still(family_inputs("qwen2_5_vl", "one"))
    looks = Sees()
    with pruned(model, Plan((Step(-1, looks),))) as trace:
        assert not any("forward" in vars(each) for each in model.model.visual.patch_embed.modules())
        answer(model, inputs)
    assert looks.seen[0].source is None and trace.samples[0].source is None
    with pruned(model, Plan((Step(1, Sees()),), vision=VisionOptions(**ON))) as trace:
        with pytest.raises(Exception, match=r".*"), pruned(model, Plan()):
            pass
        answer(model, inputs)
    assert trace.samples[0].source is not None
    assert not any("forward" in vars(each) for each in model.modules())


@pytest.mark.parametrize("family", FORMS)
def test_rlt_merges_the_same_whether_it_is_told_or_looks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = family_model(family), still(family_inputs(family, "batch"))
    maps = []
    for told in (True, False):
        if not told:
            monkeypatch.setattr("prunevid_qwen.forward.evidence.Sight._source", lambda *_: None)
        with pruned(model, KEPT.replace(**ON)) as trace:
            answer(model, inputs)
        maps.append([each.merged for each in trace.samples if each.merged is not None])
    for one, other in zip(*maps, strict=True):
        assert torch.equal(one.target, other.target) and torch.equal(one.rep, other.rep)
        assert one.n_out < one.n_in


def test_it_is_decided_before_the_cast() -> None:
    """At a normalised value of 2 a step of bfloat16 is a grey level: two pictures one level apart, of one value."""
    model = tiny_model(dtype=torch.bfloat16)
    inputs = family_inputs("qwen2_5_vl", "one")
    pixels = torch.full_like(inputs["pixel_values_videos"], 2.0)
    pixels[len(pixels) // 2 :] += 0.4 / (0.269 * 255)
    assert torch.equal(pixels.bfloat16()[:1], pixels.bfloat16()[-1:])
    with pruned(model, PruneVidConfig(enable_stage1=False, reuse_threshold=0.3)) as trace:
        answer(model, {**inputs, "pixel_values_videos": pixels})
    source = trace.samples[0].source
    assert source is not None
    assert source[:, 1].view(4, 20).any(1).tolist() == [True, False, True, False]


def test_taps_of_a_copy_are_those_of_what_it_copies() -> None:
    """The trained selector reads states of the tower: in chunks, through memory and not."""
    model = deep_model("qwen2_5_vl")
    adapter, tower, grid = adapter_for(model), model.model.visual, (5, 3, 5)
    pixels = half_still(grid, 3).reshape(-1, 1176)
    query = VisionQuery((0, 2, 3), what=("states", "keys"))
    reuse = Reuse(adapter, VisionOptions(reuse_threshold=0, early_tau=0.2, early_block=1))
    made = []
    for tokens in (None, 15, 30):
        watched = watched_vision(adapter, query, reuse.tapped)
        with torch.no_grad(), watched, reuse.reusing(), vision_in_chunks(tower, tokens), reuse.planning():
            made.append(tower(pixels, grid_thw=patch_grid(grid)))
    taps, source = taps_of(made[0]), source_of(made[0])[:, 0]
    assert taps.shape == (75, 3, 32 + 16)
    assert torch.equal(taps[:, 1:], taps[source, 1:]) and not torch.equal(taps[:, 0], taps[source, 0])
    for other in made[1:]:
        close(taps_of(other), taps, LOGITS)
    with torch.no_grad(), watched_vision(adapter, query):
        stock = taps_of(tower(pixels, grid_thw=patch_grid(grid)))
    close(taps[:15], stock[:15], LOGITS)  # the first position, which is encoded whole


def test_the_trained_selector_answers() -> None:
    model, inputs = tiny_model(), still(family_inputs("qwen2_5_vl", "batch"))
    with pruned(model, glimpse.config(**{"reading.reuse_threshold": 8.0})) as trace:
        answer(model, inputs)
    assert any(row.after_stage2 < row.tokens for row in trace.samples)


@pytest.mark.parametrize("merger", ["visionzip", "fastvid", "flashvid", "vscan"])
def test_methods_that_read_attention_inside_it_are_refused(merger: str) -> None:
    config = PruneVidConfig(merger=merger, enable_stage2=False).replace(**ON)
    with pytest.raises(UnsupportedError, match=merger), pruned(tiny_model(), config):
        pass
    with pytest.raises(UnsupportedError), encoding_ahead(adapter_for(tiny_model()), Plan((Step(-1, Sees(Needs(
        vision=VisionQuery((0,), what="received")
    ))),), vision=VisionOptions(**ON))):  # fmt: skip
        pass


def test_threads_share_the_model() -> None:
    model, grid = deep_model("qwen2_5_vl"), (5, 3, 5)
    adapter, videos = adapter_for(model), [half_still(grid, seed, 0.1 * (1 + seed)) for seed in range(4)]
    got: dict[int, Tensor] = {}
    gate = threading.Barrier(len(videos))

    def encode(number: int) -> None:
        gate.wait(30)
        with torch.no_grad():
            for _ in range(3):
                got[number] = levels_of(call(model, videos[number], grid))

    with attached(adapter, Plan(vision=VisionOptions(reuse_threshold=0), vision_chunk_tokens=30)):
        threads = [threading.Thread(target=encode, args=(number,)) for number in range(len(videos))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with torch.no_grad():
            alone = [levels_of(call(model, video, grid)) for video in videos]
    for number, wanted in enumerate(alone):
        assert torch.equal(got[number], wanted)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_receipt(family: str) -> None:
    model, inputs = family_model(family), still(family_inputs(family, "batch"))
    config = KEPT.replace(**ON, early_tau=0.999, early_block=0)
    with pruned(model, config) as trace:
        answer(model, inputs)
    rows = [receipt(trace, row, config, [], [], 1, {}, {"read": 0.0, "total": 0.0}, 1)["vision"] for row in range(3)]
    assert [row["units"] for row in rows] == [80, 32, 0]
    assert [row["encoded"] for row in rows[:2]] == [50, 24]
    assert rows[0]["share"] == pytest.approx(50 / 80) and rows[0]["note"] is None and rows[0]["seconds"] > 0
    assert rows[2]["encoded"] is rows[2]["share"] is None and rows[2]["note"].startswith("nothing to do")
    assert {name: rows[0][name] for name in ("reuse_threshold", "early_tau", "early_block")} == {
        "reuse_threshold": 8.0, "early_tau": 0.999, "early_block": 0,
    }  # fmt: skip


# ---- the API: a file, read in chunks


@pytest.fixture(scope="module")
def frames() -> np.ndarray[Any, Any]:
    """12 frames of noise, of which the right half stands still and the left half does from the fifth on."""
    drawn = np.random.default_rng(0).integers(0, 256, (12, 112, 112, 3)).astype(np.uint8)
    drawn[:, :, 56:] = drawn[:1, :, 56:]
    drawn[5:, :, :56] = drawn[4, :, :56]
    return drawn


@pytest.fixture(scope="module")
def vlm() -> PruneVidQwen25VL:
    return PruneVidQwen25VL("bundled", config=KEPT.replace(**ON, max_frames=12), device="cpu")


def ask(vlm: Any, video: Any, **options: Any) -> Any:
    return vlm.generate(video, "what color is the circle ?", max_new_tokens=1, **options)


def test_an_array_in_any_chunks(vlm: PruneVidQwen25VL, frames: Any) -> None:
    features, told = [], []
    for chunk in (8192, 1, 40):
        model = vlm.with_config(vlm.config.replace(vision_chunk_tokens=chunk))
        prepared = model.prepare(frames, "what color is the circle ?")
        assert prepared.encoded is not None
        features.append(prepared.encoded.features[0])
        stats = model.answer(prepared, max_new_tokens=1)["stats"]
        told.append({name: stats["vision"][name] for name in ("units", "encoded", "share", "note")})
        assert list(differences(stats)) == []
    for other in features[1:]:
        close(other.tokens, features[0].tokens, LOGITS)
        assert torch.equal(other.source, features[0].source)
    units = told[0]["units"]
    assert told == [{"units": units, "encoded": units // 6 + 2 * units // 12, "share": 1 / 3, "note": None}] * 3
    whole = ask(vlm, frames)["stats"]
    assert whole["vision"]["encoded"] == told[0]["encoded"] and whole["vision"]["seconds"] > 0
    assert list(differences(whole)) == []


def test_equal_positions_too_and_what_moves(vlm: PruneVidQwen25VL, frames: Any) -> None:
    both = vlm.with_config(vlm.config.replace(reuse_identical=True, vision_chunk_tokens=40))
    features = [model.prepare(frames, "?").encoded.features[0] for model in (both, vlm)]  # type: ignore[union-attr]
    close(features[0].tokens, features[1].tokens, LOGITS)
    assert torch.equal(features[0].source[:, 0], features[1].source[:, 0])  # type: ignore[index]
    moves = np.random.default_rng(1).integers(0, 256, frames.shape).astype(np.uint8)
    stats = ask(vlm, moves)["stats"]["vision"]
    assert stats["share"] == 1.0 and stats["encoded"] == stats["units"] and stats["note"].startswith("0 %")
    assert "vision" not in ask(vlm.with_config(get_baseline_config()), frames)["stats"]


def test_equal_positions_of_stock_inputs() -> None:
    """Reuse plans them whole, and nothing takes positions out of its plan."""
    model, inputs = tiny_model(), still(family_inputs("qwen2_5_vl", "one"))
    rows = inputs["pixel_values_videos"].view(4, -1, 1176)
    rows[2], rows[3] = rows[1], rows[0]
    out = []
    for identical in (False, True):
        with pruned(model, KEPT.replace(**ON, reuse_identical=identical)) as trace:
            out.append(answer(model, inputs, return_dict_in_generate=True, output_logits=True).logits[0])
        assert trace.samples[0].source is not None
    assert torch.equal(out[0], out[1])


def test_features_of_another_config_are_said_to_be_unknown(vlm: PruneVidQwen25VL, frames: Any) -> None:
    plain = vlm.with_config(vlm.config.replace(reuse_threshold=None))
    stats = vlm.answer(plain.prepare(frames, "?"), max_new_tokens=1)["stats"]["vision"]
    assert stats["encoded"] is None and stats["note"].startswith("unknown")


def test_features_of_other_copies_are_refused(vlm: PruneVidQwen25VL, frames: Any) -> None:
    """A receipt of this config would tell of work that the other one did."""
    made = vlm.with_config(vlm.config.replace(reuse_threshold=100.0)).prepare(frames, "?")
    for other in (8.0, None):
        with pytest.raises(ConfigError):
            vlm.with_config(vlm.config.replace(reuse_threshold=other)).answer(made, max_new_tokens=1)


def test_a_plan_reads_videos_with_it(vlm: PruneVidQwen25VL, frames: Any) -> None:
    model = vlm.with_config(Plan((Step(1, Uniform(0.5)),), vision=VisionOptions(**ON)))
    stats = ask(model, frames)["stats"]
    assert stats["vision"]["encoded"] < stats["vision"]["units"]
    assert stats["plan"]["vision"]["reuse_threshold"] == 8.0
    assert list(differences(stats)) == []


def test_a_still_file_is_encoded_once_over_its_chunks(vlm: PruneVidQwen25VL, frames: Any, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", np.repeat(frames[4:5], 24, 0), fps=4)
    model = vlm.with_config(vlm.config.replace(vision_chunk_tokens=16, max_frames=24))
    stats = ask(model, str(video))["stats"]["vision"]
    assert stats["units"] == 12 * 16 and 16 <= stats["encoded"] <= 32


@pytest.mark.parametrize("through_files", [False, True])
def test_the_benchmark_encodes_as_generate_does(vlm: PruneVidQwen25VL, through_files: bool) -> None:
    from prunevid_qwen.evaluation.shapes.videos import Questioner, ShapesVideo
    from prunevid_qwen.moving_shapes.conditions import CONDITIONS

    video = ShapesVideo(next(iter(CONDITIONS.values())), 2004000000)
    config = replace(vlm.config.reading, max_frames=video.condition.frames)
    own = KEPT.replace(reading=config)
    look = Questioner(vlm, video, video.questions(1), through_files).look(own)
    features = look.held.features[0]
    assert features.source is not None
    assert 0 < int((features.source[:, 1] > 0).sum()) < len(features.tokens)
    assert torch.equal(features.tokens, features.tokens[features.source[:, 0]])


def test_a_receipt_says_that_nothing_was_left_out_in_the_words_of_what_was_asked() -> None:
    whole = torch.stack([torch.arange(4), torch.full((4,), 3)], dim=1)
    sample = SampleTrace((Block("video", (2, 1, 2), 0, 4),), 4, 9, source=whole)
    still, repeats = (
        vision_facts(sample, options, 0.5)["note"]
        for options in (VisionOptions(reuse_threshold=8.0), VisionOptions(reuse_identical=True))
    )
    assert still and repeats and still != repeats
    assert "still" not in repeats  # nobody asked whether anything stood still
