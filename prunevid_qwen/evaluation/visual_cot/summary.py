"""Figures of a run: per set and config, over all samples (micro) and as the mean of the sets (macro).

Questions about one image are not independent, so standard errors and intervals take images as what was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_folder import ANSWERS
from prunevid_qwen.evaluation.report.intervals import paired_difference
from prunevid_qwen.evaluation.visual_cot.configs import BASELINE
from prunevid_qwen.evaluation.visual_cot.folder import Line, recorded, whole_lines
from prunevid_qwen.evaluation.visual_cot.judge import INSTRUCTIONS, Judge
from prunevid_qwen.evaluation.visual_cot.judging import judgements, marked
from prunevid_qwen.evaluation.visual_cot.scoring import contained, exact

SCORERS = ("judge", "exact", "contained")
MICRO, MACRO = "all samples", "mean of sets"

DEFINITIONS = {
    "score": "mean of what the scorer gives, from 0 to 1, over the samples that were answered; an answer without a "
    "judgement counts as 0 (GlimpsePrune does so too)",
    "exact": "share of answers equal to the reference but for case, space, articles, punctuation at the ends",
    "contained": "share of answers in which the reference, normalised so, stands as whole words",
    "standard_error": "of the score, images taken as what was drawn; of the mean of sets, from those of the sets",
    "difference": "score minus the baseline's on the samples that both answered; interval: 95 %, by drawing images; of "
    "the mean of sets: 1.96 standard errors",
    "answered": "samples with an answer; the others are errors (a missing image, a record without reference) or were "
    "not asked yet, and no score holds them",
    "kept_ratio": "visual tokens left after all stages / visual tokens of the image, averaged over samples (what "
    "GlimpsePrune calls retained)",
    "tokens": "visual tokens, averaged over samples; layer_average is their mean over the decoder's layers",
    "unjudged": "share of answers without a score: no reply to the request, or a reply that says none (unparsed)",
    "error_rate": "share of samples that could not be answered",
    MICRO: "every sample weighs the same",
    MACRO: "every set that has answers weighs the same, as in the papers' averages",
}

_MEANS = ("exact", "contained", "unjudged", "unparsed", "kept_ratio", "generated_tokens")
_TOKENS = ("visual", "after_stage1", "after_stage2", "layer_average")

Row = dict[str, Any]


def summarise(folder: Path, scorer: str, judge: Judge | None = None) -> dict[str, Any]:
    """Compute every figure of a run from its stored lines.

    Args:
        folder: of the run.
        scorer: one of ``SCORERS``.
        judge: whose judgements count, for scorer "judge"; answers that it did not judge count as 0.

    Raises:
        ConfigError: the folder holds no run, or no answer at all.
    """
    record = recorded(folder)
    lines = whole_lines(folder / ANSWERS)
    if not any(line["error"] is None for line in lines):
        said = f" (the first error: {lines[0]['error']})" if lines else ""
        raise ConfigError(f"{folder} holds no answer to score{said}")
    known = judgements(folder) if scorer == "judge" else {}
    scored = [{**_scored(line, scorer, judge, known), "sample": (line["set"], line["id"])} for line in lines]
    sets: dict[str, int] = record["samples"]
    rows = [row for name, count in sets.items() for row in _rows(name, count, scored, list(record["configs"]))]
    everything = [{**line, "set": MICRO} for line in scored]
    micro = _rows(MICRO, sum(sets.values()), everything, list(record["configs"]))
    macro = [_mean_of_sets([row for row in rows if row["config"] == name]) for name in record["configs"]]
    return {
        "what": record["what"],
        "scorer": scorer,
        "judge": None if judge is None else {"model": judge.model, "base_url": judge.base_url, "prompt": INSTRUCTIONS},
        "model_path": record["options"]["model_path"],
        "model": record["options"]["model"],
        "suffix": record["options"]["suffix"],
        "max_new_tokens": record["options"]["max_new_tokens"],
        "versions": record["versions"],
        "code_sha256": record["code_sha256"],
        "configs": record["configs"],
        "sets": sets,
        "definitions": DEFINITIONS,
        "rows": [*rows, *macro, *micro],
    }


def standard_error(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Return the standard error of a mean whose values come in clusters; None for a single cluster.

    With one value in each cluster it is the usual one, sample standard deviation / sqrt(n).

    Args:
        values: ``[n]``, at least one.
        clusters: ``[n]``, what each belongs to.
    """
    deviations = np.asarray(values, dtype=np.float64) - np.mean(values)
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(place, weights=deviations)
    if len(sums) < 2:
        return None
    return float(math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum())) / len(deviations))


