"""The figures of ``summary.json`` in plain sentences. A difference counts only where its interval leaves out 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prunevid_qwen.evaluation.report.intervals import excludes_zero
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.shapes.accuracy_tables import find_cell, headline_budgets, percent, points
from prunevid_qwen.evaluation.shapes.methods import CONTROLS, JUDGED

WIDEST_TIE = 0.06
"""Width of an interval around 0, from end to end, up to which it shows a tie; a wider one shows too few videos."""


def findings(figures: Row) -> dict[str, list[str]]:
    """Return sentences in markdown by the heading they stand under."""
    unpruned, blank = figures["unpruned"], figures["blank"]
    said = {
        "Unpruned": [
            f"{percent(unpruned['accuracy'])} % of {unpruned['n']} questions about {unpruned['videos']} videos are "
            f"right{_interval(unpruned['accuracy_interval'], percent)}."
        ]
    }
    if blank:
        said["Unpruned"].append(
            f"Question-only: shown a grey video instead, the same model answers {percent(blank['accuracy'])} % right"
            f"{_interval(blank['accuracy_interval'], percent)}."
        )
    for budget in headline_budgets(figures):
        lines = said[f"At {percent(budget, 0)} % of the tokens"] = _best(figures, budget)
        for place, method in enumerate(JUDGED):
            if cell := find_cell(figures, method, budget):
                lines += _about(figures, cell, JUDGED[:place])
    return said


def _best(figures: Row, budget: float) -> list[str]:
    """Name the best method that reached every condition; the others were not asked the same questions."""
    whole = [cell for cell in figures["cells"] if cell["budget"] == budget and not cell["unreached"]]
    if len(whole) < 2:
        return []
    best = max(whole, key=lambda cell: (cell["accuracy"], cell["method"]))
    return [
        f"The most answers are right with **{best['method']}**, {percent(best['accuracy'])} %"
        f"{_interval(best['accuracy_interval'], percent)}; being the best of {len(whole)} on these videos "
        "flatters it: check on fresh seeds."
    ]


def _about(figures: Row, cell: Row, judged_before: Sequence[str]) -> Iterator[str]:
    """What a judged method gains and loses: against unpruned, the judged ones before it, and the controls."""
    method = cell["method"]
    alone = ""
    if cell["unreached"]:
        reached, others = (", ".join(sorted(cell[name])) for name in ("by_condition", "unreached"))
        alone = f", on {reached} alone (out of reach on {others})"
    yield f"**{method}** {_against('unpruned', cell)}{alone}."

    own = [pair for pair in figures["pairs"] if (pair["method"], pair["budget"]) == (method, cell["budget"])]
    pairs = {pair["against"]: pair for pair in own}

    def shared(pair: Row) -> str:
        whole = len(pair["conditions"]) == len(figures["conditions"])
        return "" if whole else f", on {', '.join(pair['conditions'])}, which both reach"

    for name in (name for name in judged_before if name in pairs):
        yield f"{method} {_against(name, pairs[name])}{shared(pairs[name])}."
    controls = [pairs[name] for name in CONTROLS if name in pairs]
    beaten = [pair for pair in controls if excludes_zero(pair["difference_interval"]) and pair["difference"] > 0]
    named = [
        f"{pair['against']} by {percent(pair['difference'])}{_interval(pair['difference_interval'])}{shared(pair)}"
        for pair in beaten
    ]
    if named:
        yield f"{method} is above {'; '.join([*named[:-2], '; and '.join(named[-2:])])}."
    for pair in (pair for pair in controls if pair not in beaten):
        interval, verdict = pair["difference_interval"], ""
        if excludes_zero(interval):
            verdict = "**A control does better**: "
        elif _is_tie(interval):
            verdict = "**A control does as well**: "
        yield f"{verdict}{method} {_against(pair['against'], pair)}{shared(pair)}."

    if cell["evidence"]:
        recall, kept = cell["evidence"]["recall"], cell["evidence"]["kept"]
        yield (
            f"{method} keeps {percent(recall, 0)} % of the tokens on the asked-about objects and "
            f"{percent(kept, 0)} % of all: {recall / kept:.1f} times as much."
        )
    kind, worst = min(cell["by_type"].items(), key=lambda item: (item[1]["difference"], item[0]))
    if excludes_zero(worst["difference_interval"]) and worst["difference"] < 0:
        measured = f"{points(worst['difference'])} points{_interval(worst['difference_interval'])}"
        yield f"{method} loses most on *{kind}*: {measured} over {worst['n']} questions."
    else:
        yield f"{method} loses no more than noise on any type of question."


def _is_tie(interval: list[float] | None) -> bool:
    return interval is not None and not excludes_zero(interval) and interval[1] - interval[0] <= WIDEST_TIE


def _against(other: str, row: Row) -> str:
    difference, interval = row["difference"], row["difference_interval"]
    measured = f"{points(difference)} points{_interval(interval)}"
    if _is_tie(interval):
        return f"ties with {other}: {measured}"
    if not excludes_zero(interval):
        return f"cannot be told from {other} on so few videos: {measured}"
    where = "above" if difference > 0 else "below"
    return f"is {percent(abs(difference))} points {where} {other}{_interval(interval)}"


def _interval(interval: list[float] | None, write: Any = points) -> str:
    return " (one video: no interval)" if interval is None else f" ({write(interval[0])} to {write(interval[1])})"
