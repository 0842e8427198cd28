"""The tables of docs/choices.md, each from ``summary.json`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.intervals import excludes_zero
from prunevid_qwen.evaluation.report.page import Table, page
from prunevid_qwen.evaluation.shapes.accuracy_page import PARTIAL, UNREACHABLE, difference, percent, points
from prunevid_qwen.evaluation.shapes.accuracy_summary import COST_MARGIN

OTHER_COST = "‡"
_NOTHING = "\N{EN DASH}"

Row = dict[str, Any]

HOW_TO_READ = f"""\
Tokens are layer-averaged, in percent of the whole video's. The difference is to the base at the same budget, on the
same questions, in points, with its 95 % interval (bootstrap over whole videos); **bold** where that leaves out 0.
{PARTIAL}: out of reach in some conditions, compared over the others. {OTHER_COST}: tokens differ from the base's by
more than {percent(COST_MARGIN, 0)} % of them, so the comparison is not quite at equal cost."""


def choices_tables(results: Path) -> dict[str, str]:
    """Return every table of the page by name.

    Args:
        results: the folder ``eval/results``.
    """
    return blocks(json.loads((results / "choices" / "summary.json").read_text(encoding="utf-8")))


def blocks(summary: Row) -> dict[str, str]:
    """Return every table by name: "run", "bases", "stands out", and "<base> <option>" for each option tried.

    Args:
        summary: as ``choices_summary.summarise_choices`` returns it.
    """
    figures = summary["figures"]
    options: dict[str, list[Row]] = {}
    for row in figures["rows"]:
        options.setdefault(f"{row['base']} {row['option']}", []).append(row)
    found = {
        "run": _what_was_run(summary),
        "bases": _bases(figures),
        "stands out": _standing_out(figures),
        **{name: _option(rows) for name, rows in options.items()},
    }
    return {name: "\n".join(lines) for name, lines in found.items()}


def report(summary: Row) -> str:
    """Return all tables on one page."""
    known = blocks(summary)
    return page(
        "# Choosing defaults: the figures",
        "Written by `make bench-choices`; do not edit. What we conclude stands in `docs/choices.md`.",
        known.pop("run"),
        HOW_TO_READ,
        "## The bases against unpruned",
        known.pop("bases"),
        "## What stands out",
        known.pop("stands out"),
        *(f"## {name.replace(' ', ': ')}\n\n{table}" for name, table in known.items()),
    )


def _what_was_run(summary: Row) -> list[str]:
    run, figures = summary["run"], summary["figures"]
    unpruned = figures["unpruned"]
    kinds = ", ".join(run.get("conditions", {}))
    return [
        f"{figures['questions']} questions about {figures['videos']} held-out videos ({kinds}), seeds "
        f"{run['seeds'][0]} to {run['seeds'][-1]}; unpruned, {percent(unpruned['accuracy'])} % are right. "
        f"`{run['command']}` at commit {str(run.get('commit', ''))[:10]}, torch "
        f"{run.get('versions', {}).get('torch', 'unknown')}, weights {str(run.get('model_sha256', ''))[:10]}."
    ]


def _bases(figures: Row) -> list[str]:
    head = ["at", "", "right", "tokens", "against unpruned", "against paper", "keep_ratio / cluster_ratio"]
    rows = []
    against = {row["budget"]: row for row in figures["recommended_against_paper"]}
    for row in figures["bases"]:
        shown = [f"{percent(row['budget'], 0)} %", row["base"]]
        if not row["n"]:
            rows.append([*shown, UNREACHABLE, "", "", "", ""])
            continue
        ratios = ", ".join(f"{name} {keep:g} / {merge:g}" for name, (keep, merge) in row["ratios"].items())
        pair = against[row["budget"]] if row["base"] == "recommended" else {"n": 0}
        other = f"{difference(pair)}{_cost(pair)}" if pair["n"] else ""
        mark = f" {PARTIAL}" if row["unreached"] else ""
        figures_of = [f"{percent(row['accuracy'])}{mark}", percent(row["tokens"]), difference(row), other, ratios]
        rows.append([*shown, *figures_of])
    return _table(head, rows) + _reasons([{**row, "value": row["base"]} for row in figures["bases"]])


def _standing_out(figures: Row) -> list[str]:
    compared = [row for row in figures["rows"] if not row["is_base"] and row["n"]]
    found = [row for row in compared if excludes_zero(row["difference_interval"])]
    rows = []
    for row in sorted(found, key=lambda row: -row["difference"]):
        low, high = (points(end) for end in row["difference_interval"])
        shown = f"{points(row['difference'])} [{low}, {high}]{_marks(row)}"
        rows.append([row["base"], f"`{row['option']}`", str(row["value"]), f"{percent(row['budget'], 0)} %", shown])
    said = (
        f"{len(found)} of {len(compared)} comparisons leave out 0; about {len(compared) / 20:.0f} would if no option "
        "mattered at all."
    )
    return [said, "", *_table(["base", "option", "value", "at", "difference"], rows)] if found else [said]


def _option(rows: list[Row]) -> list[str]:
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    head = [name for b in budgets for name in (f"at {percent(b, 0)} %: right", "tokens", "difference")]
    lines = []
    for value in dict.fromkeys(row["value"] for row in rows):
        own = {row["budget"]: row for row in rows if row["value"] == value}
        is_base = all(row["is_base"] for row in own.values())
        shown = f"{value} (the base's)" if is_base else str(value)
        lines.append([shown, *(cell for budget in budgets for cell in _three(own[budget]))])
    return _table(["value", *head], lines) + _reasons(rows)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return Table(head, rows).markdown("---")


def _three(row: Row) -> list[str]:
    if not row["n"]:
        return [UNREACHABLE, _NOTHING, _NOTHING]
    against = _NOTHING if row["is_base"] else difference(row)
    return [f"{percent(row['accuracy'])}{_marks(row)}", percent(row["tokens"]), against]


def _marks(row: Row) -> str:
    return (f" {PARTIAL}" if row["unreached"] else "") + _cost(row)


def _cost(row: Row) -> str:
    apart = abs(row["tokens"] - row["other_tokens"]) if row["n"] else 0.0
    return f" {OTHER_COST}" if row["n"] and apart > COST_MARGIN * row["other_tokens"] else ""


def _reasons(rows: list[Row]) -> list[str]:
    """Say under a table what is out of reach, where and why."""
    said = [
        f"{row['value']} at {percent(row['budget'], 0)} % on "
        + ", ".join(f"{condition} ({why})" for condition, why in sorted(row["unreached"].items()))
        for row in rows
        if row["unreached"]
    ]
    return ["", f"{PARTIAL} Out of reach: {'; '.join(said)}."] if said else []
