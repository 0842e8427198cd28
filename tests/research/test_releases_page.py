"""README's table of transformers releases says of the raw rows what is true of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from research.releases_page import how_they_were_run, release_tables

pytestmark = pytest.mark.nightly

ROW: dict[str, Any] = {"transformers": "5.6.2", "ok": True, "passed": 3, "torch": "2.13.0", "commit": "a" * 40}


@pytest.mark.parametrize(
    ("second", "there", "absent"),
    [
        ({}, ["torch 2.13.0"], ["commit", "Not passed", "Python", "aaaaaaa"]),
        ({"commit": "b" * 40}, ["5.6.2 at aaaaaaa; 5.24.0 at bbbbbbb"], ["Not passed"]),
        ({"torch": "2.14.0"}, ["torch 2.13.0 (5.6.2), 2.14.0 (5.24.0)"], ["commit"]),
        ({"cpu": "A fast one"}, ["on not noted (5.6.2), A fast one (5.24.0)"], ["commit"]),
        ({"ok": False}, ["**Not passed: 5.24.0.**"], ["commit"]),
    ],
)
def test_what_is_said_of_the_releases_is_true_of_the_rows(
    second: dict[str, Any], there: list[str], absent: list[str]
) -> None:
    said = how_they_were_run([ROW, {**ROW, "transformers": "5.24.0", **second}])
    assert [text for text in there if text not in said] == []
    assert [text for text in absent if text in said] == []


def test_a_release_that_failed_or_did_not_finish_is_in_the_table(tmp_path: Path) -> None:
    rows = [{**ROW, "ok": False, "failed": 2, "errors": 1}, {"transformers": "5.24.0", "ok": False, "note": "no pip"}]
    (tmp_path / "test_matrix.json").write_text(json.dumps(rows), encoding="utf-8")
    table = release_tables(tmp_path)["transformers"]
    assert "| 5.6.2 | 3 | 3 | 0 |" in table and "| 5.24.0 | 0 | did not finish | 0 | not no" in table
