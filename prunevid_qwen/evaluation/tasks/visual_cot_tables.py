"""Figures and tables of a Visual-CoT run: per set and config, over all samples (micro), as the mean of sets (macro).

Questions about one image are not independent, so standard errors and intervals take images as what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.storing import TABLES, Progress, answers_of
from prunevid_qwen.evaluation.engine.task import Line
from prunevid_qwen.evaluation.protocol.score_summary import BASELINE
from prunevid_qwen.evaluation.protocol.scorers import contained, exact
from prunevid_qwen.evaluation.report.intervals import joint_error, normal_interval, paired_difference, standard_error
from prunevid_qwen.evaluation.report.page import Row, Table, csv_text, difference_text, flat, json_text, number, share
from prunevid_qwen.evaluation.store import RunFolder, read_lines, replace
from prunevid_qwen.evaluation.tasks.judge import INSTRUCTIONS, Judge, Judged, judge_all, judgements

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

_MEANS = ("score", "exact", "contained", "unjudged", "unparsed", "kept_ratio", "generated_tokens")
_TOKENS = ("visual", "after_stage1", "after_stage2", "layer_average")

Baseline = Mapping[tuple[str, int], Line]


def score_run(
    folder: Path, scorer: str, judge: Judge | None = None, workers: int = 4, tell: Progress = lambda *_: None
) -> dict[str, Any]:
    """Score the answers that a folder holds; write summary.json, summary.csv and report.md; return the summary.

    Args:
        scorer: "judge", "exact" or "contained".
        judge: who judges, for scorer "judge" alone; answers without a judgement count as 0.
        workers: requests to the judge at once.

    Raises:
        ConfigError: the folder holds no run, or no answer.
        SetupError: the judge cannot be reached.
    """
    lines = read_lines(answers_of(folder))
    if judge is not None:
        judge_all(folder, _answered(lines), judge, workers, tell)
    record = RunFolder(folder).record("prunevid eval visual-cot")
    if not _answered(lines):
        said = f" (the first error: {lines[0]['error']})" if lines else ""
        raise ConfigError(f"{folder} holds no answer to score{said}")
    known, sets, configs = judgements(folder), record["samples"], record["configs"]
    lines = [_scored(line, scorer, judge, known) for line in lines]
    baseline = {(line["set"], line["id"]): line for line in _answered(lines) if line["config"] == BASELINE}
    weighed: dict[str, list[list[str]]] = {name: [[name]] for name in sets}  # parts of a row, which weigh the same
    rows = []
    for group, parts in {**weighed, MACRO: [[name] for name in sets], MICRO: [list(sets)]}.items():
        for config in configs:
            own = [line for line in lines if line["config"] == config]
            of = [(sum(map(sets.get, names)), [e for n in names for e in own if e["set"] == n]) for names in parts]
            rows.append(_row(group, config, of, baseline))
    summary = {
        "what": record["what"],
        "scorer": scorer,
        "judge": None if judge is None else {"model": judge.model, "base_url": judge.base_url, "prompt": INSTRUCTIONS},
        **{name: record["options"][name] for name in ("model_path", "model", "suffix", "max_new_tokens")},
        **{name: record[name] for name in ("versions", "code_sha256", "configs")},
        "sets": sets,
        "definitions": DEFINITIONS,
        "rows": rows,
    }
    for name, text in zip(TABLES, (json_text(summary), csv_text(map(flat, rows)), report_text(summary)), strict=True):
        replace(folder / name, text.encode())
    return summary


def _answered(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["error"] is None]


def _scored(line: Line, scorer: str, judge: Judge | None, known: dict[str, float | None]) -> Line:
    if line["error"] is not None:
        return line
    found: dict[str, Any] = {
        "exact": float(exact(line["answer"], line["reference"])),
        "contained": float(contained(line["answer"], line["reference"])),
        "unparsed": 0.0,
        "unjudged": 0.0,
    }
    if judge is not None:
        key = judge.key(Judged.of(line))
        found["judge"] = known.get(key) or 0.0
        found["unparsed"] = float(key in known and known[key] is None)
        found["unjudged"] = float(known.get(key) is None)
    return {**line, **found, "score": found[scorer]}


def _row(name: str, config: str, parts: Sequence[tuple[int, list[Line]]], baseline: Baseline) -> Row:
    """Return a row of parts that weigh the same, each its number of samples and its lines: several of `MACRO` alone."""
    own = [answered for _, lines in parts if (answered := _answered(lines))]

    def mean(value: Callable[[Line], float]) -> float | None:
        return fmean(fmean(map(value, lines)) for lines in own) if own else None

    row: Row = {"set": name, "config": config}
    row |= {"sets": len(own), "of_sets": len(parts)} if name == MACRO else {}
    row |= {"samples": sum(count for count, _ in parts), "answered": sum(map(len, own))}
    row |= {} if name == MACRO else {"error_rate": 0.0}  # where stored summaries have it
    row |= {figure: mean(itemgetter(figure)) for figure in _MEANS}
    row["error_rate"] = fmean(sum(line["error"] is not None for line in lines) / count for count, lines in parts)
    row["tokens"] = {part: mean(lambda line, part=part: line["tokens"][part]) for part in _TOKENS}  # type: ignore[misc]
    row["standard_error"] = joint_error([_error(lines, [line["score"] for line in lines]) for lines in own])
    both = [[line for line in lines if (line["set"], line["id"]) in baseline] for lines in own]
    row["difference"] = None
    if config != BASELINE and any(both):
        drawn, errors = [], []
        for lines in filter(None, both):
            ours = [line["score"] for line in lines]
            theirs = [baseline[line["set"], line["id"]]["score"] for line in lines]
            drawn.append(paired_difference(ours, theirs, [line["image"] for line in lines]))
            errors.append(_error(lines, [a - b for a, b in zip(ours, theirs, strict=True)]))
        value, error = fmean(each.value for each in drawn), joint_error(errors)
        interval = normal_interval(value, error) if name == MACRO else drawn[0].interval
        row["difference"] = {"value": value, "interval": interval and list(interval)}
        row["difference"] |= {"pairs": sum(each.n for each in drawn), "standard_error": error}
    return row


def _error(lines: Sequence[Line], values: Sequence[float]) -> float | None:
    return standard_error(values, [line["image"] for line in lines])


# ---- the tables


def report_text(summary: dict[str, Any]) -> str:
    """Return the page: what was asked, what to beware of, the table."""
    judge = summary["judge"]
    scorer = f"the judge {judge['model']} at {judge['base_url']} (temperature 0)" if judge else summary["scorer"]
    lines = ["# Questions about images, with and without pruning", ""]
    lines += [
        f"Model {summary['model_path']}, greedy, at most {summary['max_new_tokens']} new tokens; after every question: "
        f"{summary['suffix'] or 'nothing'}. Scored by: {scorer}.",
        "",
    ]
    for warning in warnings_of(summary):
        lines += [f"**{warning}**", ""]
    rows = [_cells(row, bool(judge)) for row in summary["rows"] if row["set"] != MACRO or row["of_sets"] > 1]
    lines += [*Table(list(rows[0]), [list(row.values()) for row in rows]).markdown(), ""]
    lines += [f"- {name}: {text}" for name, text in summary["definitions"].items()]
    lines += ["", "Seconds stand in answers.jsonl; `prunevid bench speed` measures them as one should.", ""]
    return "\n".join(lines)


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """Say what keeps the figures from being what they look like."""
    said = []
    for row in (row for row in summary["rows"] if row["set"] in summary["sets"]):
        who, count = f"{row['set']}, {row['config']}", f"{row['answered']} of {row['samples']}"
        if row["answered"] < row["samples"]:
            said.append(f"{who}: only {count} samples were answered; the score is of these.")
        if row["unjudged"]:
            said.append(
                f"{who}: {share(row['unjudged'])} of the answers have no score of the judge ({share(row['unparsed'])} "
                "a reply without one, the others no reply): they count as 0."
            )
    return said


def _cells(row: Row, judged: bool) -> dict[str, str]:
    coverage, score = f"{row['answered']}/{row['samples']}", number(row["score"])
    if row["standard_error"] is not None:
        score += f" ± {row['standard_error']:.3f}"
    if row["answered"] < row["samples"] and row["score"] is not None:
        score += f" of {coverage}"
    part = f" ({row['sets']} of {row['of_sets']})" if row["set"] == MACRO and row["sets"] < row["of_sets"] else ""
    return {
        "set": row["set"] + part,
        "config": row["config"],
        "answered": coverage,
        "score ± s.e.": score,
        "difference to baseline (95 %)": difference_text(row["difference"], row["samples"]),
        "kept": share(row["kept_ratio"]),
        "visual tokens": number(row["tokens"]["visual"], 1),
        "after all stages": number(row["tokens"]["after_stage2"], 1),
        "over layers": number(row["tokens"]["layer_average"], 1),
        "generated tokens": number(row["generated_tokens"], 1),
        "exact": number(row["exact"]),
        "contained": number(row["contained"]),
        "unjudged": share(row["unjudged"]) if judged else "",
        "errors": share(row["error_rate"]),
    }
