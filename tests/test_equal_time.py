"""Methods at equal time: the draw between two cells has the budget's mean time, and its answers are their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes import equal_time
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run
from prunevid_qwen.evaluation.shapes.accuracy_page import report
from prunevid_qwen.evaluation.shapes.accuracy_summary import CellName, read_answers, read_run, summarise
from prunevid_qwen.evaluation.shapes.equal_time import TIME_BUDGETS, at_equal_time, timed
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, changes, methods_called
from prunevid_qwen.evaluation.shapes.videos import Questioner
from tests.accuracy_folders import small_run, write_run
from tests.accuracy_model import VIDEO, bundled

SECONDS = {
    ("unpruned", None): 2.0, ("blank", None): 2.0, ("prunevid", 0.16): 1.5, ("prunevid", 0.1): 1.1,
    ("random", 0.16): 1.3, ("fewer frames", 0.16): 2.4,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Any) -> tuple[Any, Any]:
    lines, record = small_run()
    for cell in record["cells"]:
        if cell["status"] == "ok":
            cell["seconds"] = SECONDS[cell["method"], cell["budget"]]
    folder = write_run(tmp_path / "run", lines, record)
    return read_answers(folder), record


def test_a_budget_of_time_is_the_mean_of_two_neighbours(run: tuple[Any, Any]) -> None:
    answers, cells = at_equal_time(run[0], run[1]["cells"])
    unpruned, heavy, light = (
        run[0][CellName(*name)] for name in (("unpruned", None), ("prunevid", 0.16), ("prunevid", 0.1))
    )
    for budget in TIME_BUDGETS:
        name = CellName("prunevid", budget)
        if budget < 0.55:  # 1.1 of 2 seconds is its fastest
            assert name not in answers
            continue
        slow, fast, times = (unpruned, heavy, (1.0, 0.75)) if budget >= 0.75 else (heavy, light, (0.75, 0.55))
        for question, mixed in answers[name].items():
            share = (budget - times[1]) / (times[0] - times[1])
            for figure in ("correct", "layer_average", "retained", "kept"):
                wanted = share * getattr(slow[question], figure) + (1 - share) * getattr(fast[question], figure)
                assert getattr(mixed, figure) == pytest.approx(wanted)
            assert mixed.wording == fast[question].wording
    out = {(each["method"], each["budget"]): each for each in cells if each["condition"] == "plain"}
    assert out["prunevid", 0.5]["status"] == "unreachable" and "55.0" in out["prunevid", 0.5]["why"]
    assert out["prunevid", 0.6]["status"] == "ok"


def test_a_method_that_takes_longer_than_the_whole_is_out_of_reach(run: tuple[Any, Any]) -> None:
    answers, cells = at_equal_time(run[0], run[1]["cells"])
    assert not any(name.method == "fewer frames" for name in answers)
    slow = [each for each in cells if (each["method"], each["condition"]) == ("fewer frames", "plain")]
    assert [each["status"] for each in slow] == ["unreachable"] * len(TIME_BUDGETS)


def test_only_a_timed_run_is_compared_by_time(run: tuple[Any, Any]) -> None:
    answers, record = run
    summary = summarise(answers, record)
    (row,) = [each for each in summary["by_time"]["cells"] if (each["method"], each["budget"]) == ("prunevid", 0.6)]
    assert row["n"] == 48 and row["videos"] == 8 and row["difference"] < 0 and len(row["difference_interval"]) == 2
    assert row["evidence"] and row["by_type"]
    assert "At equal time" in report(summary, plots=False)
    for cell in record["cells"]:
        cell.pop("seconds", None)
    summary = summarise(answers, record)
    assert "by_time" not in summary and "At equal time" not in report(summary, plots=False)


def test_each_reached_cell_is_timed_from_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_time, "ROUNDS", 1)
    asked = Questioner(bundled(), VIDEO, VIDEO.questions(1))
    called: list[Any] = []
    monkeypatch.setattr(bundled().model, "generate", lambda **given: called.append(given))
    whole, half = PruneVidConfig(**ALL_OFF, max_pixels=112 * 112), PruneVidConfig(**ALL_OFF, max_pixels=56 * 56)
    rows = [{"status": "ok", "config": changes(each)} for each in (whole, half, whole)]
    found = timed(asked, [*rows, {"status": "left out", "config": {}}])
    assert ["seconds" in each for each in found] == [True, True, True, False]
    assert found[0]["seconds"] == found[2]["seconds"], "one config is timed once"
    sizes = [given["pixel_values_videos"].shape[0] for given in called]
    assert len(sizes) == 4 and sizes[0] == 4 * sizes[1], "two rounds of two configs, from the pixels of each"


def test_a_run_by_time_is_another_run() -> None:
    methods = tuple(methods_called(["unpruned"]))
    assert "by" not in AccuracyRun(methods).to_dict() and AccuracyRun(methods, by="time").to_dict()["by"] == "time"
    with pytest.raises(ConfigError, match="'speed'"):
        AccuracyRun(methods, by="speed")


def test_a_run_by_time_stores_the_time_of_each_cell_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(equal_time, "ROUNDS", 1)
    few = {"videos": 1, "questions": 1, "calibration_videos": 1}
    run = AccuracyRun(tuple(methods_called(["uniform"])), (0.25,), ("plain",), by="time", **few)
    told: list[tuple[str, int, int]] = []

    def ask() -> list[Any]:
        told.clear()
        accuracy_run(tmp_path, run, 1, progress=lambda *what: told.append(what))
        return read_run(tmp_path)["cells"]

    cells = ask()
    assert ("timing", 1, 1) in told and all(cell["seconds"] > 0 for cell in cells)
    assert [cell["method"] for cell in cells] == ["unpruned", "uniform"]
    assert ask() == cells and ("timing", 0, 1) not in told, "what is timed is not timed again"
