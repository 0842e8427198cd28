"""The tables of the accuracy report, in markdown, each from ``summary.json`` alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from prunevid_qwen.evaluation.report.intervals import excludes_zero
from prunevid_qwen.evaluation.report.page import Row, Table
from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED

HEADLINE_BUDGETS = (0.16, 0.10)
UNREACHABLE = "unreachable"
PARTIAL = "†"
_NOTHING = "\N{EN DASH}"


def percent(share: float, digits: int = 1) -> str:
    """Write a share in percent, without the sign: 0.1234 is 12.3."""
    return f"{100 * share:.{digits}f}"


def points(difference: float) -> str:
    """Write a difference of shares in points, signed, with a true minus: -0.012 is −1.2."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def difference(row: Row) -> str:
    """Write a paired difference in points with its interval, bold where that leaves out 0."""
    value, interval = points(row["difference"]), row["difference_interval"]
    if interval is None:
        return f"{value} (one video)"
    shown = f"**{value}**" if excludes_zero(interval) else value
    return f"{shown} [{points(interval[0])}, {points(interval[1])}]"


def find_cell(figures: Row, method: str, budget: float | None) -> Row | None:
    """Return a cell of the summary, or None where no condition reached it."""
    return next((c for c in figures["cells"] if c["method"] == method and c["budget"] == budget), None)


def in_order(methods: set[str]) -> list[str]:
    """Sort methods: those that the plots highlight first, in their order."""
    return [name for name in HIGHLIGHTED if name in methods] + sorted(methods - HIGHLIGHTED.keys())


def headline_budgets(figures: Row) -> list[float]:
    """Return the budgets that are written about: the headline's, or all where none of those was run."""
    run = sorted({cell["budget"] for cell in figures["cells"] if cell["budget"] is not None}, reverse=True)
    return [budget for budget in HEADLINE_BUDGETS if budget in run] or run


def accuracy_table(figures: Row) -> list[str]:
    """Accuracy, and below it the paired difference to unpruned with its interval; bold where that leaves out 0."""
    return _by_budget(figures, lambda cell: f"{percent(cell['accuracy'])}{_mark(cell)}<br>{difference(cell)}")


def token_table(figures: Row) -> list[str]:
    """Layer-averaged tokens achieved, and after the slash the paper's retained ratio, both in percent."""

    def entry(cell: Row) -> str:
        retained = _NOTHING if cell["retained"] is None else percent(cell["retained"])
        return f"{percent(cell['achieved'])} / {retained}{_mark(cell)}"

    return _by_budget(figures, entry)


def evidence_table(figures: Row) -> list[str]:
    """Tokens on the asked-about objects that survive, and after the slash tokens overall, both in percent."""

    def entry(cell: Row) -> str:
        shares = cell["evidence"]
        return f"{percent(shares['recall'], 0)} / {percent(shares['kept'], 0)}{_mark(cell)}" if shares else _NOTHING

    return _by_budget(figures, entry)


def group_tables(figures: Row, group: str) -> list[str]:
    """Difference to unpruned in points within each ``group``: "by_condition", "by_type" or "by_way"."""
    before, blank = figures["unpruned"][group], figures["blank"]
    names = sorted(before)
    start = [
        ["unpruned, % right", *(percent(before[name]["accuracy"]) for name in names)],
        ["questions", *(str(before[name]["n"]) for name in names)],
    ]
    if blank:
        start.append(["no video, % right", *(percent(blank[group][name]["accuracy"]) for name in names)])
    lines = []
    for budget in headline_budgets(figures):
        rows = [
            [method, *(difference(cell[group][n]) if n in cell[group] else UNREACHABLE for n in names)]
            for method in _methods(figures)
            if (cell := find_cell(figures, method, budget))
        ]
        lines += [f"At {percent(budget, 0)} %:", "", *Table(["", *names], [*start, *rows]).markdown("---"), ""]
    return lines[:-1]


def unreachable_list(figures: Row) -> list[str]:
    """List the cells that were out of reach, those of one method and reason together."""
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


def _methods(figures: Row) -> list[str]:
    return in_order({cell["method"] for cell in (*figures["cells"], *figures["unreachable"])})


def _mark(cell: Row) -> str:
    return f" {PARTIAL}" if cell["unreached"] else ""


def _by_budget(figures: Row, entry: Callable[[Row], str]) -> list[str]:
    """A row for each method, a column for each budget, large ones first; cells without a budget come last."""
    shown = {(cell["method"], cell["budget"]): UNREACHABLE for cell in figures["unreachable"]}
    shown |= {(cell["method"], cell["budget"]): entry(cell) for cell in figures["cells"]}
    budgets = sorted({budget for _, budget in shown}, key=lambda budget: 1.0 if budget is None else -budget)
    head = ["method", *("as it is" if budget is None else f"{percent(budget, 0)} %" for budget in budgets)]
    rows = [[method, *(shown.get((method, budget), "") for budget in budgets)] for method in _methods(figures)]
    return Table(head, rows).markdown("---")
