"""The tables of docs/glimpse.md, from the committed raw results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.glimpse_accuracy import SELECTORS, SHARES, THRESHOLDS, method_name
from prunevid_qwen.evaluation.shapes.videos import CONDITIONS

_SAID = {
    "glimpse": "`glimpse`, fixed share",
    "prunevid": "`prunevid`: max-max attention",
    "oracle": "`oracle`: true boxes",
    "random": "`random`",
    "uniform": "`uniform`",
}
_TYPES = ("exists", "color", "shape", "direction", "first", "last", "brief", "count")


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
    }


def _run(figures: dict[str, Any], run: dict[str, Any]) -> str:
    unpruned, versions = figures["unpruned"], run["versions"]
    low, high = unpruned["interval"]
    return (
        f"{unpruned['n']} questions about {unpruned['videos']} held-out videos, {100 * unpruned['value']:.1f} % right "
        f"unpruned ({100 * low:.1f} to {100 * high:.1f}). `{run['command']}` at commit {run['commit'][:10]}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}."
    )


def _lost(figures: dict[str, Any]) -> str:
    head = " | ".join(f"{share:.0%}".replace("%", " %") for share in SHARES)
    lines = [f"| points lost at | {head} |", "|---|" + "---|" * len(SHARES)]
    for selector in SELECTORS:
        cells = [_signed(figures["methods"][method_name(selector, share)]["lost"]) for share in SHARES]
        lines.append(f"| {_SAID[selector]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _against(figures: dict[str, Any]) -> str:
    _, *others = SELECTORS  # all but the glimpse itself
    lines = ["| glimpse less | " + " | ".join(_SAID[other] for other in others) + " |", "|---|" + "---|" * len(others)]
    for share in SHARES:
        row = figures["glimpse_against"][f"{share:.0%}"]
        lines.append(f"| at {100 * share:.0f} % | " + " | ".join(_signed(row[other]) for other in others) + " |")
    return "\n".join(lines)


def _thresholds(figures: dict[str, Any]) -> str:
    lines = ["| | tokens kept | evidence kept | points lost |", "|---|---|---|---|"]
    for name, said in (
        *((method_name("glimpse", threshold=t), f"`keep_threshold={t:g}`") for t in THRESHOLDS),
        (method_name("oracle", threshold=0.5), "true boxes"),
    ):
        row = figures["methods"][name]
        kept, evidence = percent(row["kept"], 1), percent(row["evidence_kept"])
        lines.append(f"| {said} | {kept} | {evidence} | {_signed(row['lost'])} |")
    return "\n".join(lines)


def _adaptive(figures: dict[str, Any]) -> str:
    kinds, rows = tuple(CONDITIONS), figures["adaptive"]
    lines = [
        f"| question | n | tokens kept, mean | quartiles | {' | '.join(kinds)} |",
        "|---|---|---|---|" + "---|" * len(kinds),
    ]
    for name in _TYPES:
        if name in rows:
            quartiles = ", ".join(f"{100 * q:.1f}" for q in rows[name]["quartiles"])
            means = [rows.get(f"{kind} {name}", {}).get("mean") for kind in kinds]
            by_kind = " | ".join("" if mean is None else f"{100 * mean:.1f}" for mean in means)
            lines.append(f"| {name} | {rows[name]['n']} | {percent(rows[name]['mean'], 1)} | {quartiles} | {by_kind} |")
    return "\n".join(lines)


def _signed(estimate: dict[str, Any]) -> str:
    def one(share: float) -> str:
        return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")

    if estimate["interval"] is None:
        return one(estimate["value"])
    low, high = estimate["interval"]
    return f"{one(estimate['value'])} ({one(low)} to {one(high)})"
