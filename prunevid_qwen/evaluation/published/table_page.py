"""The page of a reproduction: published figures, named as theirs, beside ours, with what keeps them from comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.protocol.score_summary import ALL, Manifest
from prunevid_qwen.evaluation.protocol.score_tables import score_text
from prunevid_qwen.evaluation.published.estimate import cost_lines
from prunevid_qwen.evaluation.published.ours_beside_theirs import HIDDEN, NOT_RUN, Found, compare
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, Setting
from prunevid_qwen.evaluation.report.page import Table, difference_text, json_text
from prunevid_qwen.evaluation.store import replace

PAGE, FIGURES = "reproduction.md", "reproduction.json"
_READING = (
    "- theirs: as published, read as text. Their difference is to the unpruned row of the same table.",
    "- ours: our scorer, ± a standard error with videos as what was drawn; the difference is paired, question by "
    "question, with a 95 % interval. Compare differences first: the same model unpruned differs by points between "
    "harnesses.",
    "- inside: whether their difference lies in our interval; only said of a whole data set. It lies there for chance "
    "alone too where the interval is wide.",
    "- tokens: share of the visual tokens that a decoder layer sees on average, asked for and spent, and the share "
    "left after the last stage, which papers call retained. ≤: what a video shows decides. Small videos can exceed it: "
    "every group leaves a token, and under the paper's presets groups of up to 14 stay whole.",
)


def write_page(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Write ``reproduction.md`` and ``reproduction.json`` from what a folder holds; return the figures of `compare`."""
    found = compare(table, setting, folder)
    coverage = Table(("data set", "state"), [_coverage(each) for each in found["asked"]])
    body = ["## Coverage", "", *coverage.markdown("---"), ""]
    for each in found["asked"]:
        body += _section(each, bool(found["deviations"]))
    ran = any(each["state"] != NOT_RUN for each in found["asked"])
    kept = {**found, "asked": [{**each, "summary": None} for each in found["asked"]]}
    write_both(table, setting, folder, kept, ran, body, _READING)
    return kept


def write_both(
    table: PublishedTable,
    setting: Setting,
    folder: Path,
    figures: Found,
    ran: bool,
    body: Sequence[str],
    reading: Sequence[str],
) -> None:
    """Write the two files of a page: whose figures these are, under what setting, what deviates, and ours.

    Args:
        table, setting, folder: where the page belongs.
        figures: with its ``deviations``.
        ran: whether there is anything of ours.
        body: between the setting and how to read it.
        reading: how to read it.
    """
    said = figures["deviations"]
    deviations = ["No deviation from the setting above.", ""]
    if said:
        text = "**This run deviates from the setting above; its figures do not compare with the published ones:**"
        deviations = [text, "", *(f"- {each}" for each in said), ""]
    lines = [
        f"# {table.name}, setting {setting.name}",
        "",
        f"Published: {table.paper}, {table.table}. {table.source} Every figure called theirs is that paper's; this "
        "project measured none of them.",
        "",
        f"- frames: {setting.frames}",
        f"- pixels: {setting.pixels}",
        f"- prompt: {setting.prompt}",
        f"- model: {table.model}",
        "",
        "Not known of their setting, or contradictory:",
        "",
        *(f"- {each}" for each in setting.unknown),
        "",
        *(deviations if ran else ()),
        *body,
        "## How to read it",
        "",
        *reading,
        *(f"- {row.name}: {row.note}" for row in setting.rows if row.note),
        "",
        "## What it takes",
        "",
        *(f"- {each}" for each in cost_lines(setting)),
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / FIGURES, json_text(figures).encode())
    replace(folder / PAGE, "\n".join(lines).encode())


def _coverage(each: Found) -> list[str]:
    state = each["state"]
    if state in ("partial", "complete"):
        return [each["title"], f"{'**PARTIAL**' if state == 'partial' else 'complete'}: {_counts(each['summary'])}"]
    if state == HIDDEN:
        counts = {f"{one['answered']} of {one['of']}" for one in each["files"]}
        return [each["title"], f"no score here: the answers are not public. Answered: {', '.join(sorted(counts))}"]
    return [each["title"], f"**{state}**"]


def _counts(summary: Found) -> str:
    """Say how many questions each row answered, rows with the same counts together."""
    manifest, same = summary["manifest"], dict[str, list[str]]()
    for row in (row for row in summary["rows"] if row["axis"] == ALL):
        unparsed = f", no option read in {percent(row['unparsed_rate'], 1)}" if row["unparsed_rate"] else ""
        text = f"answered {row['answered']} of {row['samples']} (errors: {row['errors']}{unparsed})"
        same.setdefault(text, []).append(row["config"])
    said = ["; ".join(f"{text}: {', '.join(names)}" for text, names in same.items())]
    if Manifest(**manifest).is_part:
        there = manifest["samples"] + manifest["hidden"]
        said.append(f"the folder holds {there} of the {manifest['published']} questions as published")
    if summary["conflicts"]:
        said.append(f"{len(summary['conflicts'])} questions have two different answers, of which one counts")
    return ". ".join(said)


def _section(each: Found, deviates: bool) -> list[str]:
    columns = list(each["summary"]["columns"]) if each["summary"] else []
    names = (
        "row", "theirs", "their difference", "ours", "our difference (95 %)", "inside",
        *(f"ours by {name}'s scorer" for name in columns), "layer average asked", "layer average spent",
        "left after the last stage", "kept, as published",
    )  # fmt: skip
    lines = []
    for part in each["tables"]:
        title = each["title"] if part["group"] is None else f"{each['title']}, {part['group']}"
        rows = [_cells(row, each, columns, deviates) for row in part["rows"]]
        lines += [f"## {title}", "", *Table(names, rows).markdown("---"), ""]
    for one in each["files"]:
        where = one["file"] or "no file"
        lines.append(f"- {one['config']}: {one['answered']} of {one['of']} answered, for the authors' server: {where}")
    return [*lines, ""] if each["files"] else lines


def _cells(row: Found, each: Found, columns: list[str], deviates: bool) -> list[str]:
    published, own, asked, spent = row["published"], row["ours"], row["asked"], row["achieved"]
    paired = published is not None and row["row"] != BASELINE_ROW
    theirs = ["" if published is None else f"{published['score']:.1f}"]
    theirs.append(f"{published['difference']:+.1f}" if paired else "")
    if own is None:
        why = "not implemented here" if not row["implemented"] else "no score" if row["run"] else "not run"
        ours = [why, "", "", *("" for _ in columns)]
    else:
        inside = None if deviates or own["partial"] else row["inside"]
        part = Manifest(**each["summary"]["manifest"]).is_part
        difference = difference_text(own["difference"], scale=100, digits=1)
        ours = [
            score_text(own, part),
            f"{difference}, {own['difference']['pairs']} pairs" if difference else "",
            {None: "does not compare", True: "yes", False: "no"}[inside] if paired else "",
            *(_column(own["columns"][name]) for name in columns),
        ]
    tokens = ["", "", ""]
    if asked is not None:
        tokens[0] = f"{'' if asked['exact'] else '≤ '}{percent(asked['layer_average'], 1)}"
    if spent is not None and spent["kept"] is not None:
        tokens[1:] = [percent(spent["layer_average_kept"], 1), percent(spent["kept"], 1)]
    return [row["row"], *theirs, *ours, *tokens, row["kept_published"]]


def _column(column: Mapping[str, Any]) -> str:
    return "" if column["score"] is None else f"{100 * column['score']:.1f} of {column['counted']}"
