"""What the figures say, in plain sentences: each follows from ``summary.json``, none is written by hand.

A difference counts only where its 95 % interval leaves out 0; otherwise the two are said to tie, whichever side that
flatters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunevid_qwen.evaluation.accuracy_summary import JUDGED

CONTROLS = ("random", "uniform", "pool", "fewer frames", "smaller frames")
"""What needs no method at all: if one of these ties with a method at equal cost, the method is not worth its code."""

HEADLINE_BUDGETS = (0.16, 0.10)

WIDEST_TIE = 0.06
"""Width of an interval around 0, from end to end, up to which it shows a tie; a wider one shows too few videos."""


def findings(figures: dict[str, Any]) -> dict[str, list[str]]:
    """Return what can be said in markdown: sentences by the heading they stand under.

    Args:
        figures: as in ``summary.json``.
    """
    unpruned = figures["unpruned"]
    said = {
        "Unpruned": [
            f"{percent(unpruned['accuracy'])} % of {unpruned['n']} questions about {unpruned['videos']} videos are "
            f"right{_in_brackets(unpruned['accuracy_interval'], signed=False)}."
        ]
    }
    if blank := figures["blank"]:
        said["Unpruned"].append(
            f"Question-only: shown a grey video instead, the same model answers {percent(blank['accuracy'])} % right"
            f"{_in_brackets(blank['accuracy_interval'], signed=False)}."
        )
    for budget in _budgets(figures):
        lines = said[f"At {percent(budget, 0)} % of the tokens"] = _best(figures, budget)
        for method in JUDGED:
            cell = find_cell(figures, method, budget)
            if cell is not None:
                lines += _about(figures, method, budget, cell)
    return said


def find_cell(figures: dict[str, Any], method: str, budget: float | None) -> dict[str, Any] | None:
    """Return a cell of the summary, or None where no condition reached it."""
    return next((c for c in figures["cells"] if c["method"] == method and c["budget"] == budget), None)


def percent(share: float, digits: int = 1) -> str:
    """Write a share in percent, without the sign: 0.1234 is 12.3."""
    return f"{100 * share:.{digits}f}"


def points(difference: float) -> str:
    """Write a difference of shares in points, signed, with a true minus: -0.012 is −1.2."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def stands_out(interval: list[float] | None) -> bool:
    """Tell whether an interval leaves out 0; without one, nothing does."""
    return interval is not None and not interval[0] <= 0 <= interval[1]


def _in_brackets(interval: list[float] | None, signed: bool = True) -> str:
    if interval is None:
        return " (one video: no interval)"
    low, high = (points(end) if signed else percent(end) for end in interval)
    return f" ({low} to {high})"


def _budgets(figures: dict[str, Any]) -> list[float]:
    """The budgets that sentences are made about: the headline's, or all where none of those was run."""
    run = sorted({cell["budget"] for cell in figures["cells"] if cell["budget"] is not None}, reverse=True)
    return [budget for budget in HEADLINE_BUDGETS if budget in run] or run


def _about(figures: dict[str, Any], method: str, budget: float, cell: dict[str, Any]) -> Iterator[str]:
    yield f"**{method}** {_against('unpruned', cell['difference'], cell['difference_interval'])}{_partial(cell)}."
    pairs = {
        pair["against"]: pair for pair in figures["pairs"] if pair["method"] == method and pair["budget"] == budget
    }
    if method == "recommended" and "prunevid" in pairs:
        yield f"{method} {_against_pair(pairs['prunevid'])}{_only(figures, pairs['prunevid'])}."
    controls = [pairs[name] for name in CONTROLS if name in pairs]
    beaten = [pair for pair in controls if stands_out(pair["difference_interval"]) and pair["difference"] > 0]
    if beaten:
        yield f"{method} is above {_listed(figures, beaten)}."
    for pair in controls:
        if pair not in beaten:
            yield f"{_verdict(pair)}{method} {_against_pair(pair)}{_only(figures, pair)}."
    if cell["evidence"]:
        recall, kept = cell["evidence"]["recall"], cell["evidence"]["kept"]
        yield (
            f"{method} keeps {percent(recall, 0)} % of the tokens on the asked-about objects and "
            f"{percent(kept, 0)} % of all: {recall / kept:.1f} times as much."
        )
    kind, worst = min(cell["by_type"].items(), key=lambda item: (item[1]["difference"], item[0]))
    if stands_out(worst["difference_interval"]) and worst["difference"] < 0:
        measured = f"{points(worst['difference'])} points{_in_brackets(worst['difference_interval'])}"
        yield f"{method} loses most on *{kind}*: {measured} over {worst['n']} questions."
    else:
        yield f"{method} loses no more than noise on any type of question."


def _verdict(pair: dict[str, Any]) -> str:
    """What a method does not beat is said in bold, unless there are too few videos to say anything."""
    interval = pair["difference_interval"]
    if stands_out(interval):
        return "**A control does better**: "
    return "**A control does as well**: " if _is_tie(interval) else ""


def _is_tie(interval: list[float] | None) -> bool:
    return interval is not None and not stands_out(interval) and interval[1] - interval[0] <= WIDEST_TIE


def _against_pair(pair: dict[str, Any]) -> str:
    return _against(pair["against"], pair["difference"], pair["difference_interval"])


def _against(other: str, difference: float, interval: list[float] | None) -> str:
    measured = f"{points(difference)} points{_in_brackets(interval)}"
    if _is_tie(interval):
        return f"ties with {other}: {measured}"
    if not stands_out(interval):
        return f"cannot be told from {other} on so few videos: {measured}"
    where = "above" if difference > 0 else "below"
    return f"is {percent(abs(difference))} points {where} {other}{_in_brackets(interval)}"


def _listed(figures: dict[str, Any], pairs: list[dict[str, Any]]) -> str:
    named = [
        f"{pair['against']} by {percent(pair['difference'])}{_in_brackets(pair['difference_interval'])}"
        f"{_only(figures, pair)}"
        for pair in pairs
    ]
    return named[0] if len(named) == 1 else f"{'; '.join(named[:-1])}; and {named[-1]}"


def _partial(cell: dict[str, Any]) -> str:
    if not cell["unreached"]:
        return ""
    return (
        f", on {', '.join(sorted(cell['by_condition']))} alone (out of reach on {', '.join(sorted(cell['unreached']))})"
    )


def _only(figures: dict[str, Any], pair: dict[str, Any]) -> str:
    if len(pair["conditions"]) == len(figures["conditions"]):
        return ""
    return f", on {', '.join(pair['conditions'])}, which both reach"


def _best(figures: dict[str, Any], budget: float) -> list[str]:
    """Name the best method that reached every condition; the others were not asked the same questions."""
    whole = [cell for cell in figures["cells"] if cell["budget"] == budget and not cell["unreached"]]
    if len(whole) < 2:
        return []
    best = max(whole, key=lambda cell: (cell["accuracy"], cell["method"]))
    return [
        f"The most answers are right with **{best['method']}**, {percent(best['accuracy'])} %"
        f"{_in_brackets(best['accuracy_interval'], signed=False)}; being the best of {len(whole)} on these videos "
        "flatters it: check on fresh seeds."
    ]
