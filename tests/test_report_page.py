"""The writer of tables and pages: what a reader sees, on a page of Markdown and on a terminal of any width."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import pytest

from prunevid_qwen.evaluation.report.page import Table, csv_text, difference_text, flat, json_text, page

HEAD = ["config", "answered", "score ± s.e.", "minus baseline (95 %)", "a scorer's", "errors"]
ROWS = [
    ["baseline", "4000/4000", "62.3 ± 0.8", "", "61.9", "0 %"],
    ["recommended", "4000/4000", "61.0 ± 0.8", "-1.3 (-2.0 to -0.6)", "60.7 of 3999/4000 (2 % drawn)", "0 %"],
    ["paper glimpse_path=/models/a/folder/of/a/long/name", "12/4000", "**none**", "", "", "99.7 %"],
]


@pytest.mark.parametrize("keys", [1, 2])
@pytest.mark.parametrize("width", [*range(16, 60), 80, 100, 130, 400])
def test_no_line_of_a_terminal_table_is_longer_than_the_terminal_and_no_letter_is_lost(width: int, keys: int) -> None:
    text = Table(HEAD, ROWS).terminal(width, keys)
    assert max(map(len, text.splitlines())) <= width
    wanted = Counter("".join("".join(row) for row in (HEAD, *ROWS)).replace("**", "").replace(" ", ""))
    assert not wanted - Counter(text)


def test_a_table_that_fits_stands_in_one_block_and_a_wide_one_repeats_what_its_rows_are_about() -> None:
    assert Table(["name", "score"], [["a", "1.0"], ["longer", "**2**"]]).terminal(80).splitlines() == [
        "name    score",
        "------  -----",
        "a       1.0",
        "longer  2",
    ]
    blocks = Table(HEAD, ROWS[:2]).terminal(60).split("\n\n")
    assert len(blocks) > 1
    for block in blocks:
        names = [line.split()[0] for line in block.splitlines() if not line.startswith(" ")]
        assert names[0] == "config" and names[-2:] == ["baseline", "recommended"]


def test_the_terminal_s_own_width_is_taken_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert Table(HEAD, ROWS).terminal() == Table(HEAD, ROWS).terminal(40)


def test_markdown_holds_its_columns_whatever_a_cell_says() -> None:
    table = Table(["a", "b"], [["x|y", "two\nlines"]])
    assert table.markdown() == ["| a | b |", "| --- | --- |", "| x/y | two lines |"]
    assert table.markdown("---")[1] == "|---|---|"
    assert table.markdown(others=" ---: ")[1] == "| --- | ---: |"
    with pytest.raises(ValueError, match="3 cells under 2"):
        Table(["a", "b"], [["1", "2", "3"]])


def test_csv_has_every_name_once_and_leaves_out_nothing() -> None:
    rows = [{"a": 1, "b": None}, {"b": 2.5, "c": "x,y"}]
    assert csv_text(rows) == 'a,b,c\n1,,\n,2.5,"x,y"\n'
    assert list(csv.DictReader(io.StringIO(csv_text(rows, "\r\n"))))[1] == {"a": "", "b": "2.5", "c": "x,y"}


def test_a_row_is_laid_flat_with_its_difference_and_its_parts() -> None:
    found = {"value": 0.1, "interval": [0.0, 0.2], "pairs": 7, "standard_error": 0.05}
    row = {"set": "x", "tokens": {"visual": 9}, "difference": found, "columns": {"ours": {"score": 1, "counted": 2}}}
    assert flat(row) == {
        "set": "x", "tokens_visual": 9, "difference": 0.1, "difference_low": 0.0, "difference_high": 0.2, "pairs": 7,
        "ours_score": 1, "ours_counted": 2,
    }  # fmt: skip
    assert flat({"difference": None}) == {
        "difference": None, "difference_low": None, "difference_high": None, "pairs": None,
    }  # fmt: skip


def test_json_is_whole_and_refuses_what_json_cannot_say() -> None:
    assert json.loads(json_text({"b": "é", "a": [1.5]})) == {"a": [1.5], "b": "é"}
    assert json_text({"b": "é", "a": 1}, sort_keys=True, ascii_alone=True) == '{\n "a": 1,\n "b": "\\u00e9"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        json_text(float("nan"))


def test_a_page_is_its_parts_with_room_between() -> None:
    assert page("# Title", "", ["a", "b"], [], "end") == "# Title\n\na\nb\n\nend\n"


def test_a_difference_says_its_sign_its_interval_and_how_many_pairs_are_missing() -> None:
    found = {"value": -0.0124, "interval": (-0.02, 0.001), "pairs": 9}
    assert difference_text(found) == "-0.012 (-0.020 to +0.001)"
    assert difference_text(found, of=10, scale=100, digits=1) == "-1.2 (-2.0 to +0.1) of 9/10"
    assert difference_text({**found, "interval": None}, of=9) == "-0.012"
    assert difference_text(None) == ""
