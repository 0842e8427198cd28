"""The speed benchmark with the vision encoder in it: frames of equal time, figures, pages, the run and the command."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed import encoder_contest
from prunevid_qwen.evaluation.speed.contest import STOCK
from prunevid_qwen.evaluation.speed.encoder_contest import FAST, FEWER_FRAMES, WINDOWS, EncoderContest, frames_at
from prunevid_qwen.evaluation.speed.encoder_findings import FACTS, ROUND, encoder_findings
from prunevid_qwen.evaluation.speed.encoder_page import encoder_part, gains_table
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.speed_findings import MEASUREMENTS, PARTS
from prunevid_qwen.evaluation.speed.speed_page import write_report
from prunevid_qwen.evaluation.speed.speed_run import SpeedRun, speed_run
from prunevid_qwen.evaluation.speed.video_contents import PAN
from prunevid_qwen.evaluation.store import read_lines
from research.encoder_speed_page import CPU, GPU, RECORDING, encoder_speed, encoder_tables
from research.long_video import encoders

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    yield build_model(shape_called("tiny"), torch.device("cpu"), torch.float32, "eager")


# ---- as many frames as take as long


@pytest.mark.parametrize("guess", [2, 8, 16])
@pytest.mark.parametrize(("wanted", "frames"), [(7.2, 8), (0.1, 2), (99.0, 16), (4.9, 4)])
def test_the_frames_are_those_whose_time_is_nearest(guess: int, wanted: float, frames: int) -> None:
    asked: list[int] = []

    def measured(count: int) -> float:
        asked.append(count)
        return float(count)

    found, tried = frames_at(measured, wanted, range(2, 17, 2), guess)
    assert found == frames and len(asked) == len(set(asked))
    assert tried == {each: float(each) for each in asked}


# ---- figures


def seconds(vision: float, decoder: float, stage1: float = 0.0, rest: float = 0.0) -> dict[str, float]:
    return {
        "vision": vision, "decoder": decoder, "stage1": stage1, "stage2": 0.0, "stage3": 0.0, "lm_head": 0.0,
        "layers": decoder - stage1, "rest": rest, "first_token": vision + decoder + rest,
    }  # fmt: skip


def about(vision: int, decoder: int, encoded: float = 1.0, frames: int = 8) -> dict[str, Any]:
    flops = {"vision": vision, "decoder": {"total": decoder}}
    tokens = {"text": 8, "visual": 80, "after_stage1": 80, "after_stage2": 80, "layer_average": 80}
    facts = {"encoded": encoded, "tokens": tokens, "R1": 1.0, "R2": 1.0, "R_layer": 1.0, "flops": flops}
    return {"config": None, "frames": frames, "facts": facts, "memory": {"above": 1}}


def measured_lines(content: Any = 0.5) -> list[dict[str, Any]]:
    variants = {
        STOCK: about(100, 400), "recommended": about(100, 100), FAST: about(50, 100, 0.5),
        FEWER_FRAMES: about(50, 160, frames=4), "broken": {"error": "out of memory"},
    }  # fmt: skip
    times = {
        STOCK: seconds(0.5, 1.0, rest=0.1), "recommended": seconds(0.5, 0.3, 0.02, 0.1),
        FAST: seconds(0.3, 0.3, 0.02, 0.1), FEWER_FRAMES: seconds(0.25, 0.35, rest=0.1),
    }  # fmt: skip
    cell = {"frames": 8, "batch": 1, "content": content}
    chosen = {"frames": 4, "wanted": 0.7, "tried": {"4": 0.7}}
    return [
        {"kind": FACTS, **cell, "chosen": chosen, "variants": variants},
        *[{"kind": ROUND, **cell, "process": 1.0, "times": times}] * 9,
    ]


def test_gains_follow_from_flops_rho_and_shares() -> None:
    (cell,) = encoder_findings(measured_lines())
    assert cell["rounds"] == 9 and cell["chosen"]["frames"] == 4 and cell["noise"] is None
    assert cell["rho"]["median"] == pytest.approx((0.5 / 100) / (1.0 / 400))
    rows = {row["variant"]: row for row in cell["rows"]}
    assert "speedup" not in rows[STOCK] and rows["broken"]["error"] == "out of memory"
    fast = rows[FAST]
    assert fast["speedup"]["first_token"]["median"] == pytest.approx(1.6 / 0.7)
    # half of the encoder's time, a quarter of the decoder's, and the rest as it is
    assert fast["predicted"]["first_token"] == pytest.approx(1.6 / (0.25 + 0.25 + 0.1))
    assert fast["reached"]["first_token"] == pytest.approx((1.6 / 0.7) / (1.6 / 0.6))
    assert fast["speedup"]["vision"]["median"] == pytest.approx(0.5 / 0.3) and fast["predicted"]["vision"] == 2
    assert fast["speedup"]["prefill"]["median"] == pytest.approx(1.0 / 0.28) and fast["predicted"]["prefill"] == 4
    assert fast["over_recommended"]["median"] == pytest.approx(0.7 / 0.9 - 1)
    assert "over_recommended" not in rows["recommended"]
    assert rows["recommended"]["encoder_share"] == pytest.approx(0.5 / 0.9)
    assert (fast["encoded"], rows[FEWER_FRAMES]["frames_shown"]) == (0.5, 4)
    for row in (each for each in cell["rows"] if "error" not in each):
        assert sum(row["ms"][part]["median"] for part in PARTS) == pytest.approx(row["ms"]["first_token"]["median"])


def test_a_gain_is_that_of_neighbours_in_time() -> None:
    lines = measured_lines()
    lines[1:] = [json.loads(json.dumps(line)) for line in lines[1:]]
    for line in lines[6:]:  # the machine becomes ten times slower: medians notice, ratios do not
        line["times"] = {name: {part: 10 * each for part, each in own.items()} for name, own in line["times"].items()}
    (cell,) = encoder_findings(lines)
    fast = next(row for row in cell["rows"] if row["variant"] == FAST)
    assert fast["speedup"]["first_token"]["median"] == pytest.approx(1.6 / 0.7)
    assert cell["noise"] is not None


def test_cells_are_apart_and_one_without_rounds_is_left_out() -> None:
    cells = encoder_findings([*measured_lines(), *measured_lines(PAN), measured_lines(0.0)[0]])
    assert [cell["content"] for cell in cells] == [0.5, PAN] and {cell["rounds"] for cell in cells} == {9}


def test_the_page_has_a_row_for_each_run_and_names_what_did_not_run() -> None:
    cells = encoder_findings([*measured_lines(), *measured_lines(PAN)])
    table = gains_table(cells)
    assert len(table) == 2 + 2 * 4 and all(row.count("|") == table[0].count("|") for row in table)
    assert sum("2.29x" in row and "2.67x" in row for row in table) == 2
    text = json.dumps(encoder_part(cells, {"rho": "r"}))
    assert text.count("out of memory") == 2 and "2.00" in text
    assert encoder_part([], {}) == []


# ---- docs/performance.md and README


def stored(folder: Path) -> None:
    folder.mkdir(parents=True)
    about_run = {
        "command": "the command", "machine": "a machine", "commit": "0" * 40, "uncommitted_changes": False,
        "versions": {"torch": "2"}, "noise": [], "encoder": encoder_findings([*measured_lines(), *measured_lines(PAN)]),
    }  # fmt: skip
    (folder / "efficiency.json").write_text(json.dumps(about_run))


def test_a_result_that_is_missing_is_called_not_run_with_its_command(tmp_path: Path) -> None:
    tables = {name: "\n".join(lines) for name, lines in encoder_tables(tmp_path).items()}
    assert set(tables) == {"encoder", "encoder on a GPU", "recording"}
    for folder in CPU.values():
        assert f"--out eval/results/{folder}" in tables["encoder"]
    assert tables["encoder on a GPU"].count("make gpu-bench") == len(GPU)
    assert RECORDING in tables["recording"] and not any("|" in text for text in tables.values())
    assert "|" not in encoder_speed(tmp_path)


def test_a_result_that_is_there_becomes_a_table(tmp_path: Path) -> None:
    first, *others = CPU.values()
    stored(tmp_path / first)
    tables = encoder_tables(tmp_path)
    text = "\n".join(tables["encoder"])
    assert text.count("| 50 % still |") == 4 and "-22.2 %" in text and "out of memory" in text
    assert all(folder in text for folder in others) and first not in text
    head, _, *rows = encoder_speed(tmp_path).splitlines()
    assert "50 % still" in head and "pan" in head
    assert [row.split("|")[1].strip() for row in rows] == ["`recommended`", "`fast`", "fewer frames"]
    assert "2.29x" in rows[1] and "(4)" in rows[2]


def answered(vision: float, peak: float, share: float | None = None) -> dict[str, Any]:
    receipt: dict[str, Any] = {"seconds": {"vision": vision, "first_token": vision + 2}}
    if share is not None:
        receipt["vision"] = {"share": share}
    memory = {"peak_above_weights_mib": peak, "peak_above_weights_by_section_mib": {"reading and encoding": peak - 1}}
    return {"receipt": receipt, "memory": memory}


def test_an_hour_is_compared_round_by_round(tmp_path: Path) -> None:
    """The machine becomes slower after the first round: the shares do not notice."""
    found = {
        "stock": [answered(40.0, 900.0), answered(80.0, 920.0), answered(80.0, 910.0)],
        FAST: [answered(10.0, 880.0, 0.2), answered(20.0, 890.0, 0.2), answered(20.0, 870.0, 0.2)],
    }
    summary = encoders(found)
    assert summary["stock"]["share"] == summary["stock"]["of_stock"]["median"] == 1
    fast = summary[FAST]
    assert fast["of_stock"] == {"median": 0.25, "low": 0.25, "high": 0.25, "n": 3}
    assert (fast["seconds"]["median"], fast["share"], fast["peak_mib"], fast["encoding_peak_mib"]) == (
        20,
        0.2,
        890,
        889,
    )
    record = {
        "command": "the command", "machine": "a machine", "commit": "0" * 40, "uncommitted_changes": False,
        "versions": {}, "frames": 3600, "encoders": summary,
    }  # fmt: skip
    (tmp_path / RECORDING).write_text(json.dumps(record))
    text = "\n".join(encoder_tables(tmp_path)["recording"])
    assert "25 %" in text and "890 MiB" in text and "20.0 %" in text


# ---- the run and the command

SMALL = SpeedRun(
    shape="tiny", presets=("paper", "recommended"), frames=(8,), grid=(4, 4), new_tokens=2, repeats=1, warmup=0,
    contest=False, still=(0.5,),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "run"
    speed_run(folder, SMALL, command="the command")
    return folder


@pytest.mark.nightly
def test_what_ran_says_what_was_encoded(finished: Path) -> None:
    facts, round_ = read_lines(finished / MEASUREMENTS)
    assert (facts["kind"], round_["kind"]) == (FACTS, ROUND)
    variants = facts["variants"]
    assert list(variants) == [STOCK, "paper", "recommended", *encoder_contest.REUSING, FEWER_FRAMES]
    assert list(round_["times"]) == list(variants)
    encoded = {name: each["facts"]["encoded"] for name, each in variants.items()}
    flops = {name: each["facts"]["flops"]["vision"] for name, each in variants.items()}
    half = (16 + 3 * 8) / 64  # the first of four positions is whole
    for name in encoder_contest.REUSING:
        assert encoded[name] == half
        assert flops[name] < flops["recommended"]
    assert encoded["recommended"] == encoded[STOCK] == 1 and flops["recommended"] == flops[STOCK]
    assert variants[FEWER_FRAMES]["frames"] == facts["chosen"]["frames"] <= 8
    assert str(facts["chosen"]["frames"]) in facts["chosen"]["tried"]


@pytest.mark.nightly
def test_a_run_with_the_encoder_goes_on_with_the_same_frames(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = read_lines(finished / MEASUREMENTS)
    lines[0]["chosen"]["frames"] = 6  # whatever a new search would find
    (folder / "run.json").write_bytes((finished / "run.json").read_bytes())
    (folder / MEASUREMENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown: list[int] = []
    rounds = EncoderContest.rounds

    def noted(self: EncoderContest, count: int) -> Any:
        shown.extend(run.size.frames for run in self.entered if run.name == FEWER_FRAMES)
        return rounds(self, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncoderContest, "rounds", noted)
        speed_run(folder, dataclasses.replace(SMALL, repeats=2))
        assert shown and set(shown) == {6}
        after = read_lines(folder / MEASUREMENTS)
        assert after[:2] == lines and [line["kind"] for line in after] == [FACTS, ROUND, ROUND]
        patch.setattr("prunevid_qwen.evaluation.speed.speed_run.build_model", lambda *_: pytest.fail("all was there"))
        speed_run(folder, dataclasses.replace(SMALL, repeats=2))
    assert read_lines(folder / MEASUREMENTS) == after


@pytest.mark.nightly
def test_the_summary_has_the_encoder_only_where_it_was_measured(finished: Path, tmp_path: Path) -> None:
    summary = write_report(finished)
    assert summary["encoder"] == json.loads((finished / "efficiency.json").read_text())["encoder"]
    assert "encoder, 8 frames, batch 1: fast" in summary["configs"]
    assert "50 % still" in (finished / "report.md").read_text()
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    line = {"kind": "overhead", "shape": "tiny", "prompt_tokens": 1, "new_tokens": 1, "pairs": []}
    pair = {
        name: {"first_token": 1.0, "decode_per_token": 1.0, "end_to_end": 1.0} for name in (STOCK, "keep everything")
    }
    (tmp_path / MEASUREMENTS).write_text(json.dumps({**line, "pairs": [pair]}) + "\n")
    assert not {"encoder", "encoder_definitions"} & set(write_report(tmp_path))


def test_windows_in_batches_are_measured_apart_where_they_pay(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    size = PromptSize(2, 4, 4, 12)
    assert WINDOWS not in [run.name for run in EncoderContest(model, size, PAN, ("paper",)).entered]
    monkeypatch.setattr(encoder_contest, "STACKED_ON", ("cpu",))
    contest = EncoderContest(model, size, PAN, ("paper",))
    assert [run.name for run in contest.entered][:2] == [STOCK, WINDOWS]
    seen = []
    attention = model.model.visual.blocks[0].attn
    hook = attention.register_forward_pre_hook(lambda module, _args: seen.append("forward" in vars(module)))
    contest.entered = contest.entered[:2]
    assert [set(each) for each in contest.rounds(1)] == [{STOCK, WINDOWS}]
    hook.remove()
    assert seen == [False, True] and "forward" not in vars(attention)


@pytest.mark.parametrize(
    ("words", "still", "pan"),
    [
        ("--only encoder", [0.0, 0.5, 0.8], True),
        ("--only encoder --still 0.3", [0.3], False),
        ("--only encoder --pan", [], True),
        ("--still 0.3,1 --pan", [0.3, 1.0], True),
        ("", [], False),
    ],
)
def test_the_command_measures_the_contents_that_were_named(
    words: str, still: list[float], pan: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "speed", "--shape", "tiny", "--device", "cpu", "--dry_run", "--json", *words.split()]) == 0
    run = json.loads(capsys.readouterr().out)
    assert (list(run["still"]), run["pan"], run["contest"]) == (still, pan, "--only" not in words)


@pytest.mark.parametrize("words", ["--still 1.5", "--still 0.5,0.5", "--still much", "--pan --video generated"])
def test_contents_that_cannot_be_are_refused(words: str, tmp_path: Path) -> None:
    given = ["bench", "speed", "--shape", "tiny", "--device", "cpu", "--out", str(tmp_path / "run"), *words.split()]
    assert main(given) == ConfigError.exit_code
    assert not (tmp_path / "run").exists()


def test_the_command_for_a_gpu_runs_options_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("gpu_bench", ROOT / "tools" / "gpu_bench.py")
    assert spec is not None and spec.loader is not None
    gpu_bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_bench)
    runs, without = gpu_bench.commands(tmp_path, ["--restart"])
    assert len(runs) + len(without) == len(gpu_bench.PARTS)
    assert {part.folder for part in gpu_bench.PARTS} >= set(GPU.values())
    for _, script, *words in runs:
        assert Path(script).is_file()
        assert words[words.index("--device") + 1] == "cuda"
        words[words.index("--device") + 1] = "cpu"
        assert main(["bench", "speed", *words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "7b" in said and "3b" in said
