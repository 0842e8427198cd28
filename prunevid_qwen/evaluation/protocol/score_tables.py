"""A run's figures to read. A part never looks like the whole."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.evaluation.protocol.score_summary import ALL, MEAN, Manifest
from prunevid_qwen.evaluation.report.page import Row, Table, difference_text, number, share

_WIDE = 8  # groups that still fit beside each other


def markdown_text(summary: dict[str, Any]) -> str:
    """Return the page: how it was asked, what to beware of, a table for each axis; figures in per cent."""
    manifest, rows = Manifest(**summary["manifest"]), summary["rows"]
    asked = ", ".join(f"{name} {value}" for name, value in summary["protocol"].items() if name != "dataset")
    about = "Scores are by our rules; columns beside them are other harnesses' scorers. Figures in per cent."
    lines = [f"# {summary['dataset']}", "", f"Asked with {asked}; greedy. {about}", ""]
    for warning in warnings_of(summary):
        lines += [f"**{warning}**", ""]
    groups = list(manifest.groups.get(manifest.by, {}))
    if 0 < len(groups) <= _WIDE:
        cells = {(row["config"], row["axis"], row["group"]): score_text(row, manifest.is_part) for row in rows}
        places = [(ALL, "all questions"), (MEAN, manifest.by), *((manifest.by, group) for group in groups)]
        shown = [[name, *(cells[name, axis, group] for axis, group in places)] for name in summary["configs"]]
        lines += [*Table(("config", "all questions", f"mean of {manifest.by}", *groups), shown).markdown(), ""]
    head = (
        "group", "config", "answered", "score ± s.e.", f"minus {summary['baseline']} (95 %)",
        *(f"{name}'s scorer" for name in summary["columns"]), "unparsed", "errors",
    )  # fmt: skip
    axes = list(dict.fromkeys(row["axis"] for row in rows if row["axis"] not in (ALL, MEAN)))
    for title, own in (("## All questions", (ALL, MEAN)), *((f"## By {axis}", (axis,)) for axis in axes)):
        shown = [_cells(row, manifest.is_part) for row in rows if row["axis"] in own]
        lines += [title, "", *Table(head, shown).markdown(), ""]
    lines += [f"- {name}: {text}" for name, text in summary["definitions"].items()]
    return "\n".join([*lines, ""])


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """Say what keeps the figures from being what they look like."""
    manifest, said = Manifest(**summary["manifest"]), []
    if manifest.is_part:
        said.append(
            f"The data folder holds {manifest.samples + manifest.hidden} of the {manifest.published} questions of "
            f"{summary['dataset']} as published: no figure here is comparable with a published one."
        )
    for row in summary["rows"]:
        name = row["config"]
        if row["axis"] == ALL and row["answered"] < row["samples"]:
            said.append(
                f"{name}: only {row['answered']} of {row['samples']} questions were answered ({row['errors']} errors, "
                f"{row['samples'] - row['answered'] - row['errors']} not asked); scores are of these alone."
            )
        if row["axis"] == MEAN and row["groups"] < row["of_groups"]:
            said.append(f"{name}: the mean is of {row['groups']} of {row['of_groups']} groups ({row['group']}).")
        if row["axis"] == ALL and row["unparsed_rate"]:
            said.append(
                f"{name}: in {share(row['unparsed_rate'])} of the answers no option was read; they count as wrong."
            )
    if summary["conflicts"]:
        config, record = summary["conflicts"][0]
        said.append(
            f"{len(summary['conflicts'])} questions were answered more than once, and differently (the first: "
            f"{config}, {record}): one answer of each counts, chosen by its text."
        )
    return said


def score_text(row: Row, part_of_set: bool = False) -> str:
    """Return a row's score in per cent; what is of a part says so, and what it would be if the rest were wrong.

    With ``part_of_set`` the data set itself was not found complete.
    """
    if row["score"] is None:
        return f"none of {row['answered']}/{row['samples']}"
    text = number(100 * row["score"], 1)
    if row["standard_error"] is not None:
        text += f" ± {100 * row['standard_error']:.1f}"
    text += _of(row, row["answered"], part_of_set)
    if row["answered"] < row["samples"]:
        text += f" ({100 * row['floor']:.1f} if the rest is wrong)"
    return text


def _of(row: Row, counted: int, part_of_set: bool) -> str:
    if not row["partial"] and counted == row["samples"]:
        return ""
    text = f" of {counted}/{row['samples']}"
    if row["axis"] == MEAN and row["groups"] < row["of_groups"]:
        return f"{text}, {row['groups']} of {row['of_groups']} groups"
    return f"{text} found" if part_of_set else text


def _cells(row: Row, part: bool) -> list[str]:
    columns = []
    for found in row["columns"].values():
        said = "none" if found["score"] is None else number(100 * found["score"], 1)
        said += _of(row, found["counted"], part)
        columns.append(said + (f" ({share(found['drawn_rate'])} drawn)" if found["drawn_rate"] else ""))
    return [
        f"mean of {row['group']}" if row["axis"] == MEAN else row["group"],
        row["config"], f"{row['answered']}/{row['samples']}", score_text(row, part),
        difference_text(row["difference"], row["samples"], 100, 1), *columns,
        share(row["unparsed_rate"]), share(row["error_rate"]),
    ]  # fmt: skip