def _scored(line: Line, scorer: str, judge: Judge | None, known: dict[str, float | None]) -> Line:
    if line["error"] is not None:
        return line
    found: dict[str, Any] = {
        "exact": float(exact(line["answer"], line["reference"])),
        "contained": float(contained(line["answer"], line["reference"])),
        "unparsed": 0.0,
        "unjudged": 0.0,
    }
    if judge is not None and scorer == "judge":
        key = judge.key(marked(line))
        found["judge"] = known.get(key) or 0.0
        found["unparsed"] = float(key in known and known[key] is None)
        found["unjudged"] = float(known.get(key) is None)
    return {**line, **found, "score": found[scorer]}


def _rows(name: str, count: int, lines: Sequence[Line], configs: Sequence[str]) -> list[Row]:
    by_config = {
        config: [line for line in lines if line["set"] == name and line["config"] == config] for config in configs
    }
    baseline = {line["sample"]: line for line in _answered(by_config.get(BASELINE, []))}
    return [_row(name, config, count, own, baseline) for config, own in by_config.items()]


def _row(name: str, config: str, count: int, lines: Sequence[Line], baseline: dict[tuple[str, int], Line]) -> Row:
    own = _answered(lines)
    row: Row = {"set": name, "config": config, "samples": count, "answered": len(own)}
    row["error_rate"] = (len(lines) - len(own)) / count
    for figure in ("score", *_MEANS):
        row[figure] = fmean(line[figure] for line in own) if own else None
    row["tokens"] = {part: fmean(line["tokens"][part] for line in own) if own else None for part in _TOKENS}
    images = [line["image"] for line in own]
    row["standard_error"] = standard_error([line["score"] for line in own], images) if own else None
    pairs = [(line, baseline[line["sample"]]) for line in own if line["sample"] in baseline]
    row["difference"] = None if config == BASELINE or not pairs else _difference(pairs)
    return row


def _difference(pairs: Sequence[tuple[Line, Line]]) -> dict[str, Any]:
    ours, theirs = [mine["score"] for mine, _ in pairs], [other["score"] for _, other in pairs]
    images = [mine["image"] for mine, _ in pairs]
    found = paired_difference(ours, theirs, images)
    return {
        "value": found.value,
        "interval": found.interval and list(found.interval),
        "pairs": len(pairs),
        "standard_error": standard_error([a - b for a, b in zip(ours, theirs, strict=True)], images),
    }


def _mean_of_sets(rows: Sequence[Row]) -> Row:
    own = [row for row in rows if row["answered"]]
    mean: Row = {"set": MACRO, "config": rows[0]["config"], "sets": len(own), "of_sets": len(rows)}
    for figure in ("samples", "answered"):
        mean[figure] = sum(row[figure] for row in rows)
    for figure in ("score", *_MEANS):
        mean[figure] = fmean(row[figure] for row in own) if own else None
    mean["error_rate"] = fmean(row["error_rate"] for row in rows)
    mean["tokens"] = {part: fmean(row["tokens"][part] for row in own) if own else None for part in _TOKENS}
    mean["standard_error"] = _joint([row["standard_error"] for row in own])
    differences = [row["difference"] for row in own if row["difference"]]
    mean["difference"] = None
    if differences:
        value, error = fmean(each["value"] for each in differences), _joint([d["standard_error"] for d in differences])
        interval = None if error is None else [value - 1.96 * error, value + 1.96 * error]
        pairs = sum(each["pairs"] for each in differences)
        mean["difference"] = {"value": value, "interval": interval, "pairs": pairs, "standard_error": error}
    return mean


def _joint(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.sqrt(sum(error**2 for error in known)) / len(known)


def _answered(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["error"] is None]
