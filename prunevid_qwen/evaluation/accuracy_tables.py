"""The tables of the accuracy report, in markdown, each from ``summary.json`` alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from prunevid_qwen.evaluation.accuracy_findings import HEADLINE_BUDGETS, find_cell, percent, points, stands_out
from prunevid_qwen.evaluation.plot_style import HIGHLIGHTED

Row = dict[str, Any]
UNREACHABLE = "unreachable"
NOT_RUN = ""
PARTIAL = "†"


def methods_of(figures: Row) -> list[str]:
    """Return every method that was asked for, reached or not: those the plots highlight first."""
    found = {cell["method"] for cell in (*figures["cells"], *figures["unreachable"])}
    return [name for name in HIGHLIGHTED if name in found] + sorted(found - HIGHLIGHTED.keys())


def budgets_of(figures: Row) -> list[float | None]:
    """Return every budget that was asked for, large ones first; None, where nothing was, comes last."""
    found = {cell["budget"] for cell in (*figures["cells"], *figures["unreachable"])}
    return sorted(found, key=lambda budget: 1.0 if budget is None else -budget)


def accuracy_table(figures: Row) -> list[str]:
    """Accuracy, and below it the paired difference to unpruned with its interval; bold where that leaves out 0."""

    def entry(cell: Row) -> str:
        return f"{percent(cell['accuracy'])}{_mark(cell)}<br>{difference(cell)}"

    return _by_budget(figures, entry)


def token_table(figures: Row) -> list[str]:
    """Layer-averaged tokens achieved, and after the slash the paper's retained ratio, both in percent."""

    def entry(cell: Row) -> str:
        retained = "\N{EN DASH}" if cell["retained"] is None else percent(cell["retained"])
        return f"{percent(cell['achieved'])} / {retained}{_mark(cell)}"

    return _by_budget(figures, entry)


def evidence_table(figures: Row) -> list[str]:
    """Tokens on the asked-about objects that survive, and after the slash tokens overall, both in percent."""

    def entry(cell: Row) -> str:
        if not cell["evidence"]:
            return "\N{EN DASH}"
        return f"{percent(cell['evidence']['recall'], 0)} / {percent(cell['evidence']['kept'], 0)}{_mark(cell)}"

    return _by_budget(figures, entry)


def group_tables(figures: Row, group: str) -> list[str]:
    """Difference to unpruned in points within each group of questions, a table for each headline budget.

    Args:
        figures: as in ``summary.json``.
        group: "by_condition", "by_type" or "by_way".
    """
    names = sorted(figures["unpruned"][group])
    run = [budget for budget in budgets_of(figures) if budget is not None]
    lines = []
    for budget in [budget for budget in HEADLINE_BUDGETS if budget in run] or run:
        rows = []
        for method in methods_of(figures):
            cell = find_cell(figures, method, budget)
            if cell is not None:
                rows.append([method, *(difference(cell[group][n]) if n in cell[group] else UNREACHABLE for n in names)])
        before = figures["unpruned"][group]
        rows.insert(0, ["unpruned, % right", *(percent(before[name]["accuracy"]) for name in names)])
        if figures["blank"]:
            seen = figures["blank"][group]
            rows.insert(1, ["no video, % right", *(percent(seen[name]["accuracy"]) for name in names)])
        rows.insert(1, ["questions", *(str(before[name]["n"]) for name in names)])
        lines += [f"At {percent(budget, 0)} %:", "", *_table(["", *names], rows), ""]
    return lines[:-1]


def unreachable_list(figures: Row) -> list[str]:
    """Every cell that was out of reach, those of one method and reason together."""
    together: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in figures["unreachable"]:
        budget = "no budget" if cell["budget"] is None else f"{percent(cell['budget'], 0)} %"
        together[cell["method"], cell["why"]][budget].append(cell["condition"])
    lines = []
    for (method, why), budgets in together.items():
        where: dict[str, list[str]] = defaultdict(list)
        for budget, conditions in budgets.items():
            where[", ".join(conditions)].append(budget)
        places = "; ".join(f"{', '.join(named)} on {conditions}" for conditions, named in where.items())
        lines.append(f"- **{method}**, {places}: {why}")
    return lines or ["None: every method reached every budget in every condition."]


def difference(row: Row) -> str:
    """Write a paired difference in points with its interval, bold where that leaves out 0."""
    value, interval = points(row["difference"]), row["difference_interval"]
    if interval is None:
        return f"{value} (one video)"
    shown = f"**{value}**" if stands_out(interval) else value
    return f"{shown} [{points(interval[0])}, {points(interval[1])}]"


def _mark(cell: Row) -> str:
    return f" {PARTIAL}" if cell["unreached"] else ""


def _by_budget(figures: Row, entry: Callable[[Row], str]) -> list[str]:
    budgets = budgets_of(figures)
    unreachable = {(cell["method"], cell["budget"]) for cell in figures["unreachable"]}

    def shown(method: str, budget: float | None) -> str:
        cell = find_cell(figures, method, budget)
        if cell is not None:
            return entry(cell)
        return UNREACHABLE if (method, budget) in unreachable else NOT_RUN

    head = ["method", *("as it is" if budget is None else f"{percent(budget, 0)} %" for budget in budgets)]
    return _table(head, [[method, *(shown(method, budget) for budget in budgets)] for method in methods_of(figures)])


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    line = "| {} |".format
    return [line(" | ".join(head)), "|" + "---|" * len(head), *(line(" | ".join(row)) for row in rows)]
