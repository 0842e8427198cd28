"""README's table of transformers releases, from the raw result of `make test-matrix` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import Table

RESULT = "test_matrix.json"

Row = dict[str, Any]


def release_tables(results: Path) -> dict[str, str]:
    """Return the block "transformers": how the tests were run, and a table with a row for each release.

    Args:
        results: the folder ``eval/results``.
    """
    rows: list[Row] = json.loads((results / RESULT).read_text(encoding="utf-8"))
    head = ["transformers", "passed", "failed", "skipped", "commit", "day"]
    lines = [
        [row["transformers"], str(row.get("passed", 0)), _failed(row), str(row.get("skipped", 0)),
         _commit(row), row.get("day", "not noted")]
        for row in rows
    ]  # fmt: skip
    return {"transformers": "\n".join([how_they_were_run(rows), "", *Table(head, lines).markdown(others=" ---: ")])}


def how_they_were_run(rows: list[Row]) -> str:
    """Say under which torch, Python, CPU and options of pytest, and where the rows are not all of one commit."""
    clauses = [
        _noted(rows, "torch", "torch"),
        _noted(rows, "python", "Python"),
        _noted(rows, "cpu", "on"),
        _noted(rows, "pytest", "options of pytest:"),
    ]
    said = [f"Run with {'; '.join(clause for clause in clauses if clause)}."]
    of = _releases_by(rows, "commit")
    if len(of) > 1:
        parts = "; ".join(f"{_listed(releases)} at {str(commit)[:7]}" for commit, releases in of.items())
        said.append(f"Not all rows are of one commit, so their numbers of tests differ: {parts}.")
    broken = [row["transformers"] for row in rows if not row["ok"]]
    if broken:
        said.append(f"**Not passed: {_listed(broken)}.**")
    return " ".join(said)


def _failed(row: Row) -> str:
    count = sum(row.get(what, 0) for what in ("failed", "error", "errors"))
    return str(count) if count or row["ok"] else "did not finish"


def _commit(row: Row) -> str:
    return str(row.get("commit", "not noted"))[:7] + (" and changes" if row.get("uncommitted_changes") else "")


def _noted(rows: list[Row], name: str, label: str) -> str:
    """One value where all rows share it, else each with its releases; nothing where no row notes any."""
    of = _releases_by(rows, name)
    if list(of) == [None]:
        return ""
    if len(of) == 1:
        return f"{label} {next(iter(of))}"
    each = (f"{'not noted' if value is None else value} ({_listed(releases)})" for value, releases in of.items())
    return f"{label} {', '.join(each)}"


def _releases_by(rows: list[Row], name: str) -> dict[str | None, list[str]]:
    of: dict[str | None, list[str]] = {}
    for row in rows:
        of.setdefault(row.get(name), []).append(row["transformers"])
    return of


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
