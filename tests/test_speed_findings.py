"""What the speed benchmark says follows from its figures: speed-ups, predictions, what eats a difference, sentences."""

from __future__ import annotations

from typing import Any

import pytest

from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK
from prunevid_qwen.evaluation.speed.speed_findings import PARTS, noise_of, rows_of
from prunevid_qwen.evaluation.speed.speed_page import flat_row


def times(decoder: float, vision: float, stage1: float = 0.0, stage2: float = 0.0, step: float = 0.01) -> Any:
    parts = {"vision": vision, "decoder": decoder, "stage1": stage1, "stage2": stage2, "stage3": 0.0, "lm_head": 0.0}
    parts |= {"layers": decoder - stage1 - stage2, "rest": 0.0, "first_token": decoder + vision}
    first = decoder + vision
    return {"first_token": first, "decode_per_token": step, "end_to_end": first + 10 * step, "parts": parts}


def flops(decoder: int, step: int = 10) -> dict[str, Any]:
    return {
        "vision": 50, "stage1": 1, "stage2": 1, "lm_head": 1, "decode_step": step, "macs_fastv": 3, "macs_fastvid": 4,
        "decoder": {"total": decoder, "total_causal": decoder},
    }  # fmt: skip


def about(decoder: int, share: float = 1.0) -> dict[str, Any]:
    facts = {
        "batch": 1, "grid": [2, 4, 4], "layer": 1, "R1": share, "R2": share, "R_layer": share, "R_kv": share,
        "tokens": {"text": 8, "visual": 32, "after_stage1": 32 * share, "after_stage2": 32 * share, "layer_average": 9},
        "widths": [40], "visual_widths": [32], "scores": [], "cluster": 0, "cache_lengths": [40],
        "cache_bytes": {"computed": 5, "measured": 5, "unpruned": 10}, "flops": flops(decoder),
    }  # fmt: skip
    memory = {"how": "counted", "before": 1, "peak": 3, "above": 2}
    return {"config": None, "follows": None, "facts": facts, "memory": memory, "tokens_as_stock": share == 1}


def lines_of(own: Any, stock: Any = None, keep: Any = None, rounds: int = 3) -> list[dict[str, Any]]:
    stock, keep = stock or times(1.0, 0.5), keep or times(1.02, 0.5, stage1=0.01)
    variants = {STOCK: about(400), KEEP_EVERYTHING: about(400), "paper": about(100, 0.25)}
    cell = {"frames": 4, "batch": 1}
    return [
        {"kind": "facts", **cell, "read": None, "variants": variants},
        *[{"kind": "round", **cell, "times": {STOCK: stock, KEEP_EVERYTHING: keep, "paper": own}}] * rounds,
    ]


def paper_row(own: Any, **others: Any) -> dict[str, Any]:
    return next(row for row in rows_of(lines_of(own, **others), 11) if row["variant"] == "paper")


def test_speed_ups_are_predicted_by_flops_and_achieved_on_the_clock():
    row = paper_row(times(0.36, 0.5, stage1=0.04, stage2=0.02, step=0.005))
    assert row["predicted"]["prefill"] == 4
    assert row["speedup"]["prefill"]["median"] == pytest.approx(1 / 0.32)  # stage 2 inside, stage 1 not
    assert row["speedup"]["prefill_with_stage1"]["median"] == pytest.approx(1 / 0.36)
    assert row["speedup"]["layers_alone"]["median"] == pytest.approx(1 / 0.30)
    assert row["speedup"]["first_token"]["median"] == pytest.approx(1.5 / 0.86)
    assert row["reached"] == pytest.approx(1 / 0.32 / 4)
    # the decoder's second becomes a quarter, all else stays
    assert row["predicted"]["first_token"] == pytest.approx(1.5 / 0.75)
    assert row["predicted"]["end_to_end"] == pytest.approx((1.5 + 10 * 0.01) / (0.75 + 10 * 0.01))
    assert sum(row["parts_ms"][part]["median"] for part in PARTS) == pytest.approx(860)


def test_what_eats_the_difference_adds_up_to_it():
    lost = paper_row(times(0.36, 0.5, stage1=0.04, stage2=0.02))["difference_ms"]
    assert lost == pytest.approx({
        "predicted": 250, "measured": 360, "above_predicted": 110, "stage1": 40, "stage2": 20, "stage3": 0,
        "hooks": 10, "shorter_matrices": 40,
    })  # fmt: skip
    # where hooks seem to gain time they cost nothing; they never flatter
    assert paper_row(times(0.3, 0.5), keep=times(0.9, 0.5))["difference_ms"]["hooks"] == 0


def test_a_speed_up_is_that_of_neighbours_in_time():
    """The machine becomes ten times slower after a round: the ratio does not notice, medians would."""
    lines = lines_of(times(0.25, 0.5), rounds=1)
    slow = {name: times(10 * t["parts"]["decoder"], 5) for name, t in lines[1]["times"].items()}
    lines += [{**lines[1], "times": slow}] * 2
    lines[2]["times"][STOCK] = times(10.0, 5)
    row = next(row for row in rows_of(lines, 11) if row["variant"] == "paper")
    assert row["speedup"]["prefill"] == {"median": 4, "low": 4, "high": 4, "n": 3}


def test_a_sentence_has_the_figures_that_one_looks_for_first():
    lines = lines_of(times(0.36, 0.5, stage1=0.04, step=0.005))
    stock, keep, own = rows_of(lines, 11)
    assert stock["sentence"] == "First token after 1500 ms, 33 % of it the vision encoder's."
    for words in ("860 ms", "58 %", "prefill 3.12x (4.00x predicted)", "first token 1.74x", "end to end 1.76x"):
        assert words in own["sentence"]
    assert "NOT THE STOCK" not in keep["sentence"] + own["sentence"]  # what prunes may answer otherwise
    lines[0]["variants"][KEEP_EVERYTHING]["tokens_as_stock"] = False
    assert "NOT THE STOCK MODEL'S" in rows_of(lines, 11)[1]["sentence"]


def test_where_the_stock_model_could_not_run_nothing_is_compared():
    lines = lines_of(times(0.3, 0.5))
    lines[0]["variants"][STOCK] = {"error": "out of memory"}
    for line in lines[1:]:
        line["times"] = {"paper": line["times"]["paper"]}
    lines[0]["variants"].pop(KEEP_EVERYTHING)
    stock, own = rows_of(lines, 11)
    assert stock["error"] == "out of memory" and "speedup" not in own
    assert "out of memory" in stock["sentence"] and "prefill" not in own["sentence"]
    assert "first_token_ms" in flat_row(own) and "sentence" not in flat_row(stock)


def test_a_busy_machine_is_named():
    lines = lines_of(times(0.3, 0.5))
    assert noise_of(rows_of(lines, 11)) == []
    lines[1] = {**lines[1], "times": {**lines[1]["times"], STOCK: times(3.0, 0.5)}}
    assert "4 frames, batch 1" in noise_of(rows_of(lines, 11))[0]
