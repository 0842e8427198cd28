"""What a run leaves behind: summary.json with every figure, summary.csv with a row each, report.md to read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.visual_cot.folder import REPORT, SUMMARY, TABLE, replace
from prunevid_qwen.evaluation.visual_cot.judge import Judge
from prunevid_qwen.evaluation.visual_cot.summary import MACRO, Row, summarise

_HEAD = (
    "set", "config", "answered", "score ± s.e.", "difference to baseline (95 %)", "kept", "visual tokens",
    "after all stages", "over layers", "generated tokens", "exact", "contained", "unjudged", "errors",
)  # fmt: skip


def write_report(folder: Path, scorer: str, judge: Judge | None = None) -> dict[str, Any]:
    """Write the three files and return the summary; arguments as of `summary.summarise`."""
    summary = summarise(folder, scorer, judge)
    replace(folder / SUMMARY, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())
    replace(folder / TABLE, csv_text(summary).encode())
    replace(folder / REPORT, report_text(summary).encode())
    return summary


def report_text(summary: dict[str, Any]) -> str:
    """Return the page: what was asked, what to beware of, the table."""
    lines = ["# Questions about images, with and without pruning", "", _about(summary), ""]
    for warning in warnings_of(summary):
        lines += [f"**{warning}**", ""]
    rows = [row for row in summary["rows"] if row["set"] != MACRO or row["of_sets"] > 1]
    lines += [
        _line(_HEAD),
        _line(["---"] * len(_HEAD)),
        *(_line(_cells(row, bool(summary["judge"]))) for row in rows),
        "",
    ]
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


def csv_text(summary: dict[str, Any]) -> str:
    """Return every row of the summary, flat."""
    flat = [_flat(row) for row in summary["rows"]]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


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
    tokens = row["tokens"]
    return [
        name, row["config"], coverage, score, _difference(row), _percent(row["kept_ratio"]),
        _number(tokens["visual"], 1), _number(tokens["after_stage2"], 1), _number(tokens["layer_average"], 1),
        _number(row["generated_tokens"], 1), _number(row["exact"]), _number(row["contained"]),
        _percent(row["unjudged"]) if judged else "", _percent(row["error_rate"]),
    ]  # fmt: skip


def _difference(row: Row) -> str:
    found = row["difference"]
    if found is None:
        return ""
    text = f"{found['value']:+.3f}"
    if found["interval"] is not None:
        text += " ({:+.3f} to {:+.3f})".format(*found["interval"])
    return text if found["pairs"] == row["samples"] else f"{text} of {found['pairs']}/{row['samples']}"


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "tokens":
            flat |= {f"tokens_{part}": number for part, number in value.items()}
        elif name == "difference":
            low, high = (value and value["interval"]) or (None, None)
            flat |= {"difference": value and value["value"], "difference_low": low, "difference_high": high}
            flat["pairs"] = value and value["pairs"]
        else:
            flat[name] = value
    return flat


def _number(value: float | None, digits: int = 3) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else percent(value, 1)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
