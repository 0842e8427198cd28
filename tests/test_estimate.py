"""`prunevid estimate`: its memory is that of measured processes, its tokens those of receipts, and it loads nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.app.uploads import CLIPS
from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.evaluation.estimate import PromptNumbers, Rates, estimate
from prunevid_qwen.evaluation.estimate.advice import advice
from prunevid_qwen.evaluation.estimate.estimating import bytes_needed, largest_frames, largest_side
from prunevid_qwen.evaluation.estimate.memory import weight_bytes
from prunevid_qwen.evaluation.estimate.sizes import bytes_called, largest_budget, size_called
from prunevid_qwen.evaluation.estimate.token_counts import ALL, EXACT, MOST, step_counts
from prunevid_qwen.evaluation.speed.contest import Competitor, Contest
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.vision_flops import vision_flops
from prunevid_qwen.forward.plan import compile_plan
from research.estimate_memory import CONFIGS, SHAPES, TOLERANCE, estimated, measured

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "eval" / "results" / "estimate_memory.json"
CLIP = CLIPS / "late_square.mp4"
PROMPT = PromptNumbers(16, 10, 14)
SEVEN = shape_called("7b")


def test_the_committed_peaks_are_estimated() -> None:
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    assert {(row["shape"], row["config"]) for row in rows} == {(shape, name) for shape in SHAPES for name in CONFIGS}
    for row in rows:
        again = estimated(row["shape"], row["frames"], row["config"])
        assert again == row["estimated"]
        assert abs(again / row["measured"] - 1) <= TOLERANCE, row


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is Linux's to tell")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CONFIGS[::2])
def test_a_peak_measured_now_is_estimated(shape: str, name: str) -> None:
    row = measured(shape, 32, name)
    assert abs(row["off"]) <= TOLERANCE, row


@pytest.mark.parametrize("name", ["paper", "recommended", "fastv"])
def test_tokens_operations_and_cache_are_those_of_a_run(name: str) -> None:
    """Of a prompt in which nothing stands still, run on a tiny model."""
    config = get_config(name).replace(pruning_layer=2)
    shape = shape_called("tiny")
    model = build_model(shape, torch.device("cpu"), torch.float32, "sdpa")
    size = PromptSize(8, 6, 8, content="moving", form=form_of(shape))
    contest = Contest(model, size, make_inputs(size, model), [Competitor(name, config)], 2)
    facts = contest.prepare()[name]["facts"]
    own = estimate(shape, config, PromptNumbers(8, 6, 8), bytes_each=4)
    assert own.visual == facts["tokens"]["visual"] and own.text == facts["tokens"]["text"]
    assert own.layer_average == pytest.approx(facts["tokens"]["layer_average"])
    assert own.flops["decoder"] == facts["flops"]["decoder"]["total_causal"] + facts["flops"]["lm_head"]
    assert own.flops["vision"] == facts["flops"]["vision"]
    assert own.flops["decode_step"] == facts["flops"]["decode_step"]
    assert own.memory.cache == facts["cache_bytes"]["computed"]
    assert all(each.how in (EXACT, MOST) for each in own.steps)


@pytest.mark.parametrize("name", ["7b_small", "qwen2vl-7b_small", "qwen3vl-8b_small"])
def test_a_tower_works_on_each_position_alone(name: str) -> None:
    shape = shape_called(name)
    assert vision_flops(shape, (5, 9, 11)) == 5 * vision_flops(shape, (1, 9, 11))


def test_what_the_content_decides_is_said() -> None:
    paper = step_counts(compile_plan(get_config("paper"), 28), (8, 10, 14))
    assert [(each.left, each.how) for each in paper] == [(560, MOST), (224, EXACT)]
    glimpse = step_counts(compile_plan(get_config("glimpse"), 28), (8, 10, 14))
    assert [(each.left, each.how) for each in glimpse] == [(1120, ALL)]
    said = advice(estimate(SEVEN, None, PROMPT), estimate(SEVEN, get_config("paper"), PROMPT), 10**10, None)
    assert any("nothing stands still" in each for each in said)


def test_more_never_takes_less() -> None:
    for config in (None, get_config("paper"), get_config("recommended")):
        base = bytes_needed(SEVEN, config, PROMPT)
        assert base == estimate(SEVEN, config, PROMPT).above_weights
        for more in ({"frames": 64}, {"rows": 20}, {"batch": 4}, {"text_tokens": 5000}, {"new_tokens": 10**5}):
            assert bytes_needed(SEVEN, config, replace(PROMPT, **more)) > base
    assert bytes_needed(SEVEN, get_config("recommended"), replace(PROMPT, frames=256)) < bytes_needed(
        SEVEN, None, replace(PROMPT, frames=256)
    )


def test_the_largest_that_fits_fits_and_one_more_does_not() -> None:
    config, free = get_config("paper"), 4 * 10**9
    frames = largest_frames(SEVEN, config, PROMPT, free)
    assert bytes_needed(SEVEN, config, replace(PROMPT, frames=frames)) <= free
    assert bytes_needed(SEVEN, config, replace(PROMPT, frames=frames + 1)) > free
    rows, columns = largest_side(SEVEN, config, PROMPT, free)
    assert bytes_needed(SEVEN, config, replace(PROMPT, rows=rows, columns=columns)) <= free
    long, merges = replace(PROMPT, frames=512), get_config("divprune")
    enough = (bytes_needed(SEVEN, merges, long) + bytes_needed(SEVEN, get_config("baseline"), long)) // 2
    name, share = largest_budget(SEVEN, merges, long, enough, 2) or ("", 0.0)
    assert name == "merger.cluster_ratio" and 0 < share < 1
    fits = bytes_needed(SEVEN, merges.replace(cluster_ratio=share), long)
    assert fits <= enough < bytes_needed(SEVEN, merges.replace(cluster_ratio=share + 0.02), long)
    assert largest_frames(SEVEN, config, PROMPT, 0) == 0 and largest_side(SEVEN, config, PROMPT, 0) == (0, 0)
    assert largest_budget(SEVEN, get_config("baseline"), PROMPT, free, 2) is None


def test_seconds_follow_the_rates() -> None:
    slow, fast = (estimate(SEVEN, None, PROMPT, rates=Rates(rate, 2000)).seconds for rate in (50, 100))
    assert slow["first_token"] == pytest.approx(2 * fast["first_token"])
    assert slow["decode_per_token"] == fast["decode_per_token"]  # the memory is what one waits for
    assert fast["total"] == pytest.approx(fast["first_token"] + 63 * fast["decode_per_token"])
    with pytest.raises(ConfigError):
        Rates(tflops=0)


def test_weights_are_counted_without_memory() -> None:
    shape = shape_called("tiny")
    model = build_model(shape, torch.device("cpu"), torch.float32, "sdpa")
    assert weight_bytes(shape, 4) == sum(each.numel() * 4 for each in model.parameters())
    assert 15 * 2**30 < weight_bytes(SEVEN, 2) < 16 * 2**30


def test_advice_says_where_pruning_cannot_help() -> None:
    def said(prompt: PromptNumbers, weights: int, free: int | None) -> str:
        config = get_config("recommended")
        return " ".join(advice(estimate(SEVEN, None, prompt), estimate(SEVEN, config, prompt), weights, free))

    short = said(PromptNumbers(2, 8, 8), 10**10, None)
    assert "short" in short and "answer" in short
    assert "alone" in said(PROMPT, 10**11, 24 * 10**9)
    assert "nearly all" in said(PROMPT, 10**11, 102 * 10**9)
    small = shape_called("3b")
    bound = advice(estimate(small, None, PROMPT), estimate(small, get_config("recommended"), PROMPT), 10**9, None)
    assert any("vision encoder is" in each for each in bound)
    assert "short" not in said(replace(PROMPT, frames=256), 10**9, None)


def test_other_families_and_wrong_words() -> None:
    with pytest.raises(UnsupportedError):
        estimate(shape_called("llava-1.5-7b"), None, PromptNumbers(4, 24, 24))
    for wrong in ("24XB", "", "GB", "0GB", "-3"):
        with pytest.raises(ConfigError):
            bytes_called(wrong)
    for wrong in ("720", "0x20", "axb"):
        with pytest.raises(ConfigError):
            size_called(wrong)
    with pytest.raises(ConfigError):
        PromptNumbers(0, 1, 1)


def test_the_command_reads_a_header_and_says_what_the_receipt_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(CLIP), "--dtype", "float32", "--vram", "1GB", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stats = PrunedVLM("bundled").generate(str(CLIP), "What color is it?", max_new_tokens=1, return_stats=True)["stats"]
    assert told["stock"]["visual"] == stats["tokens"]["visual"]
    assert told["fits"]["pruned"]["fits"] and told["fits"]["pruned"]["largest_frames"] > 16
    assert main(["estimate", "--shape", "7b", "--max_frames", "64", "--vram", "24GB"]) == 0
    text = capsys.readouterr().out
    assert "15.45 GiB" in text and "at most" in text
    assert main(["estimate", "--shape", "8b"]) == main(["estimate", "--dtype", "int3", "--shape", "7b"]) == 2
    assert main(["estimate", "gone.mp4"]) == 4
    assert main(["estimate", "--shape", "7b", "--config", "baseline"]) == 0


def test_no_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("weights were opened")

    monkeypatch.setattr("safetensors.safe_open", opened)
    monkeypatch.setattr("transformers.modeling_utils.safe_open", opened)
    with pytest.raises(AssertionError):
        PrunedVLM("bundled")
    assert main(["estimate", "--quiet"]) == 0
