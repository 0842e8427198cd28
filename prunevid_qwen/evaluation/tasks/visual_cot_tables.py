"""Figures and tables of a Visual-CoT run: per set and config, over all samples (micro), as the mean of sets (macro).

Questions about one image are not independent, so standard errors and intervals take images as what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.storing import Progress, answers_of
from prunevid_qwen.evaluation.engine.tasks import Line
from prunevid_qwen.evaluation.protocol.scorers import contained, exact
from prunevid_qwen.evaluation.report.intervals import joint_error, normal_interval, paired_difference, standard_error
from prunevid_qwen.evaluation.report.page import Table, csv_text, difference_text, flat, json_text
from prunevid_qwen.evaluation.store import RunFolder, read_lines, replace
from prunevid_qwen.evaluation.tasks.judge import INSTRUCTIONS, Judge, Marked, judge_all, judgements

BASELINE = "baseline"
TABLES = SUMMARY, FLAT, REPORT = ("summary.json", "summary.csv", "report.md")

_COMMAND = "prunevid eval visual-cot"

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


def answers_in(folder: Path) -> list[Line]:
    """Return the stored lines of a run, errors among them."""
    return read_lines(answers_of(folder))


def score_run(
    folder: Path, scorer: str, judge: Judge | None = None, workers: int = 4, tell: Progress = lambda *_: None
) -> dict[str, Any]:
    """Score the answers that a folder holds, write its report and return the summary.

    Args:
        folder: of a run, finished or not.
        scorer: "judge", "exact" or "contained".
        judge: who judges; None for the other scorers.
        workers: requests to the judge at once.
        tell: told of the progress.

    Raises:
        ConfigError: the folder holds no run, or no answer.
        SetupError: the judge cannot be reached.
    """
    if judge is not None:
        judge_all(folder, _answered(answers_in(folder)), judge, workers, tell)
    return write_report(folder, scorer, judge)


def summarise(folder: Path, scorer: str, judge: Judge | None = None) -> dict[str, Any]:
    """Compute every figure of a run from its stored lines.

    Args:
        folder: of the run.
        scorer: one of ``SCORERS``.
        judge: whose judgements count, for scorer "judge"; answers that it did not judge count as 0.

    Raises:
        ConfigError: the folder holds no run, or no answer at all.
    """
    record, lines = RunFolder(folder).record(_COMMAND), answers_in(folder)
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
        key = judge.key(Marked.of(line))
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
    mean["standard_error"] = joint_error([row["standard_error"] for row in own])
    differences = [row["difference"] for row in own if row["difference"]]
    mean["difference"] = None
    if differences:
        value, error = (
            fmean(each["value"] for each in differences),
            joint_error([d["standard_error"] for d in differences]),
        )
        pairs, interval = sum(each["pairs"] for each in differences), normal_interval(value, error)
        mean["difference"] = {"value": value, "interval": interval, "pairs": pairs, "standard_error": error}
    return mean


def _answered(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["error"] is None]


# ---- the tables

_HEAD = (
    "set", "config", "answered", "score ± s.e.", "difference to baseline (95 %)", "kept", "visual tokens",
    "after all stages", "over layers", "generated tokens", "exact", "contained", "unjudged", "errors",
)  # fmt: skip


def write_report(folder: Path, scorer: str, judge: Judge | None = None) -> dict[str, Any]:
    """Write summary.json with every figure, summary.csv with a row each, report.md to read; return the summary.

    Arguments and errors as of `summarise`.
    """
    summary = summarise(folder, scorer, judge)
    texts = (json_text(summary), csv_text(map(flat, summary["rows"])), report_text(summary))
    for name, text in zip(TABLES, texts, strict=True):
        replace(folder / name, text.encode())
    return summary


def report_text(summary: dict[str, Any]) -> str:
    """Return the page: what was asked, what to beware of, the table."""
    lines = ["# Questions about images, with and without pruning", "", _about(summary), ""]
    for warning in warnings_of(summary):
        lines += [f"**{warning}**", ""]
    rows = [row for row in summary["rows"] if row["set"] != MACRO or row["of_sets"] > 1]
    lines += [*Table(_HEAD, [_cells(row, bool(summary["judge"])) for row in rows]).markdown(), ""]
    lines += [f"- {name}: {text}" for name, text in summary["definitions"].items()]
    lines += ["", "Seconds stand in answers.jsonl; `prunevid bench speed` measures them as one should.", ""]
    return "\n".join(lines)


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """Say what keeps the figures from being what they look like."""
    said = []
    for row in summary["rows"]:
        if row["set"] in summary["sets"] and row["answered"] < row["samples"]:
            said.append(
                f"{row['set']}, {row['config']}: only {row['answered']} of {row['samples']} samples were answered, and "
                "the score is of these alone."
            )
        if row["set"] in summary["sets"] and row["unjudged"]:
            said.append(
                f"{row['set']}, {row['config']}: {percent(row['unjudged'], 1)} of the answers have no score of the "
                f"judge ({percent(row['unparsed'], 1)} a reply without one, the others no reply): they count as 0."
            )
    return said


def _about(summary: dict[str, Any]) -> str:
    how = f" Behind every question stood: {summary['suffix']!r}." if summary["suffix"] else ""
    scorer = summary["scorer"]
    if summary["judge"]:
        scorer = f"the judge {summary['judge']['model']} at {summary['judge']['base_url']} (temperature 0)"
    return (
        f"Model {summary['model_path']}, greedy, at most {summary['max_new_tokens']} new tokens.{how} "
        f"Scored by: {scorer}."
    )


def _cells(row: Row, judged: bool) -> list[str]:
    coverage = f"{row['answered']}/{row['samples']}"
    score = _number(row["score"])
    if row["standard_error"] is not None:
        score += f" ± {row['standard_error']:.3f}"
    if row["answered"] < row["samples"] and row["score"] is not None:
        score += f" of {coverage}"
    name = row["set"]
    if row["set"] == MACRO and row["sets"] < row["of_sets"]:
        name += f" ({row['sets']} of {row['of_sets']})"
    tokens, difference = row["tokens"], difference_text(row["difference"], row["samples"])
    return [
        name, row["config"], coverage, score, difference, _percent(row["kept_ratio"]),
        _number(tokens["visual"], 1), _number(tokens["after_stage2"], 1), _number(tokens["layer_average"], 1),
        _number(row["generated_tokens"], 1), _number(row["exact"]), _number(row["contained"]),
        _percent(row["unjudged"]) if judged else "", _percent(row["error_rate"]),
    ]  # fmt: skip


def _number(value: float | None, digits: int = 3) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else percent(value, 1)
