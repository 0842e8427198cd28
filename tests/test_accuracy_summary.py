"""From hand-made answers to figures: what each must be is known beforehand."""

from __future__ import annotations

import json
import random

import pytest

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.accuracy_summary import (
    BETTER,
    NOISE,
    WORSE,
    CellName,
    compare,
    read_answers,
    read_run,
    summarise,
    write_summary,
)
from prunevid_qwen.evaluation.shapes.comparison_page import compare_folders

from .accuracy_folders import line, small_run, write_run


def summary_of(folder, lines, run):
    write_run(folder, lines, run)
    return summarise(read_answers(folder), read_run(folder))


def found(summary, method, budget):
    return next(c for c in summary["figures"]["cells"] if (c["method"], c["budget"]) == (method, budget))


@pytest.fixture
def summary(tmp_path):
    return summary_of(tmp_path, *small_run())


def test_figures_of_the_whole_run(summary):
    figures = summary["figures"]
    assert (figures["questions"], figures["videos"]) == (48, 8)
    assert figures["conditions"] == {name: {"questions": 24, "videos": 4} for name in ("plain", "shake")}
    unpruned = figures["unpruned"]
    assert unpruned["accuracy"] == round(5 / 6, 4) and unpruned["difference_interval"] == [0, 0]
    assert unpruned["evidence"]["recall"] == 1.0
    assert figures["blank"]["accuracy"] == round(1 / 6, 4) and figures["blank"]["evidence"] is None
    assert not {"blank", "unpruned"} & {cell["method"] for cell in figures["cells"]}


def test_the_same_answers_differ_by_exactly_nothing(summary):
    cell = found(summary, "prunevid", 0.16)
    assert cell["difference"] == 0 and cell["difference_interval"] == [0, 0]
    assert (cell["achieved"], cell["retained"], cell["n"], cell["videos"]) == (0.16, 0.08, 48, 8)
    assert cell["evidence"]["recall"] == 0.24 and cell["evidence"]["kept"] == 0.08
    assert cell["config"] == {"plain": {"keep_ratio": 0.16}, "shake": {"keep_ratio": 0.16}}


def test_groups_hold_what_belongs_to_them(summary):
    cell = found(summary, "prunevid", 0.1)
    assert cell["difference"] == round(-1 / 6, 4)
    assert {kind: row["difference"] for kind, row in cell["by_type"].items()} == {"color": 0, "count": 0, "last": -0.5}
    assert cell["by_way"]["one word"]["accuracy"] == round(2 / 3, 4) == cell["by_way"]["multiple choice"]["accuracy"]
    assert cell["by_way"]["one word"]["difference"] == round(-1 / 3, 4)
    assert cell["by_way"]["multiple choice"]["n"] == 24 and cell["by_condition"]["plain"]["videos"] == 4


def test_random_seeds_are_averaged_within_a_question(summary):
    cell = found(summary, "random", 0.16)
    assert cell["n"] == 48 and cell["random_seeds"] == 3
    assert cell["accuracy"] == round(1 / 6, 4)  # a third of half the questions, in every video: no spread at all
    assert cell["accuracy_interval"] == [round(1 / 6, 4)] * 2


def test_a_cell_out_of_reach_in_part_is_compared_on_the_rest(summary):
    cell = found(summary, "fewer frames", 0.16)
    assert cell["unreached"] == {"shake": "no such number of frames"} and list(cell["by_condition"]) == ["plain"]
    assert (cell["n"], cell["videos"], cell["evidence"], cell["retained"]) == (24, 4, None, None)
    assert cell["difference"] == round(1 / 24, 4)
    unreachable = [(c["method"], c["condition"]) for c in summary["figures"]["unreachable"]]
    assert unreachable == [("fewer frames", "shake"), ("stage 2", "plain"), ("stage 2", "shake")]
    assert not [c for c in summary["figures"]["cells"] if c["method"] == "stage 2"]


def test_pairs_set_the_judged_against_all_at_their_budget(summary):
    pairs = {(p["method"], p["against"], p["budget"]): p for p in summary["figures"]["pairs"]}
    assert set(pairs) == {("prunevid", "random", 0.16), ("prunevid", "fewer frames", 0.16)}
    assert pairs["prunevid", "random", 0.16]["difference"] == round(4 / 6, 4)
    frames = pairs["prunevid", "fewer frames", 0.16]
    assert frames["difference"] == round(-1 / 24, 4) and frames["conditions"] == ["plain"] and frames["n"] == 24


def test_the_bytes_do_not_depend_on_order_packing_or_time(tmp_path):
    lines, run = small_run()
    first = write_summary(write_run(tmp_path / "a", lines, run)).read_bytes()
    random.Random(1).shuffle(lines)
    run["cells"].reverse()
    run = {**dict(reversed(run.items())), "minutes": 99}
    second = write_summary(write_run(tmp_path / "b", lines, run, packed=True)).read_bytes()
    assert first == second and b"minutes" not in first
    assert json.loads(first)["run"]["commit"] == "0123abc"


def test_one_video_has_figures_and_no_interval(tmp_path):
    lines, run = small_run(videos=1)
    run["cells"] = [cell for cell in run["cells"] if cell["condition"] == "plain"]
    cell = found(summary_of(tmp_path, lines, run), "prunevid", 0.1)
    assert cell["difference"] == round(-1 / 6, 4) and cell["difference_interval"] is None


