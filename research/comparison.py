"""The comparison of all methods in docs/methods.md: each figure from a committed raw result, "not run" without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.evaluation.shapes.methods import CONTROLS, standard_methods

STAGES = {1: "before the decoder", 2: "inside the decoder"}
TOYS = {"Qwen2.5-VL": "moving_shapes", "Qwen3-VL": "moving_shapes_qwen3vl"}
"""Family of each bundled toy, and the folder of its run of `prunevid bench accuracy`."""

BUDGETS = (0.25, 0.10, 0.05)
SIZES = (2048, 16384)
NOT_RUN, NOTHING = "not run", "\N{EN DASH}"
PARTIAL, MINUS = " \N{DAGGER}", "\N{MINUS SIGN}"

Row = dict[str, Any]


def read(results: Path, name: str) -> Row:
    """Return a committed result; {} where there is none yet."""
    path = results / name
    found: Row = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def linked(paper: str, ours: bool = False) -> str:
    """Return a paper as a link; without one "ours" or "a control"."""
    if not paper:
        return "ours" if ours else "a control"
    return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv ')})"


def comparison_tables(results: Path) -> dict[str, str]:
    """Return the blocks "methods", "equal time" and "matrix" of docs/methods.md.

    Args:
        results: the folder ``eval/results``.
    """
    runs = {family: read(results, f"{folder}/summary.json") for family, folder in TOYS.items()}
    toys, timed = ({family: run.get(part) for family, run in runs.items()} for part in ("figures", "by_time"))
    cost, matrix = read(results, "choose_cost.json"), read(results, "method_matrix.json")
    found = {"methods": _compared(toys, cost, matrix), "equal time": _in_time(timed), "matrix": _matrix(matrix)}
    return {name: "\n".join(lines) for name, lines in found.items()}


def curve_of(stage: int, name: str) -> str:
    """Return the curve of the benchmark in which a method acts: a selector behind PruneVid's merger.

    A selector alone leaves the layers before its cut whole, and a toy of few layers then reaches no small budget.
    """
    if name == PruneVidConfig().merger_name:
        return "stage 1" if stage == 1 else name
    return name if stage == 1 else f"stage 1 + {name}"


def _compared(toys: dict[str, Row | None], cost: Row, matrix: Row) -> list[str]:
    times = {(row["stage"], row["name"], row["tokens"]): row for row in cost.get("rows", [])}
    passed = {(row["stage"], row["name"]): row["reference"] for row in matrix.get("rows", [])}
    head = ["Method", "Acts", "Paper", "Evidence", "Trained", "Question", "Choosing among 2k / 16k tokens",
            *(f"Lost at {budget:.0%}".replace("%", " %") for budget in BUDGETS), "Authors' cases"]  # fmt: skip
    rows = []
    for row in method_rows():
        key = row["stage"], row["name"]
        guided = any("question" in each or "sent along" in each for each in row["needs"])
        lost = [_lost(toys, curve_of(*key), budget) for budget in BUDGETS]
        rows.append([
            f"`{row['name']}`", STAGES[row["stage"]], linked(row["paper"], row["ours"]),
            ", ".join(row["needs"]) or "the tokens",
            "yes" if row["trained"] else "no", "yes" if guided else "no",
            " / ".join(_time(times.get((*key, size)), f"{key[0]} {key[1]}" in cost.get("left_out", {}))
                       for size in SIZES),
            *lost, _passed(passed.get(key), bool(matrix)),
        ])  # fmt: skip
    own = {curve_of(row["stage"], row["name"]) for row in method_rows()}
    others = [each.name for each in standard_methods() if each.name.endswith(" pair") or each.name in CONTROLS]
    for name in ["recommended", "recommended_2026_11", *(each for each in others if each not in own)]:
        lost = [_lost(toys, name, budget) for budget in BUDGETS]
        kind = "a control" if name in CONTROLS else "as published" if name.endswith(" pair") else "ours"
        rows.append([f"`{name}`", NOTHING, kind, *[NOTHING] * 4, *lost, NOTHING])
    asked = [f"{family}: {_asked(figures)}" for family, figures in toys.items()]
    return [*Table(head, rows).markdown("---"), "", f"Toys, in the order of each cell: {'; '.join(asked)}."]


def _in_time(toys: dict[str, Row | None]) -> list[str]:
    """A row for each curve of a run that was timed, those that reach most budgets and lose least first."""
    cells = [cell for figures in toys.values() if figures for cell in figures["cells"]]
    if not cells:
        return [f"This was {NOT_RUN}: `prunevid bench accuracy --by time` measures it."]
    budgets = sorted({cell["budget"] for cell in cells}, reverse=True)
    lost: dict[str, list[float]] = {}
    for cell in cells:
        lost.setdefault(cell["method"], []).append(cell["difference"])
    order = sorted(lost, key=lambda name: (-len(lost[name]), -sum(lost[name]), name))
    head = ["Curve", *(f"Lost at {budget:.0%} of the time".replace("%", " %") for budget in budgets)]
    rows = [[f"`{name}`", *(_lost(toys, name, budget) for budget in budgets)] for name in order]
    return Table(head, rows).markdown("---")


def _asked(figures: Row | None) -> str:
    if figures is None:
        return NOT_RUN
    unpruned, blank = (percent(figures[name]["accuracy"], 1) for name in ("unpruned", "blank"))
    about = f"{figures['questions']} questions about {figures['videos']} videos"
    return f"{about}, {unpruned} right unpruned, {blank} without a video"


def _lost(toys: dict[str, Row | None], curve: str, budget: float) -> str:
    return "<br>".join(_of_toy(figures, curve, budget) for figures in toys.values())


def _of_toy(figures: Row | None, curve: str, budget: float) -> str:
    if figures is None:
        return NOT_RUN
    if curve in figures.get("left_out", {}):
        return "left out"
    cell = next((each for each in figures["cells"] if (each["method"], each["budget"]) == (curve, budget)), None)
    if cell is not None:
        ends = cell["difference_interval"]
        interval = f" ({points(ends[0])} to {points(ends[1])})" if ends else ""
        return f"{points(cell['difference'])}{interval}{PARTIAL if cell['unreached'] else ''}"
    reached = any((each["method"], each["budget"]) == (curve, budget) for each in figures["unreachable"])
    return "out of reach" if reached else NOT_RUN


def points(share: float) -> str:
    """Write a difference of shares in points, signed, with a true minus."""
    return f"{100 * share:+.1f}".replace("-", MINUS)


def _time(row: Row | None, left_out: bool) -> str:
    if row is None:
        return NOTHING if left_out else NOT_RUN
    seconds, share = f"{row['seconds']:.2g} s", "" if row["share"] is None else f" ({percent(row['share'], 1)})"
    return f"{seconds}{share}" if row["pays"] else f"**{seconds}{share}, does not pay**"


def _passed(reference: list[int] | None, run: bool) -> str:
    if reference is None:
        return "none" if run else NOT_RUN
    return f"{reference[0]} of {reference[1]}"


def _matrix(matrix: Row) -> list[str]:
    if not matrix:
        return [f"The matrix was {NOT_RUN}: `python -m tests.method_matrix` writes it."]
    families = list(matrix["rows"][0]["families"])
    signs = {"equal": "=", "unchanged": "unchanged", "refused": NOTHING}
    rows = [
        [f"`{row['name']}`", STAGES[row["stage"]], *(signs[row["families"][family]["is"]] for family in families)]
        for row in matrix["rows"]
    ]
    return Table(["Method", "Acts", *(f"`{family}`" for family in families)], rows).markdown("---")
