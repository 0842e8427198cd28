"""The speed benchmark from the command to the report: sentences that follow from figures, resuming, fields, errors."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.efficiency.findings import PARTS, rows_of
from prunevid_qwen.evaluation.efficiency.folder import MEASUREMENTS, read_lines
from prunevid_qwen.evaluation.efficiency.measure import Contest
from prunevid_qwen.evaluation.efficiency.plots import draw_plots
from prunevid_qwen.evaluation.efficiency.report import flat_row, summarise, write_report
from prunevid_qwen.evaluation.efficiency.run import SpeedRun, speed_run
from prunevid_qwen.evaluation.efficiency.sentences import eaten, faster, noise_of, sentence
from prunevid_qwen.evaluation.efficiency.variants import KEEP_EVERYTHING, STOCK

SMALL = SpeedRun(shape="tiny", presets=("paper",), frames=(4,), grid=(4, 4), new_tokens=3, repeats=1, warmup=0)


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
    assert eaten(lost).startswith("250.0 ms predicted, 360.0 measured: stage 1 +40.0, stage 2 +20.0")
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


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            times(0.36, 0.5, stage1=0.04, step=0.005),
            "Prefill 3.1x faster (predicted 4.0x; 2.8x with stage 1; most of what is missing: lower efficiency at "
            "shorter lengths); to first token 1.7x faster, because the vision encoder is 58 % of it; end to end with "
            "11 new tokens 1.8x faster.",
        ),
        (
            times(1.3, 0.5, stage1=0.9),
            "Prefill 2.5x faster (predicted 4.0x; 0.8x with stage 1; most of what is missing: lower efficiency at "
            "shorter lengths); to first token 1.20x slower, because stage 1 is "
            "50 % of it and the vision encoder is 28 % of it; end to end with 11 new tokens 1.19x slower.",
        ),
        (
            times(1.0, 0.5, stage2=0.6),
            "Prefill not faster (1.00x) (predicted 4.0x; most of what is missing: stage 2); to first token not faster "
            "(1.00x), because the prefill is not and stage 2 is 40 % of it; end to end with 11 new tokens not faster "
            "(1.00x).",
        ),
        (
            times(0.26, 0.0, step=0.01),
            "Prefill 3.8x faster (predicted 4.0x); to first token 5.8x faster; end to end with 11 new tokens "
            "4.4x faster.",
        ),
    ],
)
def test_the_sentence_says_faster_or_not_and_why(own, said):
    assert sentence(paper_row(own), 11) == said


def test_the_baselines_have_sentences_of_their_own():
    stock, keep, _ = rows_of(lines_of(times(0.3, 0.5)), 11)
    assert sentence(stock, 11) == ("First token after 1500 ms: the decoder 67 %, the vision encoder 33 %, stage 1 0 %.")
    assert sentence(keep, 11) == (
        "All stages on and nothing dropped: +20.0 ms to the first token, +0.00 ms a token, +1.2 % end to end; its "
        "tokens are the stock model's."
    )
    keep["tokens_as_stock"] = False
    assert "ITS TOKENS ARE NOT THE STOCK MODEL'S" in sentence(keep, 11)
    assert sentence({"error": "out of memory"}, 11) == "Did not run: out of memory."


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(3.14, "3.1x faster"), (1.07, "1.07x faster"), (1.04, "not faster (1.04x)"), (0.97, "not faster (0.97x)"),
     (0.5, "2.00x slower")],
)  # fmt: skip
def test_faster_is_said_only_of_what_is(ratio, said):
    assert faster(ratio) == said


def test_where_the_stock_model_could_not_run_nothing_is_compared():
    lines = lines_of(times(0.3, 0.5))
    lines[0]["variants"][STOCK] = {"error": "out of memory"}
    for line in lines[1:]:
        line["times"] = {"paper": line["times"]["paper"]}
    lines[0]["variants"].pop(KEEP_EVERYTHING)
    stock, own = rows_of(lines, 11)
    assert stock["error"] == "out of memory" and "speedup" not in own
    assert sentence(own, 11) == "The stock model could not run here: nothing to compare with."
    assert "first_token_ms" in flat_row({**own, "sentence": ""}) and "sentence" not in flat_row(stock)


def test_a_busy_machine_is_named():
    lines = lines_of(times(0.3, 0.5))
    assert noise_of(rows_of(lines, 11)) == []
    lines[1] = {**lines[1], "times": {**lines[1]["times"], STOCK: times(3.0, 0.5)}}
    assert "4 frames, batch 1" in noise_of(rows_of(lines, 11))[0]


# ---- the run and its folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed") / "run"
    speed_run(folder, SMALL, command="the command")
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_run_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    folder = copy_of(finished, tmp_path / "run")
    before = read_lines(folder)
    assert [line["kind"] for line in before] == ["facts", "round"]
    with (folder / MEASUREMENTS).open("a", encoding="utf-8") as file:
        file.write('{"kind": "round", "frames": 4, "ba')  # a power cut
    speed_run(folder, SpeedRun(**{**SMALL.__dict__, "repeats": 2}))
    after = read_lines(folder)
    assert after[:2] == before and [line["kind"] for line in after] == ["facts", "round", "round"]
    monkeypatch.setattr("prunevid_qwen.evaluation.efficiency.run.build_model", lambda *_: pytest.fail("all was there"))
    speed_run(folder, SpeedRun(**{**SMALL.__dict__, "repeats": 2}))
    assert read_lines(folder) == after


def test_an_interrupted_round_is_not_kept(tmp_path, monkeypatch):
    original, turns = Contest._turn, []

    def turn(self, variant):
        turns.append(variant.name)
        if len(turns) == 8:
            raise KeyboardInterrupt
        return original(self, variant)

    monkeypatch.setattr(Contest, "_turn", turn)
    with pytest.raises(KeyboardInterrupt):
        speed_run(tmp_path, SpeedRun(**{**SMALL.__dict__, "repeats": 3}))
    assert [line["kind"] for line in read_lines(tmp_path)] == ["facts", "round"]
    assert set(read_lines(tmp_path)[1]["times"]) == set(turns[:5])


def test_another_run_is_refused_unless_told_to_restart(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "run")
    other = SpeedRun(**{**SMALL.__dict__, "text_tokens": 30})
    with pytest.raises(ConfigError, match="text_tokens was 60, is now 30"):
        speed_run(folder, other)
    speed_run(folder, other, restart=True)
    assert len(read_lines(folder)) == 2
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"no run\.json says of what"):
        speed_run(folder, other)


def test_the_files_hold_what_they_promise(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "run")
    summary = write_report(folder)
    stored = json.loads((folder / "efficiency.json").read_text())
    assert stored == json.loads(json.dumps(summary))
    for name in ("options", "command", "versions", "hardware", "commit", "uncommitted_changes", "machine",
                 "definitions", "rows", "configs"):  # fmt: skip
        assert name in stored, name
    assert stored["command"] == "the command"
    rows = {row["variant"]: row for row in stored["rows"]}
    assert list(rows) == [STOCK, KEEP_EVERYTHING, "paper", "random", "uniform"]
    assert rows[KEEP_EVERYTHING]["tokens_as_stock"] and rows[KEEP_EVERYTHING]["R2"] == 1
    assert rows["paper"]["R2"] < 1 and rows["paper"]["tokens"] == rows["uniform"]["tokens"]
    for row in rows.values():
        assert row["cache_bytes"]["computed"] == row["cache_bytes"]["measured"]
    with (folder / "efficiency.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["variant"] for row in table] == list(rows)
    wanted = {"vision_ms", "stage1_ms", "prefill_ms", "stage2_ms", "stage3_ms", "first_token_ms", "end_to_end_ms",
              "decode_per_token_ms", "peak_bytes_above", "cache_bytes_measured", "flops_decoder", "macs_fastv",
              "macs_fastvid", "R1", "R2", "R_layer", "R_kv", "prefill_speedup", "prefill_predicted", "reached",
              "sentence"}  # fmt: skip
    assert wanted <= set(table[0])
    text = (folder / "report.md").read_text()
    assert "not measured: random pixels" in text and all(row["sentence"] in text for row in rows.values())


def test_every_plot_is_drawn_and_shown(finished, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra `bench`")
    folder = copy_of(finished, tmp_path / "run")
    point = {"median": 1.0, "low": 0.9, "high": 1.1, "n": 5}
    points = [
        {"frames": n, "tokens": 70 * n, "after_stage1": n, "seconds": point, "memory": {"above": n}, "input_bytes": n}
        for n in (2, 4)
    ]
    line = {"kind": "growth", "grid": [10, 14], "channels": 8, "dtype": "float32", "points": points, "exponent": 1.0}
    with (folder / MEASUREMENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    names = draw_plots(folder, summarise(folder))
    assert set(names) == {f"{plot}_{theme}.{kind}" for plot in ("time", "parts", "growth")
                          for theme in ("light", "dark") for kind in ("svg", "png")}  # fmt: skip
    assert all((folder / name).stat().st_size > 1000 for name in names)
    write_report(folder, names)
    text = (folder / "report.md").read_text()
    assert "parts_light.svg" in text and "power of 1.00" in text


# ---- the command


def test_the_command_measures_and_prints_one_object(tmp_path, capsys, monkeypatch):
    original = Contest.rounds

    def rounds(self, count):
        sys.stdout.write("a library talks")
        return original(self, count)

    monkeypatch.setattr(Contest, "rounds", rounds)
    words = "bench speed --shape tiny --frames 4 --grid 4x4 --new_tokens 3 --repeats 1 --warmup 0 --preset paper"
    words += " --video generated --device cpu --json"
    threads = torch.get_num_threads()
    assert main([*words.split(), "--threads", str(threads), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    summary = json.loads(printed)
    row = next(row for row in summary["rows"] if row["variant"] == "paper")
    assert row["grid"] == [2, 4, 4] and row["read_ms"]["median"] > 0
    assert "a video, on the CPU" in (tmp_path / "report.md").read_text()
    assert main(["bench", "speed", "--plots_from", str(tmp_path)]) == 0
    assert f"4 frames, batch 1, paper: {row['sentence']}" in capsys.readouterr().out


def test_without_matplotlib_it_measures_and_says_how_to_draw(finished, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    assert main(["bench", "speed", "--plots_from", str(finished)]) == 0
    said = capsys.readouterr()
    assert "no plots: matplotlib is not installed" in said.err and f"--plots_from {finished}" in said.err
    assert "report:" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shape 7bsmall", "did you mean '7b_small'"),
        ("--shape tiny --preset papr", "did you mean 'paper'"),
        ("--shape tiny --grid 10", "such as 10x14"),
        ("--shape tiny --frames many", "such as 16,32"),
        ("--shape tiny --content busy", "content is one of still, half, moving"),
        ("--shape tiny --dtype int8", "dtype is one of float32"),
        ("--shape tiny --only speed", "--only takes contest, overhead, growth"),
        ("--shape tiny --grid 4x4 --frames 4 --batch 2 --video clip.mp4", "show every row of a batch the same"),
        ("--plots_from nowhere", "no measurements.jsonl in nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words, message, tmp_path, capsys):
    assert main(["bench", "speed", "--device", "cpu", "--out", str(tmp_path / "run"), *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_help_names_every_option(capsys):
    assert main(["bench", "speed", "--help"]) == 0
    said = capsys.readouterr().out
    for name in (
        "--shape",
        "--model_path",
        "--frames",
        "--batch",
        "--growth",
        "--overhead",
        "--plots_from",
        "Examples",
    ):
        assert name in said
