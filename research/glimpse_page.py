"""The tables of docs/glimpse.md, from the committed raw results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from research.glimpse import SELECTORS, SHARES, THRESHOLDS, TYPES, method_name

_SAID = {
    "glimpse": "`glimpse`, fixed share",
    "prunevid": "`prunevid`: max-max attention",
    "oracle": "`oracle`: true boxes",
    "random": "`random`",
    "uniform": "`uniform`",
}


SPEED = {
    "glimpse_11": "`glimpse`, 11.1 %",
    "random": "`random`, at the same tokens and layer",
    "paper": "`paper`, which merges first and drops after layer 10",
}
"""Rows of the speed benchmark that the page shows, and what it calls them."""


def glimpse_tables(results: Path) -> dict[str, str]:
    """Return every table by the name that the page calls it.

    Args:
        results: the folder ``eval/results``.
    """
    summary: dict[str, Any] = json.loads((results / "glimpse" / "summary.json").read_text(encoding="utf-8"))
    figures, run = summary["figures"], summary["run"]
    return {
        "glimpse run": _run(figures, run),
        "glimpse lost": _lost(figures),
        "glimpse against": _against(figures),
        "glimpse thresholds": _thresholds(figures),
        "glimpse adaptive": _adaptive(figures),
        "glimpse speed": _speed(results),
    }


def _speed(results: Path) -> str:
    """What the speed benchmark said of the glimpse and of the two that it is compared with."""
    path = results / "efficiency_glimpse_cpu" / "efficiency.json"
    if not path.is_file():  # a run of one's own has no speed
        return ""
    rows = {Path(row["variant"]).stem: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    ours = rows["glimpse_11"]
    lines = [f"- {about}: {rows[name]['sentence']}" for name, about in SPEED.items()]
    stage2, prefill = ours["parts_ms"]["stage2"]["median"], ours["prefill_ms"]["median"]
    said = (
        f"Glimpse token and predictor together took {stage2:.0f} ms of a prefill of {round(prefill, -1):,.0f} ms there."
    )
    return "\n".join([*lines, "", said])


def _run(figures: dict[str, Any], run: dict[str, Any]) -> str:
    unpruned, versions = figures["unpruned"], run["versions"]
    low, high = unpruned["interval"]
    return (
        f"{unpruned['n']} questions about {unpruned['videos']} held-out videos, {100 * unpruned['value']:.1f} % right "
        f"unpruned ({100 * low:.1f} to {100 * high:.1f}). `{run['command']}` at commit {run['commit'][:10]}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}."
    )


def _lost(figures: dict[str, Any]) -> str:
    rows = [
        [_SAID[selector], *(_signed(figures["methods"][method_name(selector, share)]["lost"]) for share in SHARES)]
        for selector in SELECTORS
    ]
    return _table(["points lost at", *(percent(share) for share in SHARES)], rows)


def _against(figures: dict[str, Any]) -> str:
    _, *others = SELECTORS  # all but the glimpse itself
    rows = [
        [f"at {percent(share)}", *(_signed(figures["glimpse_against"][f"{share:.0%}"][other]) for other in others)]
        for share in SHARES
    ]
    return _table(["glimpse less", *(_SAID[other] for other in others)], rows)


def _thresholds(figures: dict[str, Any]) -> str:
    points = {method_name("glimpse", threshold=t): f"`keep_threshold={t:g}`" for t in THRESHOLDS}
    points[method_name("oracle", threshold=0.5)] = "true boxes"
    rows = [
        [said, percent(row["kept"], 1), percent(row["evidence_kept"]), _signed(row["lost"])]
        for name, said in points.items()
        for row in [figures["methods"][name]]
    ]
    text = _table(["", "tokens kept", "evidence kept", "points lost"], rows)
    return text.replace("|  |", "| |", 1)  # as the committed page has its empty name


def _adaptive(figures: dict[str, Any]) -> str:
    found, rows = figures["adaptive"], []
    for name in (each for each in TYPES if each in found):
        row = found[name]
        means = [found.get(f"{kind} {name}", {}).get("mean") for kind in CONDITIONS]
        by_kind = ["" if mean is None else f"{100 * mean:.1f}" for mean in means]
        quartiles = ", ".join(f"{100 * q:.1f}" for q in row["quartiles"])
        rows.append([name, str(row["n"]), percent(row["mean"], 1), quartiles, *by_kind])
    return _table(["question", "n", "tokens kept, mean", "quartiles", *CONDITIONS], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(Table(head, rows).markdown("---"))


def _signed(estimate: dict[str, Any]) -> str:
    def one(share: float) -> str:
        return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")

    if estimate["interval"] is None:
        return one(estimate["value"])
    low, high = estimate["interval"]
    return f"{one(estimate['value'])} ({one(low)} to {one(high)})"
