"""The report and the plots of a hand-made run: what they say, that they say it twice alike, and what is missing."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.report.plots import spread
from prunevid_qwen.evaluation.shapes.accuracy_page import points, report, write_report
from prunevid_qwen.evaluation.shapes.accuracy_summary import read_answers, read_run, summarise

from .accuracy_folders import small_run, write_run

COMMITTED = Path(__file__).resolve().parents[1] / "eval" / "results" / "moving_shapes"


def tables(summary, heading):
    """The lines of the tables below a heading of the report, with the minus that a keyboard has."""
    section = report(summary).partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line.replace("\N{MINUS SIGN}", "-") for line in section.splitlines() if line.startswith("|")]


@pytest.fixture
def summary(tmp_path):
    folder = write_run(tmp_path, *small_run())
    return summarise(read_answers(folder), read_run(folder))


@pytest.mark.nightly
def test_the_report_is_written_twice_alike(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra `bench`")
    first, second = (write_run(tmp_path / name, *small_run()) for name in ("first", "second"))
    assert write_report(first) == first / "report.md"
    write_report(second)
    plots = {f"{name}_{theme}.{kind}" for name in ("accuracy", "evidence", "types") for theme in ("light", "dark")
             for kind in ("svg", "png")}  # fmt: skip
    files = {path.name for path in first.iterdir()}
    assert files == plots | {"report.md", "summary.json", "answers.jsonl", "run.json"}
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    text = (first / "report.md").read_text()
    assert all(f'"{name}"' in text for name in plots if name.endswith("svg")), "a plot that the report does not show"
    assert (first / "accuracy_light.svg").read_bytes() != (first / "accuracy_dark.svg").read_bytes()


def test_the_committed_page_follows_from_its_summary():
    summary = json.loads((COMMITTED / "summary.json").read_text())
    assert report(summary) == (COMMITTED / "report.md").read_text()


@pytest.mark.nightly
def test_the_committed_summary_follows_from_its_answers():
    found = json_text(summarise(read_answers(COMMITTED), read_run(COMMITTED)), sort_keys=True, ascii_alone=True)
    assert found == (COMMITTED / "summary.json").read_text()


def test_the_judged_are_set_against_unpruned_each_other_and_the_controls(summary):
    assert tables(summary, "What it says") == [
        "| at | method | against | difference | questions | on |",
        "|---|---|---|---|---|---|",
        "| 16 % | prunevid | unpruned | +0.0 [+0.0, +0.0] | 48 | plain, shake |",
        "| 16 % | prunevid | random | **+66.7** [+66.7, +66.7] | 48 | plain, shake |",
        "| 16 % | prunevid | fewer frames | -4.2 [-12.5, +0.0] | 24 | plain |",
        "| 10 % | prunevid | unpruned | **-16.7** [-16.7, -16.7] | 48 | plain, shake |",
    ]


def test_the_tables_mark_what_is_partial_or_out_of_reach(summary):
    table = {row.split(" | ")[0].removeprefix("| "): row for row in tables(summary, "Accuracy")}
    assert table["method"] == "| method | 16 % | 10 % |"
    assert table["prunevid"] == "| prunevid | 83.3<br>+0.0 [+0.0, +0.0] | 66.7<br>**-16.7** [-16.7, -16.7] |"
    assert table["fewer frames"] == "| fewer frames | 87.5 †<br>+4.2 [+0.0, +12.5] |  |"
    assert table["stage 2"] == "| stage 2 | unreachable |  |"
    assert "| fewer frames | \N{EN DASH} |  |" in tables(summary, "Evidence recall")
    assert tables(summary, "Out of reach")[2:] == [
        "| fewer frames | shake | 16 % | no such number of frames |",
        "| stage 2 | plain | 16 % | layer 0 of 2 runs whole: at least 50 % |",
        "| stage 2 | shake | 16 % | layer 0 of 2 runs whole: at least 50 % |",
    ]


WITH_ANSWERS = ("What it says", "Accuracy", "By type of question, way of asking and condition", "Evidence recall")


@pytest.mark.parametrize("accuracy", [0.9599, 0.96])
def test_a_model_that_knows_plain_videos_badly_is_said_to_be_weak_beside_every_table(accuracy, summary):
    summary["figures"]["unpruned"]["by_condition"]["plain"]["accuracy"] = accuracy
    for heading in WITH_ANSWERS:
        section = report(summary).partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert ("This toy is weak" in section) == (accuracy < 0.96), heading


@pytest.mark.parametrize(
    ("model", "family", "said"),
    [
        ("bundled", "Qwen2.5-VL", "the bundled model under"),
        ("bundled-qwen3vl", "Qwen3-VL", "the bundled model of Qwen3-VL (`bundled-qwen3vl`) under"),
        ("runs/mine", "Qwen3-VL", "the model in `runs/mine` under"),
    ],
)
def test_the_report_names_the_model_and_its_family(model, family, said, summary):
    summary["run"] |= {"options": {"model": model}, "family": family}
    assert said in report(summary) and f"accuracy of {family}**" in report(summary)


def test_the_report_says_what_was_run(summary):
    text = report(summary)
    for said in ("python eval/moving_shapes.py --videos 8", "0123abc", '{"torch": "2.13.0"}', "says nothing about"):
        assert said in text
    assert "minutes" not in text


def test_without_matplotlib_the_summary_is_kept_and_the_report_shows_no_plots(tmp_path, monkeypatch):
    folder = write_run(tmp_path, *small_run())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SetupError, match=r"prunevid_qwen\[bench\]"):
        write_report(folder)
    assert (folder / "summary.json").exists() and not (folder / "report.md").exists()
    text = write_report(folder, plots=False).read_text()
    assert "<picture>" not in text and "## Accuracy" in text


def test_points_have_a_sign_and_a_true_minus():
    assert (points(0.0123), points(-0.5), points(0.0)) == ("+1.2", "\N{MINUS SIGN}50.0", "+0.0")


@pytest.mark.parametrize("wanted", [[], [5.0], [1.0, 1.0, 1.0], [9.0, 0.0, 0.5, 8.8, 9.1], [3.0, 2.9, 7.0]])
def test_labels_keep_apart_in_order_and_inside(wanted):
    places = spread(wanted, 1.0, 0.0, 10.0)
    ranked = sorted(places)
    assert all(after - before >= 1 - 1e-9 for before, after in pairwise(ranked))
    assert all(-1e-9 <= place <= 10 + 1e-9 for place in places)
    for i, a in enumerate(wanted):
        assert all(places[i] < places[j] for j, b in enumerate(wanted) if a < b)


def test_labels_with_room_stay_where_they_belong_and_crowds_stay_centred():
    assert spread([7.0, 2.0], 1.0, 0.0, 10.0) == [7.0, 2.0]
    assert spread([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == [4.0, 5.0, 6.0]
    assert spread([1.0] * 11, 5.0, 0.0, 10.0) == pytest.approx(list(range(11)))