def drop(lines, method, question=None):
    return [x for x in lines if x["method"] != method or (question is not None and x["question"] != question)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: drop(lines, "unpruned"), "no unpruned answers"),
        (lambda lines: drop(lines, "random"), "random at 16% has no answer to 24 questions in plain"),
        (lambda lines: drop(lines, "random", 4), "24 missing"),
        (lambda lines: [*lines, lines[0]], "a second time"),
        (lambda lines: [*lines, line(0, 0, "other", 0.16, True, text="Why?")], "worded otherwise"),
        (lambda lines: lines[:4] + lines[5:], "1 missing"),
        (lambda lines: [*lines, {"seed": 1}], "is no answer"),
        (lambda lines: [], "no unpruned answers"),
    ],
)
def test_what_is_not_a_whole_run_is_refused(tmp_path, change, complaint):
    lines, run = small_run()
    with pytest.raises(ConfigError, match=complaint):
        summary_of(tmp_path, change(lines), run)


def test_a_line_torn_by_a_kill_is_named(tmp_path):
    lines, run = small_run()
    folder = write_run(tmp_path, lines, run)
    with (folder / "answers.jsonl").open("a") as file:
        file.write('{"seed": 3, "cond')
    with pytest.raises(ConfigError, match=f"line {len(lines) + 1} is no answer"):
        read_answers(folder)


@pytest.mark.parametrize("missing", ["run.json", "answers.jsonl"])
def test_a_folder_without_a_run_is_refused(tmp_path, missing):
    folder = write_run(tmp_path, *small_run())
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        write_summary(folder)


def changed_run(right):
    """The small run, with prunevid at 10 % answering question 2 as ``right(seed)`` says."""
    lines, run = small_run()
    for row in lines:
        if (row["method"], row["budget"], row["question"]) == ("prunevid", 0.1, 2):
            row["correct"] = right(row["seed"])
    return lines, run


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(lambda seed: True, BETTER), (lambda seed: seed == 0, NOISE), (lambda seed: False, NOISE)],
)
def test_a_change_is_told_from_noise(tmp_path, right, verdict):
    new = read_answers(write_run(tmp_path / "new", *changed_run(right)))
    old = read_answers(write_run(tmp_path / "old", *small_run()))
    rows = {(row["method"], row["budget"]): row for row in compare(new, old)}
    row = rows["prunevid", 0.1]
    assert row["verdict"] == verdict and row["n"] == 48 and row["same_cost"]
    assert row["difference"] == round(sum(right(seed) for seed in range(8)) / 48, 4)
    together = rows["prunevid", "all"]
    assert together["n"] == 96 and together["difference"] == pytest.approx(row["difference"] / 2, abs=1e-4)
    back = {(r["method"], r["budget"]): r for r in compare(old, new)}["prunevid", 0.1]
    assert back["difference"] == -row["difference"] and back["verdict"] == (WORSE if verdict == BETTER else NOISE)
    assert {row["verdict"] for key, row in rows.items() if key[0] != "prunevid"} == {NOISE}


def test_only_common_questions_are_compared(tmp_path):
    new = read_answers(write_run(tmp_path / "new", *small_run(videos=4)))
    old = read_answers(write_run(tmp_path / "old", *small_run()))
    rows = {(row["method"], row["budget"]): row for row in compare(new, old)}
    assert rows["prunevid", 0.16]["n"] == 24 and rows["fewer frames", 0.16]["n"] == 12
    assert rows["unpruned", None]["verdict"] == NOISE


def test_the_comparison_in_words(tmp_path):
    lines, run = changed_run(lambda seed: True)
    for row in lines:
        if row["method"] == "random":
            row["layer_average"] = 0.2
    new = write_run(tmp_path / "new", lines, {**run, "commit": "ffff", "versions": {"torch": "2.14.0"}})
    text = compare_folders(new, write_run(tmp_path / "old", *small_run(), packed=True))
    assert "# new against old" in text
    assert "1 are better, 0 worse, 5 within noise" in text and "1 do not cost the same" in text
    assert "commit: ffff (baseline 0123abc)" in text and "torch: 2.14.0 (baseline 2.13.0)" in text
    assert "| prunevid | 10 % | 10.0 % | 10.0 % | +16.7 | +16.7 to +16.7 | 48 | **better** |" in text
    assert "| random | 16 % | 20.0 % | 16.0 % * |" in text


def test_runs_about_other_questions_are_not_compared(tmp_path):
    lines, run = small_run()
    old = read_answers(write_run(tmp_path / "old", lines, run))
    elsewhere = [{**row, "seed": row["seed"] + 100} for row in lines]
    with pytest.raises(ConfigError, match="no common question"):
        compare(read_answers(write_run(tmp_path / "elsewhere", elsewhere, run)), old)
    reworded = [{**row, "text": "Why?"} for row in lines]
    with pytest.raises(ConfigError, match="the same --questions"):
        compare(read_answers(write_run(tmp_path / "reworded", reworded, run)), old)


def test_cells_are_named_as_people_say_them():
    assert str(CellName("prunevid", 0.16)) == "prunevid at 16%" and str(CellName("unpruned", None)) == "unpruned"
