"""The tables of docs/toys.md, from the committed raw results of both toys alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.evaluation.shapes.accuracy_page import PARTIAL, UNREACHABLE, difference, weakness_of
from prunevid_qwen.evaluation.shapes.methods import BUDGETS
from research.toys import summaries

ACCURACY = ("bundled_accuracy_plain.json", "bundled_qwen3vl_accuracy_plain.json")
"""Of both toys, below eval/results: what they know of plain videos, unpruned and through real files."""

SHOWN_BUDGETS = (0.25, 0.16, 0.10, 0.05)
PRESETS = {"recommended": "recommended", "paper": "prunevid published"}
"""Presets, and the curve of the benchmark that each is."""

EMPTY_FRAMES = "empty_frames_qwen3vl"
_NOT_YET = (
    "The second toy was not asked yet. `prunevid bench accuracy --model_path bundled-qwen3vl --pack --out "
    "eval/results/moving_shapes_qwen3vl`, `python -m research.toys`, `python -m research.empty_frames_answers --out "
    "eval/results/empty_frames_qwen3vl` and `python tools/fill_pages.py` write this table."
)
_DASH = "\N{EN DASH}"

Row = dict[str, Any]


def toys_tables(results: Path) -> dict[str, str]:
    """Return every table of the page by name.

    Args:
        results: the folder ``eval/results``. Tables whose results are not there say how they are made.
    """
    compared, asked = results / "toys" / "summary.json", summaries(results)
    tables = dict.fromkeys(("toys", "toys presets", "toys curves", "toys order", "toys swaps"), _NOT_YET)
    weak = _weak(results)
    if compared.is_file() and all(path.is_file() for path in asked):
        read, figures = [_read(path) for path in asked], _read(compared)["figures"]
        tables = {
            "toys": _toys(results, read),
            "toys presets": _presets(read, figures["losses"]),
            "toys curves": _picture() + _curves(read),
            "toys order": _order(figures["pairs"]),
            "toys swaps": _swaps(figures["swaps"]),
        }
        tables = {name: text + weak for name, text in tables.items()}
    empty = results / EMPTY_FRAMES / "summary.json"
    tables["toys empty frames"] = _empty_frames(_read(empty)) + weak if empty.is_file() else _NOT_YET
    return tables


def _read(path: Path) -> Row:
    record: Row = json.loads(path.read_text(encoding="utf-8"))
    return record


def _weak(results: Path) -> str:
    """Say below a table that a toy knows plain videos badly, or that nobody measured it; "" where both know them."""
    said = []
    for number, name in zip(("first", "second"), ACCURACY, strict=True):
        if not (results / name).is_file():
            said.append(f"Of the {number} toy there is no {name}: its accuracy on plain videos is not known.")
            continue
        plain = _read(results / name)["accuracy"]["both"]["all"]
        if note := weakness_of(plain["accuracy"], plain["interval"]):
            said.append(f"The {number} toy: {note}")
    return "".join(f"\n\n{each}" for each in said)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(Table(head, rows).markdown("---"))


def _toys(results: Path, read: list[Row]) -> str:
    rows = []
    for number, summary, name in zip(("first", "second"), read, ACCURACY, strict=True):
        run, figures = summary["run"], summary["figures"]
        plain = _read(results / name)["accuracy"]["both"]["all"] if (results / name).is_file() else None
        rows.append(
            [
                f"{number} ({run.get('family', 'Qwen2.5-VL')})",
                str(figures["questions"]),
                str(figures["videos"]),
                percent(figures["unpruned"]["accuracy"], 1),
                percent(figures["blank"]["accuracy"], 1) if figures["blank"] else _DASH,
                _DASH if plain is None else percent(plain["accuracy"], 1),
                f"`{str(run['options']['model_sha256'])[:10]}`",
                f"`{str(run.get('commit', ''))[:10]}`",
            ]
        )
    head = [
        "toy",
        "questions",
        "videos",
        "right, unpruned",
        "without a video",
        "right, plain files",
        "weights",
        "run at",
    ]
    reports = [
        f"[{number} toy](../eval/results/{path.parent.name}/report.md)"
        for number, path in zip(("first", "second"), summaries(results), strict=True)
    ]
    said = f"Reports with every type of question: {', '.join(reports)}."
    left_out = [
        f"- The {number} toy cannot be pruned by {method}: {why}."
        for number, summary in zip(("first", "second"), read, strict=True)
        for method, why in summary["figures"].get("left_out", {}).items()
    ]
    return "\n".join([_table(head, rows), "", said, *([""] if left_out else []), *left_out])


def _presets(read: list[Row], losses: list[Row]) -> str:
    """Accuracy of both presets on both toys, what each loses, and by how much more the second toy loses."""
    between = {(row["method"], row["budget"]): row for row in losses}
    rows = []
    for budget in SHOWN_BUDGETS:
        for preset, method in PRESETS.items():
            found = between.get((method, budget))
            more = _DASH if found is None else difference(_named(found, "between"))
            cells = [_cell(summary, method, budget) for summary in read]
            rows.append([percent(budget, 0), f"`{preset}`", *(text for cell in cells for text in _two(cell)), more])
    head = [
        "at",
        "preset",
        "first: right",
        "against unpruned",
        "second: right",
        "against unpruned",
        "second less first",
    ]
    return _table(head, rows)


def _curves(read: list[Row]) -> str:
    """Percent right of every method, the first toy's before the second's."""
    names = [list(dict.fromkeys(cell["method"] for cell in summary["figures"]["cells"])) for summary in read]
    methods = sorted({*names[0], *names[1]})
    known = [{(cell["method"], cell["budget"]): cell for cell in summary["figures"]["cells"]} for summary in read]
    whole = " / ".join(percent(summary["figures"]["unpruned"]["accuracy"], 1).split()[0] for summary in read)
    rows = [["unpruned", *[whole] * len(BUDGETS)]]
    for method in methods:
        shown = [[_share(each.get((method, budget))) for each in known] for budget in BUDGETS]
        if any(text != _DASH for pair in shown for text in pair):
            rows.append([method, *(" / ".join(pair) for pair in shown)])
    return _table(["method", *(percent(budget, 0) for budget in BUDGETS)], rows)


def _order(pairs: list[Row]) -> str:
    rows = [
        [percent(row["budget"], 0), *(str(row[name]) for name in ("compared", "same", "opposite", "first", "second")),
         str(row["neither"])]
        for row in pairs
    ]  # fmt: skip
    head = ["at", "pairs of methods", "same order", "opposite", "first toy alone", "second alone", "neither decides"]
    return _table(head, rows)


def _swaps(swaps: list[Row]) -> str:
    if not swaps:
        return "No pair of methods stands in opposite orders on the two toys with both intervals leaving out 0."
    rows = [
        [percent(row["budget"], 0), row["method"], row["other"], difference(_named(row, "first")),
         difference(_named(row, "second")), str(row["n"]), ", ".join(row["conditions"])]
        for row in sorted(swaps, key=lambda row: (-row["budget"], row["second"] - row["first"]))
    ]  # fmt: skip
    head = ["at", "ahead on the first", "ahead on the second", "first toy", "second toy", "questions", "on"]
    return _table(head, rows)


def _empty_frames(summary: Row) -> str:
    figures, run = summary["figures"], summary["run"]
    unpruned = figures["unpruned"]
    rows = [
        [
            method,
            percent(row["accuracy"], 1),
            difference(row),
            f"{row['text_kept']:.1f}",
            f"{row['text_kept'] - row['text_dropped']:.1f}",
            percent((row["text_kept"] - row["text_dropped"]) / row["text_kept"], 1),
        ]
        for method, row in figures["methods"].items()
    ]
    head = ["method", "right, text kept", "dropped less kept", "text tokens", "saved", "of the text"]
    said = (
        f"At {percent(figures['budget'], 0)} of the visual tokens; {unpruned['n']} questions about "
        f"{unpruned['videos']} videos, {percent(unpruned['accuracy'], 1)} right unpruned. Text tokens are those of a "
        f"prompt, averaged over the layers. Commit {str(run.get('commit', ''))[:10]}, "
        f"weights {str(run['model_sha256'])[:10]}."
    )
    return "\n".join([_table(head, rows), "", said])


def _picture() -> str:
    there = "../eval/results/toys/accuracy"
    said = "Share of right answers against the share of visual tokens, a panel for each toy"
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{there}_dark.svg">'
    return f'<picture>{dark}<img alt="{said}" src="{there}_light.svg"></picture>\n\n'


def _cell(summary: Row, method: str, budget: float) -> Row | None:
    cells = summary["figures"]["cells"]
    return next((cell for cell in cells if (cell["method"], cell["budget"]) == (method, budget)), None)


def _two(cell: Row | None) -> tuple[str, str]:
    return (UNREACHABLE, _DASH) if cell is None else (_share(cell), difference(cell))


def _share(cell: Row | None) -> str:
    if cell is None:
        return _DASH
    return f"{100 * cell['accuracy']:.1f}{f' {PARTIAL}' if cell['unreached'] else ''}"


def _named(row: Row, name: str) -> Row:
    """Return one of several estimates of a row as `difference` reads it."""
    return {"difference": row[name], "difference_interval": row[f"{name}_interval"]}
