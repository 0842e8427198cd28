"""What the API's receipts say, and how little it takes for an answer that was not pruned to be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid_qwen import (
    PruneVidQwen25VL,
    PruningNotApplied,
    get_baseline_config,
    get_stage1_only_config,
    pruned,
)
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.receipt import check_applied
from tests.api_model import ASKED, CONFIG, ask, model, picture, video

__all__ = ["model", "picture", "video"]


def test_receipt(model: PruneVidQwen25VL, video: Path) -> None:

    result = ask(model, video_path=str(video), question=ASKED)
    stats = result["stats"]
    assert isinstance(result["answer"], str)
    read = stats["input"]["videos"][0]
    assert read["frames"] == len(read["timestamps"]) == 16
    assert read["timestamps"][0] == 0
    assert read["seconds_per_grid"] == pytest.approx(2 * 8 / 16)
    t, h, w = read["grid"]
    assert stats["stage1"]["original_tokens"] == t * h * w == stats["tokens"]["visual"]
    assert 0 <= stats["stage1"]["static_ratio"] <= 1
    one, two, three = stats["stage1"], stats["stage2"], stats["stage3"]
    assert one["applied"] and two["applied"] and three["applied"]
    assert one["reduction_percentage"] == pytest.approx(100 * (1 - one["compressed_tokens"] / one["original_tokens"]))
    assert two["original_tokens"] == one["compressed_tokens"]
    assert two["kept_tokens"] == int(0.4 * two["original_tokens"])
    assert two["achieved_ratio"] == pytest.approx(two["kept_tokens"] / two["original_tokens"])
    text = stats["input"]["prompt_tokens"] - one["original_tokens"]
    assert three["cache_lengths"] == [text + two["kept_tokens"]] * 6
    assert three["reduction_ratio"] == pytest.approx(1 - three["compressed_length"] / three["original_length"])
    assert three["cache_bytes"] / three["cache_bytes_unpruned"] == pytest.approx(1 - three["reduction_ratio"], abs=1e-3)
    assert stats["tokens"]["layer_average"] == pytest.approx(
        (3 * one["compressed_tokens"] + 3 * two["kept_tokens"]) / 6
    )
    assert stats["position_scheme"] == "reference"
    steps = stats["steps"]
    assert [(step["name"], step["where"]) for step in steps] == [("prunevid", "door"), ("prunevid", "layer 2")]
    assert [(step["tokens_in"], step["tokens_out"]) for step in steps] == [
        (one["original_tokens"], one["compressed_tokens"]), (two["original_tokens"], two["kept_tokens"])
    ]  # fmt: skip
    assert steps[0]["seconds"] == stats["seconds"]["merge"]
    assert steps[1]["seconds"] == pytest.approx(stats["seconds"]["select"] + stats["seconds"]["compact"])
    parts = ("read", "vision", "merge", "select", "compact", "prefill", "total")
    assert all(stats["seconds"][part] > 0 for part in parts)
    assert stats["versions"].keys() == {"prunevid_qwen", "transformers", "torch", "python"}
    assert json.loads(json.dumps(stats)) == stats
    assert two["compressed_tokens"] == two["kept_tokens"]


def test_seconds_of_a_token(model: PruneVidQwen25VL, video: Path) -> None:
    seconds = ask(model, video, ASKED, max_new_tokens=5, eos_token_id=None)["stats"]["seconds"]
    assert seconds["decode"] == pytest.approx(4 * seconds["decode_per_token"])  # the first one comes with the prompt


def test_cache_bytes_are_those_of_the_cache(model: PruneVidQwen25VL, video: Path) -> None:
    result = ask(model, video, ASKED, return_dict_in_generate=True, max_new_tokens=1)
    cache = cache_of(result["output"])
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert result["stats"]["stage3"]["cache_bytes"] == held


@pytest.mark.parametrize(("config", "stages"), [(get_baseline_config(), ""), (get_stage1_only_config(), "1")])
def test_stages_off(model: PruneVidQwen25VL, video: Path, config: Any, stages: str) -> None:
    stats = ask(model.with_config(config), video, ASKED)["stats"]
    for number in "123":
        assert stats[f"stage{number}"]["applied"] == stats[f"stage{number}"]["enabled"] == (number in stages)
    assert (stats["tokens"]["after_stage2"] < stats["tokens"]["visual"]) == bool(stages)


def test_receipt_without_stage_3(model: PruneVidQwen25VL, video: Path) -> None:
    stats = ask(model.with_config(CONFIG.replace(enable_cache_compression=False)), video, ASKED)["stats"]
    text = stats["input"]["prompt_tokens"] - stats["stage1"]["original_tokens"]
    early, late = stats["stage1"]["compressed_tokens"], stats["stage2"]["kept_tokens"]
    assert stats["stage3"]["cache_lengths"] == [text + early] * 3 + [text + late] * 3


def test_receipt_of_merged_images(model: PruneVidQwen25VL, picture: Path) -> None:
    stage = ask(model.with_config(CONFIG.replace(merge_images=True)), images=picture, question=ASKED)["stats"]["stage1"]
    assert (stage["applied"], stage["note"]) == (True, None)


def test_receipt_names_the_merger(model: PruneVidQwen25VL, video: Path) -> None:
    stage = ask(model.with_config(CONFIG.replace(merger="pool")), video, ASKED)["stats"]["stage1"]
    assert (stage["merger"], stage["applied"]) == ("pool", True)
    assert stage["compressed_tokens"] == int(stage["original_tokens"] * CONFIG.cluster_ratio)
    off = ask(model.with_config(CONFIG.replace(enable_stage1=False)), video, ASKED)["stats"]["stage1"]
    assert off["merger"] is None


def test_frames_of_few_tokens_are_not_said_to_be_merged(model: PruneVidQwen25VL) -> None:
    """Noise in frames of 3 x 4 tokens: nothing looks alike, and no group is large enough to be clustered."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 84, 112, 3), dtype=np.uint8)
    stats = ask(model.with_config(CONFIG.replace(tau=1.0)), noise, ASKED)["stats"]
    one = stats["stage1"]
    assert (one["original_tokens"], one["compressed_tokens"], one["applied"]) == (96, 96, False)
    assert "min_cluster_tokens" in one["note"] and "14" in one["note"]
    assert stats["stage2"]["applied"] and stats["stage2"]["note"] is None and stats["warnings"] == []


