"""The blocks of docs/vision.md that are figures, from the committed raw results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.evaluation.shapes.accuracy_page import difference, percent
from research.vision_accuracy import CONDITIONS, GROUPS

FOLDERS = ("vision_accuracy", "vision_accuracy_qwen3vl")
"""Of the runs of both toys, below eval/results."""

CLIPS, MOVING = "natural_clips.json", "moving_camera.json"
_JUDGED = ("still or shaken", "drift")  # groups with a column of differences
_WORDS = {"plain": "still", "shake": "shaken", "drift": "drifting"}
_DASH = "\N{EN DASH}"
_NOT_YET = {
    "vision accuracy": "Not run yet. `python -m research.vision_accuracy --out eval/results/vision_accuracy` and "
    "`python tools/fill_pages.py` write this table.",
    "natural clips": "Not run yet. `python -m research.natural_clips` and `python tools/fill_pages.py` write it.",
    "moving camera": "Not run yet. `python -m research.moving_camera` and `python tools/fill_pages.py` write it.",
}

Row = dict[str, Any]


def vision_tables(results: Path) -> dict[str, str]:
    """Return the blocks by name.

    Args:
        results: the folder ``eval/results``. A block whose results are not there says how they are made.
    """
    runs = [results / name / "summary.json" for name in FOLDERS]
    parts = [accuracy_table(_read(path)) for path in runs if path.is_file()]
    clips, moving = results / CLIPS, results / MOVING
    return {
        "vision accuracy": "\n\n".join(parts) or _NOT_YET["vision accuracy"],
        "natural clips": clips_table(_read(clips)) if clips.is_file() else _NOT_YET["natural clips"],
        "moving camera": moving_table(_read(moving)) if moving.is_file() else _NOT_YET["moving camera"],
    }


def accuracy_table(summary: Row) -> str:
    """Write a run of `research.vision_accuracy`: what each way to encode saves, and what it costs in points."""
    run, figures = summary["run"], summary["figures"]
    timed = any("seconds" in row for row in figures["rows"])
    head = [
        "row", "base", *(f"encoded, {_WORDS[kind]}" for kind in CONDITIONS), "decoder",
        *(["time"] if timed else []), "right", *(f"points, {_kinds(group)}" for group in _JUDGED),
    ]  # fmt: skip
    rows = []
    for row in figures["rows"]:
        groups = row["groups"]
        rows.append(
            [
                row["method"],
                row["base"] or _DASH,
                *(_share(row["encoder"].get(kind)) for kind in CONDITIONS),
                _share(_mean(row["decoder"])),
                *([_share(_time(row, figures["rows"][0]))] if timed else []),
                percent(groups["all"]["accuracy"]),
                *(difference(groups[each]) if row["base"] and each in groups else _DASH for each in _JUDGED),
            ]
        )
    said = (
        f"{run.get('family', 'Qwen2.5-VL')}'s toy, {figures['questions']} questions about {figures['videos']} videos, "
        f"seeds {run['seeds'][0]} to {run['seeds'][1]}. All shares are percent. Encoded: visual tokens averaged over "
        "the vision encoder's blocks, as a share of the whole video's. Decoder: the same over its layers. Points: "
        "paired by question with the row named as the base, with the 95 % interval over videos. "
        f"`{run['command']}` at commit {str(run.get('commit', ''))[:10]}, weights {str(run['model_sha256'])[:10]}."
    )
    return "\n".join([*Table(head, rows).markdown("---"), "", said])


def clips_table(record: Row) -> str:
    """Write `research.natural_clips`: natural footage first, the toy's videos below it."""
    thresholds = list(record["clips"][0]["still"]) if record["clips"] else []
    head = ["clip", "frames a second", "positions", "tokens a position", *(f"still at {each}" for each in thresholds)]
    rows = [
        [
            name,
            f"{row['rate']:g}",
            str(row["positions"]),
            " x ".join(map(str, row["grid"])),
            *(percent(row["still"][each]) for each in thresholds),
        ]
        for name, row in (
            *((row["clip"], row) for row in record["clips"]),
            *((f"toy, {row['clip']}", row) for row in record["toy"]),
        )
    ]
    source, videos = record["source"], record["toy"][0]["videos"] if record["toy"] else 0
    where = f"`{source['wheel']}`" if "wheel" in source else f"the folder `{source['folder']}`"
    said = (
        "Share of the visual tokens, in percent, that `reuse_threshold` would not encode, by grey levels. The clips "
        f"are those of {where}; the toy's rows are means over {videos} drawn videos of a kind. The first position of a "
        "video is encoded whole, so a share is at most 1 less one over the number of positions. "
        f"`{record['command']}` at commit {str(record.get('commit', ''))[:10]}."
    )
    return "\n".join([*Table(head, rows).markdown("---"), "", said])


def moving_table(record: Row) -> str:
    """Write `research.moving_camera`: each way to encode a drifting clip, and the control that takes as long."""
    head = ["encoder", "time", "right", "points", "control of that time", "points over it", "stage 1 agrees"]
    counted = record["agreement"]
    agreed = {f"R {row['reuse_threshold']:g}": row["agreement"] for row in counted["reuse_threshold"]}
    agreed |= {f"S {row['early_block']}, {row['early_tau']}": row["agreement"] for row in counted["early"]}
    rows = [
        [
            row["row"],
            percent(row["time"]),
            percent(row["accuracy"]),
            _points(row, "points"),
            row.get("control") or _DASH,
            _points(row, "over_control"),
            _share(agreed.get(row["row"])),
        ]
        for row in record["rows"]
    ]
    timed, (first, last) = record["timed"], record["seeds"]
    whole = record["milliseconds"][record["rows"][0]["row"]]
    said = (
        f"Qwen2.5-VL's toy, {record['questions']} questions about {record['videos']} drifting clips of 16 frames, "
        f"seeds {first} to {last}; the decoder is that of `recommended`. Time: of the vision encoder, in percent of "
        f"the stock encoder's {whole:.1f} ms, medians over {timed['clips']} clips and {timed['rounds']} rounds in "
        f"turns, threads: {timed['threads']}. Points: against the stock encoder, and against the fastest control that "
        "takes at least as long, paired by question, with the 95 % interval over clips. Stage 1 agrees: share of the "
        f"copies that `rlt` would merge. `{record['command']}` at commit {str(record.get('commit', ''))[:10]}."
    )
    return "\n".join([*Table(head, rows).markdown("---"), "", said])


def _points(row: Row, name: str) -> str:
    """Write a difference as `difference` does."""
    if name not in row:
        return _DASH
    return difference({"difference": row[name], "difference_interval": row[f"{name}_interval"]})


def _read(path: Path) -> Row:
    record: Row = json.loads(path.read_text(encoding="utf-8"))
    return record


def _kinds(group: str) -> str:
    return " and ".join(_WORDS[kind] for kind in GROUPS[group])


def _mean(shares: Mapping[str, float]) -> float | None:
    return sum(shares.values()) / len(shares) if shares else None


def _time(row: Row, unpruned: Row) -> float | None:
    """Time to the first token as a share of the unpruned model's, the mean over conditions."""
    own, whole = row.get("seconds", {}), unpruned.get("seconds", {})
    return _mean({kind: own[kind] / whole[kind] for kind in own if kind in whole})


def _share(share: float | None) -> str:
    return _DASH if share is None else percent(share)
