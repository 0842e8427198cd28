"""The page of a timed setting: medians over images, ratios image by image, published figures beside them as theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.storing import answer_files, run_folder
from prunevid_qwen.evaluation.published.estimate import figure_lines
from prunevid_qwen.evaluation.published.ours_beside_theirs import Found, deviations
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, Setting
from prunevid_qwen.evaluation.published.table_page import write_both
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.evaluation.store import RECORD, read_lines

TIMES = ("vision", "decoder", "first_token", "decode_per_token", "end_to_end")

_READING = (
    "- times: medians over images (20 to 80 % of them in brackets), each image's the median of 3 rounds in turns; "
    "ratio: the baseline's time by the row's, image by image, its median. Above 1 is faster.",
    "- vision: the vision tower; decoder: the prompt through the decoder, selection included, vision not (what they "
    "call prefill); first token: all of it; decode: a token of the answer.",
    "- FLOPs: 2 a multiply-add, text included, attention in full, output layer of one position; the predictor (0.07 "
    "TFLOP at 2048 tokens) and its glimpse token are not counted.",
    "- memory: the largest peak of any image, weights included, and the median of what was needed above them.",
)


def write_timing_page(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Write ``reproduction.md`` and ``reproduction.json`` of a timed setting; return the figures.

    Raises:
        ConfigError: the folder's lines are no measurements.
    """
    own = folder / setting.sets[0].name
    found: Found = {"table": table.name, "setting": setting.name, "deviations": [], "rows": [], "errors": []}
    found |= {"images": 0, "of": setting.images, "device": None}
    ran = (own / RECORD).is_file()
    if ran:
        record = run_folder(own).record(table.name)
        device, new_tokens = record["options"]["device"], record["options"]["new_tokens"]
        said = deviations(table, setting, setting.sets[0], record)
        if device != "cuda":
            said.append(f"times of {device} say nothing about a GPU, and memory is the process's")
        if new_tokens != setting.new_tokens:
            said.append(f"answers of {new_tokens} tokens, not {setting.new_tokens}")
        found |= {"deviations": said, "device": record["device name"]}
        _summarise(own, [row.name for row in setting.rows], found)
    write_both(table, setting, folder, found, ran, _body(setting, found), _READING)
    return found


def _summarise(folder: Path, names: Sequence[str], found: Found) -> None:
    """Add the images that every row measured, the rows' figures over them, and what went wrong."""
    lines: dict[str, dict[str, Any]] = {name: {} for name in names}
    for line in (line for path in answer_files(folder) for line in read_lines(path)):
        if line["error"] is not None:
            found["errors"].append(f"{line['id']}: {line['error']}")
        elif line["config"] in lines:
            if "seconds" not in line or "flops" not in line:
                raise ConfigError(f"{folder} holds answers, not measurements: pass --restart or another folder")
            lines[line["config"]].setdefault(line["id"], line)
    whole = sorted(set.intersection(*(set(each) for each in lines.values())))
    found["errors"] = sorted(set(found["errors"]))
    found["images"] = len(whole)
    base = [lines[BASELINE_ROW][image] for image in whole]
    if whole:
        found["rows"] = [_row(name, [lines[name][image] for image in whole], base) for name in names]


def _row(name: str, own: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    times = {part: ([b["seconds"][part] for b in base], [line["seconds"][part] for line in own]) for part in TIMES}
    memory = [line["memory"] for line in own if line["memory"]["peak"] is not None]
    return {
        "row": name,
        "seconds": {part: Quantiles.of(ours).to_dict() for part, (_, ours) in times.items()},
        "ratio": {part: Quantiles.of(np.divide(theirs, ours)).to_dict() for part, (theirs, ours) in times.items()},
        "kept": fmean(line["tokens"]["kept"] / line["tokens"]["visual"] for line in own),
        "cache_length": fmean(line["cache_length"] for line in own),
        "flops": {part: fmean(line["flops"][part] for line in own) for part in ("decoder", "vision", "decode_step")},
        "memory": {
            "how": own[0]["memory"]["how"], "peak": max((each["peak"] for each in memory), default=None),
            "above": Quantiles.of([each["peak"] - each["before"] for each in memory]).to_dict() if memory else None,
        },
    }  # fmt: skip


def _body(setting: Setting, found: Found) -> list[str]:
    partial = "**PARTIAL**: " if found["images"] < found["of"] else ""
    lines = ["## Coverage", "", f"{partial}{found['images']} of {found['of']} images were measured.", ""]
    lines += [f"- not measured: {error}" for error in found["errors"]] + ([""] if found["errors"] else [])
    lines += ["## Published, theirs", "", *(f"- {each}" for each in figure_lines(setting)), "", "## Ours", ""]
    if not found["rows"]:
        return [*lines, "Nothing was measured.", ""]
    return [*lines, f"On {found['device']}.", "", *_tables(found["rows"]), ""]


def _tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    times = [[row["row"], *(_time(row, part) for part in TIMES)] for row in rows]
    names = ("row", "vision, ms", "decoder, ms", "first token, ms", "decode, ms a token", "whole answer, ms")
    rest = [
        [
            row["row"], percent(row["kept"], 1), f"{row['cache_length']:.1f}", f"{row['flops']['decoder'] / 1e12:.3g}",
            f"{row['flops']['vision'] / 1e12:.3g}", f"{row['flops']['decode_step'] / 1e9:.3g}", *_memory(row["memory"]),
        ]
        for row in rows
    ]  # fmt: skip
    more = (
        "row", "kept", "KV length", "decoder, TFLOP", "vision, TFLOP", "decode, GFLOP a token", "peak, GB", "above, GB",
    )  # fmt: skip
    return [*Table(names, times).markdown("---"), "", *Table(more, rest).markdown("---")]


def _time(row: Mapping[str, Any], part: str) -> str:
    time, ratio = row["seconds"][part], row["ratio"][part]
    text = f"{1000 * time['median']:.1f} ({1000 * time['low']:.1f} to {1000 * time['high']:.1f})"
    return text if row["row"] == BASELINE_ROW else f"{text}, {ratio['median']:.2f}x"


def _memory(memory: Mapping[str, Any]) -> list[str]:
    if memory["peak"] is None:
        return ["not measured", "not measured"]
    return [f"{memory['peak'] / 1e9:.2f}", f"{memory['above']['median'] / 1e9:.2f}"]
