"""Two toys side by side: opposite orders are found, every table names a weak toy, empty frames' text is weighed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.evaluation.shapes.accuracy_summary import CellName, read_answers, write_summary
from research.empty_frames_answers import (
    BUDGET,
    DROPPED,
    METHODS,
    SECOND_TOY,
    empty_frames_run,
    summarise_empty_frames,
    summary_of,
    text_tokens,
)
from research.toys import FOLDERS, compare_toys
from research.toys_page import ACCURACY, EMPTY_FRAMES, SHOWN_BUDGETS, toys_tables
from tests.accuracy_folders import cell, line, small_run, write_run

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).resolve().parents[2]


def turned(row: dict[str, Any]) -> dict[str, Any]:
    """An answer of the second toy, where random at 16 % is always right and prunevid seldom."""
    if row["budget"] != 0.16 or row["method"] not in ("random", "prunevid"):
        return row
    return {**row, "correct": row["method"] == "random" or row["question"] == 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    results = tmp_path_factory.mktemp("results")
    lines, run = small_run()
    made = []
    for name, own in zip(FOLDERS, (lines, [turned(row) for row in lines]), strict=True):
        options = {**run["options"], "model_sha256": name}
        made.append(write_run(results / name, own, {**run, "options": options, "family": f"of {name}"}))
    return made


def test_opposite_orders_are_those_that_both_toys_decide(folders: list[Path]) -> None:
    first, second = map(read_answers, folders)
    found = compare_toys(first, second)
    at_16 = next(row for row in found["pairs"] if row["budget"] == 0.16)
    # prunevid, random and fewer frames, which is right where prunevid is on the first toy and once more
    assert at_16 == {
        "budget": 0.16, "compared": 3, "same": 0, "opposite": 2, "first": 0, "second": 1, "neither": 0,
    }  # fmt: skip
    other, swap = sorted(found["swaps"], key=lambda row: row["method"])
    assert (other["method"], other["other"], other["conditions"]) == ("fewer frames", "random", ["plain"])
    assert (swap["budget"], swap["method"], swap["other"]) == (0.16, "prunevid", "random")
    assert swap["first"] == pytest.approx(4 / 6, abs=1e-4) and swap["second"] == pytest.approx(-5 / 6, abs=1e-4)
    lost = {(row["method"], row["budget"]): row for row in found["losses"]}
    row = lost["prunevid", 0.16]
    assert (row["first"], row["second"], row["between"]) == pytest.approx((0, -4 / 6, -4 / 6), abs=1e-4)
    assert lost["prunevid", 0.1]["between"] == 0
    assert compare_toys(first, first)["swaps"] == []


def test_other_questions_are_refused(folders: list[Path]) -> None:
    first, second = map(read_answers, folders)
    other = {
        name: {question: each._replace(wording=("other", *each.wording[1:])) for question, each in own.items()}
        for name, own in second.items()
    }
    with pytest.raises(ValueError, match="same questions"):
        compare_toys(first, other)


def results_of(folders: list[Path], tmp_path: Path, second_plain: float | None) -> Path:
    """A folder like eval/results, with everything that the page reads."""
    for folder in folders:
        (tmp_path / folder.name).symlink_to(folder)
        write_summary(folder)
    for name, accuracy in zip(ACCURACY, (0.99, second_plain), strict=True):
        if accuracy is not None:
            record = {"accuracy": {"both": {"all": {"accuracy": accuracy, "interval": [accuracy - 0.01, accuracy]}}}}
            (tmp_path / name).write_text(json.dumps(record))
    (tmp_path / "toys").mkdir()
    summary = {"figures": compare_toys(*map(read_answers, folders))}
    (tmp_path / "toys" / "summary.json").write_text(json.dumps(summary))
    return tmp_path


@pytest.mark.parametrize(("plain", "said"), [(0.95, "This toy is weak"), (0.97, ""), (None, "is not known")])
def test_every_table_says_whether_the_second_toy_is_weak(
    plain: float | None, said: str, folders: list[Path], tmp_path: Path
) -> None:
    tables = toys_tables(results_of(folders, tmp_path, plain))
    about = [name for name in tables if name != "toys empty frames"]
    for name in about:
        weak = [phrase for phrase in ("This toy is weak", "is not known") if phrase in tables[name]]
        assert weak == ([said] if said else []), name
    assert "| 16 % | prunevid | random | **+66.7** " in tables["toys swaps"]
    curves = [row for row in tables["toys curves"].splitlines() if row.startswith("| prunevid |")]
    assert curves and "83.3 / 16.7" in curves[0]
    shown = tables["toys presets"].splitlines()
    assert len([row for row in shown if row.startswith("|")]) == 2 + 2 * len(SHOWN_BUDGETS)
    assert "of moving_shapes_qwen3vl" in tables["toys"]


def test_without_results_every_table_says_how_they_are_made(tmp_path: Path) -> None:
    tables = toys_tables(tmp_path)
    assert set(tables) == set(toys_tables(ROOT / "eval" / "results"))
    assert all("prunevid bench accuracy --model_path bundled-qwen3vl" in text for text in tables.values())


# ---- empty frames


def test_each_method_is_asked_with_the_text_of_empty_frames_and_without_it() -> None:
    run = empty_frames_run(4)
    names = {method.name: method for method in run.methods}
    assert run.model == SECOND_TOY and run.budgets == (BUDGET,)
    for name in METHODS:
        kept, dropped = names[name], names[f"{name}{DROPPED}"]
        assert dropped.options == {**kept.options, "reading.drop_empty_frames": True} and kept.levers == dropped.levers


def test_what_dropping_the_text_costs_is_paired_by_question(tmp_path: Path) -> None:
    lines, cells = [], []
    for seed in range(8):
        for question in range(4):
            for method, budget, right, text in (
                ("unpruned", None, True, 90.0),
                ("recommended", BUDGET, question < 3, 90.0),
                (f"recommended{DROPPED}", BUDGET, question < 2, 60.0 + seed),
            ):
                lines.append(line(seed, question, method, budget, right, text_tokens=text))
    for name, budget in (("unpruned", None), ("recommended", BUDGET), (f"recommended{DROPPED}", BUDGET)):
        cells += [cell(name, budget, condition) for condition in ("plain", "shake")]
    record = {"cells": cells, "options": {"model_sha256": "abc"}, "commit": "0123abc"}
    folder = write_run(tmp_path / EMPTY_FRAMES, lines, record)
    text = text_tokens(folder / "answers.jsonl")
    assert text[CellName(f"recommended{DROPPED}", BUDGET)] == 63.5
    summary = summarise_empty_frames(read_answers(folder), text, record)
    row = summary["figures"]["methods"]["recommended"]
    assert (row["accuracy"], row["difference"], row["text_kept"], row["text_dropped"]) == (0.75, -0.25, 90.0, 63.5)
    assert row["difference_interval"] == [-0.25, -0.25] and row["n"] == 32 and row["videos"] == 8
    (folder / "summary.json").write_text(json.dumps(summary))
    table = toys_tables(tmp_path)["toys empty frames"]
    assert "| recommended | 75.0 % | **\N{MINUS SIGN}25.0** " in table and "| 90.0 | 26.5 |" in table
    assert "0123abc" in table and "is not known" in table


# ---- what is committed follows from its answers


def test_the_committed_comparison_follows_from_the_answers() -> None:
    results = ROOT / "eval" / "results"
    stored = json.loads((results / "toys" / "summary.json").read_text(encoding="utf-8"))["figures"]
    found = compare_toys(*(read_answers(results / name) for name in FOLDERS))
    assert json.loads(json.dumps(found)) == stored


def test_the_committed_figures_of_empty_frames_follow_from_the_answers(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "eval" / "results" / EMPTY_FRAMES, tmp_path / "run"))
    stored = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(summary_of(folder))) == stored
