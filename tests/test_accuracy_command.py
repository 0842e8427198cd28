"""``prunevid bench accuracy``: its words, its report, plots that come later, and Ctrl-C."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.shapes import accuracy
from prunevid_qwen.evaluation.shapes.accuracy_summary import write_summary
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, methods_called
from prunevid_qwen.moving_shapes.conditions import CONDITIONS

SMALL = [
    "bench", "accuracy", "--quick", "--methods", "prunevid", "--conditions", "plain", "--budgets", "0.25",
    "--questions", "2", "--workers", "1",
]  # fmt: skip


FIND_SPEC = "prunevid_qwen.cli.output.importlib.util.find_spec"


def nothing_found(name: str) -> None:
    """No matplotlib: a plot takes seconds."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, answered; a quick run fits on one video here."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(accuracy.QUICK, "calibration_videos", 1)
        patch.setattr(FIND_SPEC, nothing_found)
        assert main([*SMALL, "--videos", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def words(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same command, into a copy of its folder."""
    monkeypatch.setitem(accuracy.QUICK, "calibration_videos", 1)
    return [*SMALL, "--videos", "2", "--out", str(shutil.copytree(finished, tmp_path / "run"))]


@pytest.fixture
def asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: AccuracyRun, *job: Any) -> Any:
        raise AssertionError(f"done before, and done again: {job}")

    monkeypatch.setattr(accuracy, "calibrate", refuse)
    monkeypatch.setattr(accuracy, "ask", refuse)


class Caught(Exception):
    """Carries the run that a command asks for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    def catch(folder: Path, run: AccuracyRun, *_: Any, **__: Any) -> Path:
        raise Caught(run)

    def run_of(*words: str) -> AccuracyRun:
        with pytest.raises(Caught) as caught:
            main(["bench", "accuracy", "--out", "x", *words])
        run = caught.value.args[0]
        assert isinstance(run, AccuracyRun)
        return run

    monkeypatch.setattr(accuracy, "accuracy_run", catch)
    return run_of


def test_the_command_line_says_what_is_asked(asked: Any) -> None:
    words = ["--methods", "prunevid, stage 1 + random", "--budgets", "0.16,0.1", "--first-seed", "1003500000"]
    run = asked(*words, "--through_files", "--workers", "2", "--quick")
    assert [method.name for method in run.methods] == ["unpruned", "prunevid", "stage 1 + random"]
    assert (run.videos, run.first_seed, run.through_files) == (16, 1003500000, True)
    assert (run.budgets, run.random_seeds, run.calibration_videos) == ((0.16, 0.1), 1, 8)
    assert asked() == AccuracyRun(tuple(methods_called([]))) and set(asked().conditions) == set(CONDITIONS)


@pytest.mark.parametrize(
    "wrong", [["--budgets", "a lot"], ["--videos", "0"], ["--workers", "none"], ["--what"], ["--budgets", "0.1,16%"]]
)
def test_bad_options_exit_with_2(wrong: list[str], tmp_path: Path) -> None:
    assert main(["bench", "accuracy", "--out", str(tmp_path / "x"), *wrong]) == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("asks_nothing")
def test_packed_answers_go_on_and_are_compared(
    words: list[str], finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(words[-1])
    monkeypatch.setattr(FIND_SPEC, nothing_found)
    assert main([*words, "--pack"]) == 0 and not (copy / "answers.jsonl").exists()
    assert (copy / "report.md").is_file() and str(copy / "report.md") in capsys.readouterr().out
    summary = (copy / "summary.json").read_bytes()
    # goes on from what was packed, and has nothing to ask
    assert main([*words, "--pack", "--against", str(finished)]) == 0
    assert (copy / "answers.jsonl.xz").exists() and not (copy / "answers.jsonl").exists()
    assert (copy / "summary.json").read_bytes() == summary == write_summary(copy).read_bytes()
    comparison = (copy / "comparison.md").read_text()
    assert "0 are better, 0 worse" in comparison and comparison in capsys.readouterr().out
    assert main([*words, "--against", str(copy / "nowhere")]) == 2


@pytest.mark.nightly
@pytest.mark.usefixtures("asks_nothing")
def test_without_matplotlib_a_run_is_measured_and_the_plots_come_later(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    copy = Path(words[-1])
    with monkeypatch.context() as bare:
        bare.setattr(FIND_SPEC, nothing_found)
        bare.setitem(sys.modules, "matplotlib", None)
        assert main(words) == 0
    assert "prunevid_qwen[bench]" in capsys.readouterr().err
    assert "<picture>" not in (copy / "report.md").read_text() and not list(copy.glob("*.svg"))
    (copy / "run.json").write_text((copy / "run.json").read_text().replace("code_sha256", "of_other_code"))
    again = ["bench", "accuracy", "--plots_from", str(copy)]  # whatever the code is now
    assert main(again) == 0 and "<picture>" in (copy / "report.md").read_text()
    assert len(list(copy.glob("*.svg"))) == len(list(copy.glob("*.png"))) == 6


def test_who_stops_the_command_reads_how_to_go_on(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(run: AccuracyRun, *job: Any) -> Any:
        raise KeyboardInterrupt

    copy = Path(words[-1])
    monkeypatch.setattr(accuracy, "ask", stop)
    before = (copy / "answers.jsonl").read_bytes()
    assert main([*words, "--videos", "3"]) == 130
    assert str(copy) in capsys.readouterr().err and (copy / "answers.jsonl").read_bytes() == before


def test_a_dry_run_says_how_many_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([*SMALL, "--out", str(out), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "unpruned, prunevid" in said and "{" not in said and not out.exists()
    assert "2 methods x 1 budgets (0.25) x up to 2 questions about each of 16 videos (plain)" in said
    assert str(out) in said
