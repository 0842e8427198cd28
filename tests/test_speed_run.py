"""The speed benchmark from the command to the report: resuming, refusals, the files' fields, plots, errors."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK, Contest
from prunevid_qwen.evaluation.speed.speed_findings import MEASUREMENTS
from prunevid_qwen.evaluation.speed.speed_page import write_report
from prunevid_qwen.evaluation.speed.speed_run import SpeedRun, speed_run
from prunevid_qwen.evaluation.store import read_lines

SMALL = SpeedRun(shape="tiny", presets=("paper",), frames=(4,), grid=(4, 4), new_tokens=3, repeats=1, warmup=0)


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


@pytest.mark.nightly
def test_a_run_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    folder = copy_of(finished, tmp_path / "run")
    before = read_lines(folder / MEASUREMENTS)
    assert [line["kind"] for line in before] == ["facts", "round"]
    with (folder / MEASUREMENTS).open("a", encoding="utf-8") as file:
        file.write('{"kind": "round", "frames": 4, "ba')  # a power cut
    speed_run(folder, SpeedRun(**{**SMALL.__dict__, "repeats": 2}))
    after = read_lines(folder / MEASUREMENTS)
    assert after[:2] == before and [line["kind"] for line in after] == ["facts", "round", "round"]
    monkeypatch.setattr("prunevid_qwen.evaluation.speed.speed_run.build_model", lambda *_: pytest.fail("all was there"))
    speed_run(folder, SpeedRun(**{**SMALL.__dict__, "repeats": 2}))
    assert read_lines(folder / MEASUREMENTS) == after


@pytest.mark.nightly
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
    assert [line["kind"] for line in read_lines(tmp_path / MEASUREMENTS)] == ["facts", "round"]
    assert set(read_lines(tmp_path / MEASUREMENTS)[1]["times"]) == set(turns[:5])


@pytest.mark.nightly
def test_another_run_is_refused_unless_told_to_restart(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "run")
    other = SpeedRun(**{**SMALL.__dict__, "text_tokens": 30})
    with pytest.raises(ConfigError, match=r"text_tokens .*60.*30"):
        speed_run(folder, other)
    speed_run(folder, other, restart=True)
    assert len(read_lines(folder / MEASUREMENTS)) == 2
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"run\.json"):
        speed_run(folder, other)


@pytest.mark.nightly
def test_a_run_on_other_hardware_is_refused_and_keeps_its_lines(finished, tmp_path, monkeypatch):
    folder = copy_of(finished, tmp_path / "run")
    before = (folder / MEASUREMENTS).read_bytes()
    monkeypatch.setattr("prunevid_qwen.evaluation.speed.speed_run.hardware", lambda device: {"device": "another"})
    with pytest.raises(ConfigError, match="hardware"):
        speed_run(folder, SMALL)
    assert (folder / MEASUREMENTS).read_bytes() == before


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
    write_report(folder, plots=True)
    names = {f"{plot}_{theme}.{kind}" for plot in ("time", "parts", "growth")
             for theme in ("light", "dark") for kind in ("svg", "png")}  # fmt: skip
    assert {path.name for path in folder.iterdir() if path.suffix in (".svg", ".png")} == names
    assert all((folder / name).stat().st_size > 1000 for name in names)
    text = (folder / "report.md").read_text()
    assert "parts_light.svg" in text and "power of 1.00" in text


# ---- the command


@pytest.mark.nightly
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
    assert "matplotlib" in said.err and f"--plots_from {finished}" in said.err
    assert "report:" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shape 7bsmall", "7b_small"),
        ("--shape tiny --preset papr", "'paper'"),
        ("--shape tiny --grid 10", "--grid"),
        ("--shape tiny --frames many", "--frames"),
        ("--shape tiny --content busy", "moving"),
        ("--shape tiny --dtype int8", "float32"),
        ("--shape tiny --only speed", "growth"),
        ("--shape tiny --grid 4x4 --frames 4 --batch 2 --video clip.mp4", "--batch"),
        ("--plots_from nowhere", "--device"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words, message, tmp_path, capsys):
    assert main(["bench", "speed", "--device", "cpu", "--out", str(tmp_path / "run"), *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_report_that_is_written_again_reads_no_option_of_a_measurement(tmp_path, capsys):
    nowhere = ["--plots_from", str(tmp_path / "nowhere")]
    assert main(["bench", "speed", *nowhere]) == 2
    assert "nowhere" in capsys.readouterr().err
    for words in ("speed --shape tiny", "speed --quick", "accuracy --videos 3", "accuracy -m x"):
        assert main(["bench", *words.split(), *nowhere]) == 2
        assert "--plots_from" in capsys.readouterr().err


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
