"""The list of tested releases: what the matrix runs, what its committed result holds, and what is installed here."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from packaging.version import Version

from prunevid_qwen.adapters.releases import OLDEST
from prunevid_qwen.version import PIP_NEWEST, TESTED

ROOT = Path(__file__).resolve().parent.parent


def test_the_matrix_runs_exactly_the_tested_releases() -> None:
    tree = ast.parse((ROOT / "tools" / "test_matrix.py").read_text(encoding="utf-8"))
    (releases,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RELEASES"
    ]
    assert releases == TESTED


def test_each_tested_release_has_a_row_that_passed() -> None:
    rows = json.loads((ROOT / "eval" / "results" / "test_matrix.json").read_text(encoding="utf-8"))
    assert tuple(row["transformers"] for row in rows) == TESTED
    assert [row["transformers"] for row in rows if not row["ok"]] == []


def test_they_are_in_order_and_the_newest_is_the_pinned_one() -> None:
    versions = [Version(release) for release in TESTED]
    assert versions == sorted(set(versions)) and versions[0].release[:2] == OLDEST
    pinned = re.search(r"^transformers==(\S+)", (ROOT / "constraints" / "cpu.txt").read_text(), re.MULTILINE)
    assert pinned is not None and pinned[1] == TESTED[-1] and TESTED[-1] in PIP_NEWEST
