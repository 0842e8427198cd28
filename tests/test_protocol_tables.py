"""Stored lines to figures, counted by hand; parts never look like wholes; order and files do not matter."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.protocol.protocol import protocol_named
from prunevid_qwen.evaluation.protocol.score_summary import ALL, MEAN, Manifest, join, summarise
from prunevid_qwen.evaluation.protocol.score_tables import markdown_text, warnings_of
from prunevid_qwen.evaluation.report.intervals import mean_of_strata, standard_error
from prunevid_qwen.evaluation.report.page import csv_text, flat, json_text
from prunevid_qwen.evaluation.store import read_lines
from prunevid_qwen.evaluation.tasks.benchmark_tables import official_text

PROTOCOL = protocol_named("lmms", "videomme")
OPTIONS = ("one", "two", "three", "four")
# id, duration, task_type, truth; Multilingual is a domain and a sub-category
QUESTIONS = [("001-1", "short", "OCR", "A"), ("001-2", "short", "OCR", "B"), ("002-1", "short", "Count", "C"),
             ("003-1", "medium", "OCR", "D"), ("004-1", "medium", "Count", "A"), ("005-1", "long", "Count", "B"),
             ("006-1", "long", "OCR", "C")]  # fmt: skip
RECORDS = [
    Record(id, (), f"q{id}?", OPTIONS, truth, {"duration": duration, "domain": "Multilingual",
           "sub_category": "Multilingual", "task_type": task, "video": f"yt{id[:3]}"})
    for id, duration, task, truth in QUESTIONS
]  # fmt: skip
MANIFEST = Manifest.of(RECORDS, "videomme", "duration", None)
ANSWERS = {
    "baseline": ["A", "B", "C", "D", "A", "A", ""],  # 5 of 7: short 3/3, medium 2/2, long 0/2
    "paper": ["A", "Answer: A", "(C)", "four", "c", "B", "one of them"],  # A, C, D, B: short 2/3, medium 1/2, long 1/2
}


def line(config: str, record: Record, raw: str | None, **more: Any) -> dict[str, Any]:
    return {"id": record.id, "config": config, "raw": raw, "answer": record.answer, "options": list(record.options),
              "groups": dict(record.groups), "error": None, **more}  # fmt: skip


LINES = [line(config, *pair) for config, raws in ANSWERS.items() for pair in zip(RECORDS, raws, strict=True)]


def row_of(summary: dict[str, Any], config: str, axis: str, group: str | None = None) -> dict[str, Any]:
    (found,) = [
        row
        for row in summary["rows"]
        if (row["config"], row["axis"]) == (config, axis) and group in (None, row["group"])
    ]
    return found


def test_micro_macro_and_groups_by_hand() -> None:
    summary = summarise(LINES, MANIFEST, PROTOCOL)
    assert summary["configs"] == ["baseline", "paper"]
    whole = row_of(summary, "paper", ALL)
    assert (whole["score"], whole["answered"], whole["samples"], whole["partial"]) == (4 / 7, 7, 7, False)
    assert whole["unparsed_rate"] == whole["error_rate"] == 0  # "one of them" names an option, if a wrong one
    assert row_of(summary, "baseline", ALL)["unparsed_rate"] == 1 / 7
    mean = row_of(summary, "paper", MEAN)
    assert mean["score"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3) and mean["groups"] == mean["of_groups"] == 3
    assert row_of(summary, "paper", "task_type", "OCR")["score"] == 2 / 4
    assert row_of(summary, "paper", "domain", "Multilingual")["samples"] == 7
    assert row_of(summary, "paper", "sub_category", "Multilingual")["samples"] == 7
    assert row_of(summary, "baseline", "duration", "long")["score"] == 0
    assert row_of(summary, "baseline", ALL)["difference"] is None
    order = [(row["axis"], row["group"]) for row in summary["rows"]][::2]
    assert order[:5] == [(ALL, "all questions"), (MEAN, "duration"), ("duration", "short"), ("duration", "medium"),
                         ("duration", "long")]  # fmt: skip


def test_the_difference_is_paired_and_its_errors_are_of_videos() -> None:
    row = row_of(summarise(LINES, MANIFEST, PROTOCOL), "paper", ALL)
    differences, videos = [0, -1, 0, 0, -1, 1, 0], [record.groups["video"] for record in RECORDS]
    assert row["difference"]["value"] == pytest.approx(-1 / 7) and row["difference"]["pairs"] == 7
    assert row["difference"]["standard_error"] == pytest.approx(standard_error(differences, videos))
    low, high = row["difference"]["interval"]
    assert -1 < low < -1 / 7 < high < 1
    mean = row_of(summarise(LINES, MANIFEST, PROTOCOL), "paper", MEAN)["difference"]
    assert mean["value"] == pytest.approx((-1 / 3 - 1 / 2 + 1 / 2) / 3)
    assert mean["interval"][1] - mean["value"] == pytest.approx(1.96 * mean["standard_error"])
    assert row["standard_error"] == pytest.approx(standard_error([1, 0, 1, 1, 0, 1, 0], videos))


def test_standard_error_of_a_mean_of_strata() -> None:
    # two strata that share their videos: what is right in one is wrong in the other, and the mean never moves
    found = mean_of_strata([1, 0, 0, 1], ["a", "a", "b", "b"], ["v", "w", "v", "w"])
    assert (found.value, found.standard_error) == (0.5, 0.0)
    # apart: sum over videos of (deviation / (n_g * G))^2 = 4 * (.5/4)^2, times 4/3
    found = mean_of_strata([1, 0, 0, 1], ["a", "a", "b", "b"], ["v", "w", "x", "y"])
    assert found.standard_error == pytest.approx(math.sqrt(4 / 3 * 4 * (0.5 / 4) ** 2))
    assert mean_of_strata([1, 0, 1], ["a", "a", "b"], ["v", "w", "x"]).standard_error is None
    for values in ([1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]):
        videos = ["v", "v", "w", "x"]
        found = mean_of_strata(values, [""] * 4, videos)
        assert found.standard_error == pytest.approx(standard_error(values, videos))
    with pytest.raises(ValueError, match="at least one"):
        mean_of_strata([], [], [])


def test_columns_of_other_harnesses() -> None:
    columns = row_of(summarise(LINES, MANIFEST, PROTOCOL), "paper", ALL)["columns"]
    # official: A, A, C, left out, left out, B, left out
    assert columns["official"] == {"score": 3 / 4, "counted": 4, "drawn_rate": 0.0}
    assert columns["lmms"] == {"score": 3 / 7, "counted": 7, "drawn_rate": 0.0}
    ego = Manifest.of([replace(r, groups={"part": "subset"}) for r in RECORDS], "egoschema", "part", None)
    lines = [{**each, "groups": {"part": "subset"}} for each in LINES]
    summary = summarise(lines, ego, protocol_named("lmms", "egoschema"))
    drawn = row_of(summary, "baseline", ALL)["columns"]["lmms"]
    assert drawn["drawn_rate"] == 1 / 7 and drawn["score"] == pytest.approx((5 + 1 / 4) / 7)
    assert "(14.3 % drawn)" in markdown_text(summary)


def test_a_partial_run_never_prints_a_plain_score() -> None:
    lines = [each for each in LINES if (each["config"], each["id"]) != ("paper", "004-1")]
    lines = [line("paper", RECORDS[0], None, error="broken") if (e["config"], e["id"]) == ("paper", "001-1") else e
             for e in lines]  # fmt: skip
    summary = summarise(lines, MANIFEST, PROTOCOL)
    row = row_of(summary, "paper", ALL)
    assert (row["score"], row["answered"], row["errors"], row["partial"]) == (3 / 5, 5, 1, True)
    assert row["error_rate"] == 1 / 7 and row["floor"] == 3 / 7 and row["difference"]["pairs"] == 5
    assert row_of(summary, "paper", MEAN)["floor"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    text = markdown_text(summary)
    assert "only 5 of 7 questions were answered (1 errors, 1 not asked)" in text
    assert "60.0 ± 24.5 of 5/7 (42.9 if the rest is wrong)" in text
    for shown in text.splitlines():
        cells = [cell.strip() for cell in shown.strip("|").split("|")]
        if len(cells) == 10 and cells[1] == "paper" and cells[2].split("/")[0] != cells[2].split("/")[1]:
            n_of = f"of {cells[2]}"
            assert all(n_of in cell or "of " in cell for cell in cells[3:8]), cells
        if len(cells) == 6 and cells[0] == "paper":  # overall | mean | short | medium | long
            assert ["of " in cell for cell in cells[1:]] == [True, True, True, True, False]
    assert row_of(summary, "baseline", ALL)["partial"] is False


def test_a_part_of_the_data_set_or_of_its_groups_is_no_whole_either() -> None:
    part = replace(MANIFEST, published=2700)
    summary = summarise(LINES, part, PROTOCOL)
    assert all(row["partial"] for row in summary["rows"])
    assert "holds 7 of the 2700 questions" in warnings_of(summary)[0]
    assert " of 7/7 found" in markdown_text(summary)
    short = [record for record in RECORDS if record.groups["duration"] != "long"]
    summary = summarise([e for e in LINES if e["groups"]["duration"] != "long"],
                        Manifest.of(short, "videomme", "duration", None), PROTOCOL)  # fmt: skip
    mean = row_of(summary, "paper", MEAN)
    assert mean["partial"] and (mean["groups"], mean["of_groups"]) == (2, 3)
    assert mean["floor"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)  # the group that is not there could all be wrong
    assert "of 5/5, 2 of 3 groups" in markdown_text(summary) and "2 of 3 groups" in " ".join(warnings_of(summary))


def test_the_same_lines_give_the_same_bytes_in_any_order_and_from_any_files(tmp_path: Path) -> None:
    stored = [json.dumps({**each, "tokens": 5}) for each in LINES]
    tables = set()
    for seed, workers in ((0, 1), (1, 2), (2, 3), (3, 7)):
        shuffled = [*stored, *stored[:3]]  # a resumed run answered some twice
        random.Random(seed).shuffle(shuffled)
        paths = []
        for worker in range(workers):
            paths.append(tmp_path / f"part-{seed}-{worker}.jsonl")
            torn = '{"id": "00' if worker == 0 else ""
            text = "".join(f"{each}\n" for each in shuffled[worker::workers])
            paths[-1].write_text(text + torn, encoding="utf-8")
        random.Random(seed).shuffle(paths)
        summary = summarise([line for path in paths for line in read_lines(path)], MANIFEST, PROTOCOL)
        tables.add((json_text(summary), csv_text(map(flat, summary["rows"])), markdown_text(summary)))
    assert len(tables) == 1


def test_what_was_answered_twice() -> None:
    first, error = LINES[0], line("baseline", RECORDS[0], None, error="slow")
    other = {**first, "raw": "B"}
    assert join(LINES[::-1]) == join(LINES)
    for lines in ([error, first], [first, error, first]):
        assert join(lines) == ([first], [])
    for lines in ([first, other], [other, first]):
        assert join(lines) == ([first], [("baseline", "001-1")])
    assert "answered more than once, and differently" in markdown_text(summarise([*LINES, other], MANIFEST, PROTOCOL))


def test_csv_and_json_hold_every_row() -> None:
    summary = summarise(LINES, MANIFEST, PROTOCOL)
    rows = list(csv.DictReader(io.StringIO(csv_text(map(flat, summary["rows"])))))
    assert len(rows) == len(summary["rows"]) and float(rows[1]["score"]) == 4 / 7
    assert float(rows[1]["official_score"]) == 0.75 and float(rows[1]["difference"]) == pytest.approx(-1 / 7)
    assert json.loads(json_text(summary)) == json.loads(json.dumps(summary))
    assert Manifest(**json.loads(json_text(summary))["manifest"]) == MANIFEST
    text = markdown_text(summary)
    table = text.split("## By duration")[1].split("## ")[0]
    rows = [each.split(" | ") for each in table.splitlines() if " | paper | " in each]
    assert [row[3] for row in rows] == ["66.7 ± 22.2", "50.0 ± 50.0", "50.0 ± 50.0"]  # whole: plain


def test_hidden_answers_are_not_scored() -> None:
    hidden = [replace(RECORDS[0], id="009-1", answer=None), *RECORDS]
    manifest = Manifest.of(hidden, "videomme", "duration", 8)
    assert (manifest.samples, manifest.hidden, manifest.is_part) == (7, 1, False)
    lines = [*LINES, line("paper", hidden[0], "A")]
    assert row_of(summarise(lines, manifest, PROTOCOL), "paper", ALL)["answered"] == 7


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    stranger = line("paper", replace(RECORDS[0], id="999-1"), "A")
    for wrong, said in (
        (lambda: summarise([*LINES, stranger], MANIFEST, PROTOCOL), "which has 7"),
        (lambda: summarise([], MANIFEST, PROTOCOL), "no answer to score"),
        (lambda: summarise([line("a", RECORDS[0], None, error="gone")], MANIFEST, PROTOCOL), "first error: gone"),
        (lambda: join([{**LINES[0], "run": "x"}, {**LINES[1], "run": "y"}]), "2 different runs"),
        (lambda: join([{"a": 1}]), "lacks id, config"),
        (lambda: join([line("a", replace(RECORDS[0], options=(), answer="x"), "x")]), "visual-cot"),
        (lambda: official_text(RECORDS, LINES, "papr"), "no answers of 'papr'"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong()


def test_the_official_video_mme_format() -> None:
    lines = [each for each in LINES if each["id"] != "001-2"]
    videos = json.loads(official_text(RECORDS, lines, "paper"))
    assert [video["video_id"] for video in videos] == ["001", "002", "003", "004", "005", "006"]
    assert {name: videos[0][name] for name in ("duration", "domain", "sub_category")} == {
        "duration": "short", "domain": "Multilingual", "sub_category": "Multilingual",
    }  # fmt: skip
    first, second = videos[0]["questions"]
    assert first == {
        "question_id": "001-1", "task_type": "OCR", "question": "q001-1?", "answer": "A", "response": "A",
        "options": ["A. one", "B. two", "C. three", "D. four"],
    }  # fmt: skip
    assert second["response"] == ""