def test_stages_that_keep_everything_say_so(model: PruneVidQwen25VL, video: Path) -> None:
    stats = ask(model.with_config(CONFIG.replace(keep_ratio=1.0, cluster_ratio=1.0, tau=1.0)), video, ASKED)["stats"]
    for stage in ("stage1", "stage2", "stage3"):
        assert stats[stage]["enabled"] and not stats[stage]["applied"] and stats[stage]["note"]
    assert stats["tokens"]["after_stage2"] == stats["tokens"]["visual"]


def test_a_scrolling_recording_looks_alike_and_an_hours_options_are_warned_of(
    model: PruneVidQwen25VL, caplog: pytest.LogCaptureFixture
) -> None:
    """A page of lines that scrolls by half a line a frame for 8 seconds: all of it moves, and always looks alike."""
    stripes = np.where(np.arange(400) % 4 < 2, 30, 235).astype(np.uint8)
    page = np.stack([np.broadcast_to(stripes[2 * i : 2 * i + 112, None, None], (112, 112, 3)) for i in range(16)])
    assert (page[:-1] != page[1:]).all()
    hour = model.with_config(CONFIG.replace(cluster_ratio=0.02))
    stats = ask(hour, page, ASKED)["stats"]
    assert stats["stage1"]["static_ratio"] == 1 and stats["stage1"]["tau"] == CONFIG.tau
    assert stats["tokens"]["after_stage1"] < stats["input"]["videos"][0]["grid"][0] == 8
    assert stats["warnings"] and str(stats["tokens"]["after_stage1"]) in stats["warnings"][0]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [warning for warning in stats["warnings"] if warning not in said] == []
    caplog.clear()
    hour.generate(page, ASKED, max_new_tokens=1, return_stats=False)
    assert stats["warnings"][0] in [record.getMessage() for record in caplog.records], "without a receipt too"


def test_an_answer_that_was_not_pruned_is_no_answer(model: PruneVidQwen25VL, video: Path) -> None:
    off = get_baseline_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunevid_qwen.model.pruned", lambda loaded, _config: pruned(loaded, off))
        with pytest.raises(PruningNotApplied, match="stage 1"):
            model.generate(video, ASKED, max_new_tokens=1)


def test_asked_for_and_not_applied_raises(model: PruneVidQwen25VL, video: Path) -> None:
    inputs = model.preprocessor.batch([model.preprocessor.sample(_message(video), CONFIG)])
    off = get_baseline_config()
    with pruned(model.model, off) as trace:
        model.model.generate(**inputs, max_new_tokens=1)
    check_applied(trace, off)
    with pytest.raises(PruningNotApplied, match="stage 1"):
        check_applied(trace, CONFIG)
    with pytest.raises(PruningNotApplied, match="stage 2"):
        check_applied(trace, CONFIG.replace(enable_stage1=False))
    with pruned(model.model, CONFIG.replace(keep_ratio=1.0)) as trace:
        model.model.generate(**inputs, max_new_tokens=1)
    with pytest.raises(PruningNotApplied, match="45"):
        check_applied(trace, CONFIG)


def _message(video: Path) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]}]


def test_own_code_with_the_context(model: PruneVidQwen25VL, video: Path) -> None:
    inputs = model.preprocessor.batch([model.preprocessor.sample(_message(video), CONFIG)])
    with pruned(model.model, CONFIG) as trace:
        out = model.model.generate(**inputs, max_new_tokens=2)
    answer = model.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answer == ask(model, video, ASKED)["answer"]
    assert trace.kept[0].numel() == trace.samples[0].after_stage2
