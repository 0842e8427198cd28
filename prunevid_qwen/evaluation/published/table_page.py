"""The page of a reproduction: published figures, named as theirs, beside ours, with what keeps them from comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.protocol.score_summary import ALL, Manifest
from prunevid_qwen.evaluation.protocol.score_tables import score_text
from prunevid_qwen.evaluation.published.estimate import cost_lines, figure_lines
from prunevid_qwen.evaluation.published.lmms_rows import compare_lmms, lmms_sections
from prunevid_qwen.evaluation.published.ours_beside_theirs import HIDDEN, NOT_RUN, Found, compare, timed_figures
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, Setting
from prunevid_qwen.evaluation.report.page import Table, difference_text, json_text, page
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
_READING_LMMS = (
    "- theirs: as published, read as text. Their difference is to the unpruned row of the same table.",
    "- ours: lmms-eval's score of its own tasks, times 100 where it is a share. Compare differences first: the same "
    "model unpruned differs by points between harnesses.",
)
_READING_TIMES = (
    "- times: medians over images (20 to 80 % of them in brackets), each image's the median of 3 rounds in turns; "
    "ratio: the baseline's time by the row's, image by image, its median. Above 1 is faster.",
    "- vision: the vision tower; decoder: the prompt through the decoder, selection included, vision not (what they "
    "call prefill); first token: all of it; decode: a token of the answer.",
    "- FLOPs: 2 a multiply-add, text included, attention in full, output layer of one position; the predictor (0.07 "
    "TFLOP at 2048 tokens) and its glimpse token are not counted.",
    "- memory: the largest peak of any image, weights included, and the median of what was needed above them.",
)
_TIMES = {
    "vision, ms": "vision",
    "decoder, ms": "decoder",
    "first token, ms": "first_token",
    "decode, ms a token": "decode_per_token",
    "whole answer, ms": "end_to_end",
}


def write_page(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Write ``reproduction.md`` and ``reproduction.json`` from what a folder holds, and return the figures.

    They are those of `compare` without summaries, of a timed setting those of `timed_figures`, through lmms-eval those
    of `compare_lmms`.

    Raises:
        ConfigError: the lines of a timed setting's folder are no measurements.
    """
    if setting.timed:
        found = timed_figures(table, setting, folder)
        ran, body = found["device"] is not None, _timed(setting, found)
    elif setting.through_lmms:
        found = compare_lmms(table, setting, folder)
        ran, body = any(each["state"] != NOT_RUN for each in found["asked"]), lmms_sections(found)
    else:
        found = compare(table, setting, folder)
        coverage = Table(("data set", "state"), [_coverage(each) for each in found["asked"]])
        sections = [part for each in found["asked"] for part in _section(each, bool(found["deviations"]))]
        body = ["## Coverage", coverage.markdown("---"), *sections]
        ran = any(each["state"] != NOT_RUN for each in found["asked"])
        found |= {"asked": [{**each, "summary": None} for each in found["asked"]]}
    deviations: list[Any] = ["No deviation from the setting above."]
    if found["deviations"]:
        told = "**This run deviates from the setting above; its figures do not compare with the published ones:**"
        deviations = [told, [f"- {each}" for each in found["deviations"]]]
    notes = [f"- {row.name}: {row.note}" for row in setting.rows if row.note]
    text = page(
        f"# {table.name}, setting {setting.name}",
        f"Published: {table.paper}, {table.table}. {table.source} Every figure called theirs is that paper's; this "
        "project measured none of them.",
        [
            f"- frames: {setting.frames}",
            f"- pixels: {setting.pixels}",
            f"- prompt: {setting.prompt}",
            f"- model: {table.model}",
        ],
        "Not known of their setting, or contradictory:",
        [f"- {each}" for each in setting.unknown],
        *(deviations if ran else ()),
        *body,
        "## How to read it",
        [*(_READING_TIMES if setting.timed else _READING_LMMS if setting.through_lmms else _READING), *notes],
        "## What it takes",
        [f"- {each}" for each in cost_lines(setting)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / FIGURES, json_text(found).encode())
    replace(folder / PAGE, text.encode())
    return found


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


def _section(each: Found, deviates: bool) -> list[str | list[str]]:
    columns = list(each["summary"]["columns"]) if each["summary"] else []
    scorers = [f"ours by {name}'s scorer" for name in columns]
    ours = ("ours", "our difference (95 %)", "inside", *scorers)
    tokens = ("layer average asked", "layer average spent", "left after the last stage", "kept, as published")
    parts: list[str | list[str]] = []
    for part in each["tables"]:
        title = each["title"] if part["group"] is None else f"{each['title']}, {part['group']}"
        rows = [_cells(row, each, columns, deviates) for row in part["rows"]]
        names = ("row", "theirs", "their difference", *ours, *tokens)
        parts += [f"## {title}", Table(names, rows).markdown("---")]
    files = [(f"{one['config']}: {one['answered']} of {one['of']} answered", one["file"]) for one in each["files"]]
    return [*parts, [f"- {said}, for the authors' server: {file or 'no file'}" for said, file in files]]


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
        difference = difference_text(own["difference"], scale=100, digits=1)
        ours = [
            score_text(own, Manifest(**each["summary"]["manifest"]).is_part),
            f"{difference}, {own['difference']['pairs']} pairs" if difference else "",
            {None: "does not compare", True: "yes", False: "no"}[inside] if paired else "",
        ]
        for column in (own["columns"][name] for name in columns):
            ours.append("" if column["score"] is None else f"{100 * column['score']:.1f} of {column['counted']}")
    tokens = ["", "", ""]
    if asked is not None:
        tokens[0] = f"{'' if asked['exact'] else '≤ '}{percent(asked['layer_average'], 1)}"
    if spent is not None and spent["kept"] is not None:
        tokens[1:] = [percent(spent["layer_average_kept"], 1), percent(spent["kept"], 1)]
    return [row["row"], *theirs, *ours, *tokens, row["kept_published"]]


def _timed(setting: Setting, found: Found) -> list[str | list[str]]:
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    partial = "**PARTIAL**: " if found["images"] < found["of"] else ""
    times, counts = [], []
    for row in rows:
        cells = []
        for part in _TIMES.values():
            median, low, high = (f"{1000 * row['seconds'][part][name]:.1f}" for name in ("median", "low", "high"))
            ratio = "" if row["row"] == BASELINE_ROW else f", {row['ratio'][part]['median']:.2f}x"
            cells.append(f"{median} ({low} to {high}){ratio}")
        times.append([row["row"], *cells])
        flops, memory = row["flops"], row["memory"]
        peak = ["not measured", "not measured"]
        if memory["peak"] is not None:
            peak = [f"{memory['peak'] / 1e9:.2f}", f"{memory['above']['median'] / 1e9:.2f}"]
        work = [f"{flops[part] / by:.3g}" for part, by in (("decoder", 1e12), ("vision", 1e12), ("decode_step", 1e9))]
        counts.append([row["row"], percent(row["kept"], 1), f"{row['cache_length']:.1f}", *work, *peak])
    work_names = ("decoder, TFLOP", "vision, TFLOP", "decode, GFLOP a token", "peak, GB", "above, GB")
    tables = [
        f"On {found['device']}.",
        Table(("row", *_TIMES), times).markdown("---"),
        Table(("row", "kept", "KV length", *work_names), counts).markdown("---"),
    ]
    return [
        "## Coverage",
        f"{partial}{found['images']} of {found['of']} images were measured.",
        [f"- not measured: {error}" for error in found["errors"]],
        "## Published, theirs",
        [f"- {each}" for each in figure_lines(setting)],
        "## Ours",
        *(tables if rows else ["Nothing was measured."]),
    ]
