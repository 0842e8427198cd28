"""The tables of docs/search.md, each from eval/results/search alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.intervals import excludes_zero
from prunevid_qwen.evaluation.report.page import Table
from research.comparison import MINUS, NOTHING, points

SHOWN = 15
"""Best scores that the page shows, beside configs that it names."""
ALSO = ("recommended", "divprune", "uniform", "random")

Row = dict[str, Any]


def search_tables(results: Path) -> dict[str, str]:
    """Return the blocks "rule", "searched", "confirmed" and "timed".

    Args:
        results: the folder ``eval/results``.
    """
    summary: Row = json.loads((results / "search" / "summary.json").read_text(encoding="utf-8"))
    return {
        "rule": summary["rule"].partition("Rule:")[2].strip(),
        "searched": "\n".join(_searched(summary["search"])),
        "confirmed": "\n".join(_confirmed(summary["confirm"])),
        "timed": "\n".join(_timed(json.loads((results / "search/speed/efficiency.json").read_text(encoding="utf-8")))),
    }


def _searched(rows: list[Row]) -> list[str]:
    scored = [row for row in rows if row["score"] is not None]
    shown = [*scored[:SHOWN], *(row for row in scored[SHOWN:] if row["config"] in ALSO)]
    cells = list(shown[0]["lost"])
    head = ["Place", "Config", "Score", *(_named(cell) for cell in cells)]
    body = [
        [
            str(scored.index(row) + 1),
            f"`{row['config']}`",
            _signed(row["score"]),
            *(_signed(row["lost"][c]) for c in cells),
        ]
        for row in shown
    ]
    without = len(rows) - len(scored)
    return [*Table(head, body).markdown("---"), "", f"{len(scored)} configs have a score; {without} miss a budget."]


def _timed(speed: Row) -> list[str]:
    head = ["Config", "Tokens", "First token", "Choice of tokens"]
    body = []
    for row in speed["rows"]:
        if row["variant"].startswith(("stock", "recommended")):
            parts = row["parts_ms"]
            choosing = sum(parts[name]["median"] for name in ("stage1", "stage2", "stage3"))
            first = row["ms"]["first_token"]["median"]
            body.append(
                [f"`{row['variant']}`", f"{100 * row['R_layer']:.1f} %", f"{first:.0f} ms", f"{choosing:.0f} ms"]
            )
    rounds = speed["rows"][0]["rounds"]
    said = (
        f"Shape 7b_small, 32 frames, two CPU threads, medians of {rounds} rounds; commit {str(speed['commit'])[:10]}."
    )
    return [*Table(head, body).markdown("---"), "", said]


def _named(cell: str) -> str:
    toy, budget = cell.rsplit(" ", 1)
    return f"`{toy}`, {float(budget):.0%}".replace("%", " %")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", MINUS)


def _confirmed(rows: list[Row]) -> list[str]:
    head = ["Config", "Toy", "Budget", "Tokens", "Lost to unpruned", "Above `recommended` then"]
    body = []
    for row in rows:
        budget = "10 % and 5 %" if row["budget"] is None else f"{row['budget']:.0%}".replace("%", " %")
        ahead = f"{points(row['ahead'])} [{points(row['ahead_interval'][0])}, {points(row['ahead_interval'][1])}]"
        lost = f"{points(row['lost'])} [{points(row['lost_interval'][0])}, {points(row['lost_interval'][1])}]"
        bold = excludes_zero(row["ahead_interval"])
        own = row["config"] == "recommended"
        body.append([
            f"`{row['config']}`", f"`{row['toy']}`", budget, f"{100 * row['tokens']:.1f} %", lost,
            NOTHING if own else f"**{ahead}**" if bold else ahead,
        ])  # fmt: skip
    asked = f"{rows[0]['n']} questions about {rows[0]['videos']} videos on each toy."
    return [*Table(head, body).markdown("---"), "", asked]
