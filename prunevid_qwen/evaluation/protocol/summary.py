"""Figures of a run from its stored answers: offline, as often as one likes, by our scorer and by other harnesses'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.lines import Line, join
from prunevid_qwen.evaluation.protocol.manifest import Manifest
from prunevid_qwen.evaluation.protocol.outputs import Output
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.protocol.scorers import SCORERS, columns_of
from prunevid_qwen.evaluation.report.intervals import mean_of_strata, normal_interval, paired_difference
from prunevid_qwen.evaluation.report.page import Row

ALL, MEAN = "all", "mean"
"""Axes of the two rows that are of no group: every question weighs the same; every group of ``Manifest.by`` does."""

DEFINITIONS = {
    "score": "share of the answered questions that our scorer reads and finds right; unparsed answers are wrong",
    "standard_error": "of the score, with videos as what was drawn",
    "floor": "the score if all questions without an answer were answered wrong",
    "difference": "score minus that of the unpruned run on the questions that both answered; interval: 95 %, by "
    "drawing videos; of the mean of groups: 1.96 standard errors",
    "answered": "questions with an answer; others are errors (a broken video) or were not asked yet",
    "unparsed_rate": "share of the answered in which our scorer reads no option",
    "error_rate": "share of all questions that could not be asked",
    "columns": "what other harnesses' scorers would say of the same answers: counted is their denominator; what they "
    "would draw at random counts as 1 / options",
}


@dataclass(frozen=True)
class Scored:
    """A line and what scorers say of it; ``scores`` is empty where there is an error."""

    line: Line
    scores: Mapping[str, float | None]
    unparsed: bool = False
    drawn: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """Ours, in [0, 1]."""
        return self.scores["ours"] or 0.0


def score(line: Line, columns: Mapping[str, str], prefill: str) -> Scored:
    """Score one stored answer, ours under "ours".

    Args:
        line: with or without an error.
        columns: name -> scorer.
        prefill: of the prompt.
    """
    if line.raw is None:
        return Scored(line, {})
    output = Output(line.raw, line.options, prefill)
    readings = {name: SCORERS[scorer](output) for name, scorer in {"ours": "ours", **columns}.items()}
    return Scored(
        line,
        {name: reading.score(line.answer, len(line.options)) for name, reading in readings.items()},
        readings["ours"].letter is None,
        tuple(name for name, reading in readings.items() if reading.then == "random"),
    )


def summarise(
    lines: Iterable[Line],
    manifest: Manifest,
    protocol: Protocol,
    configs: Sequence[str] | None = None,
    baseline: str = "baseline",
) -> dict[str, Any]:
    """Compute every figure of a run.

    Args:
        lines: in any order, from any number of files; see `lines.join` for what is there twice.
        manifest: how many questions the data set has.
        protocol: how they were asked.
        configs: who was asked, in the order of the tables; None for those that answered, the baseline first.
        baseline: the unpruned configuration, against which the others are paired.

    Returns:
        What `tables` shows. Rows: all questions, the mean of the groups of ``manifest.by``, each group of each axis.

    Raises:
        ConfigError: no line has an answer, more lines than questions, a configuration that is not in ``configs``, or
            the protocol of another data set.
    """
    if protocol.dataset != manifest.dataset:
        raise ConfigError(f"a protocol for {protocol.dataset} does not go with the questions of {manifest.dataset}")
    joined = join(lines)
    columns = columns_of(manifest.dataset)
    scored = [score(line, columns, protocol.text.prefill) for line in joined.lines if line.answer is not None]
    if not any(each.scores for each in scored):
        said = next((f" (the first error: {each.line.error})" for each in scored), "")
        raise ConfigError(f"no answer to score{said}: run the evaluation first, or look at its errors")
    names = _configs(configs, scored, baseline)
    rows = []
    for axis, group, count in _groups(manifest):
        of_group = [each for each in scored if axis in (ALL, MEAN) or each.line.groups.get(axis) == group]
        base = {each.line.id: each for each in of_group if each.line.config == baseline and each.scores}
        for config in names:
            own = [each for each in of_group if each.line.config == config]
            if len(own) > count:
                raise ConfigError(
                    f"{config!r} has lines of {len(own)} questions of {group}, which has {count}: these are answers to "
                    "other questions than those of the data set that was counted"
                )
            if axis == MEAN:
                own = [each for each in own if manifest.by in each.line.groups]
            row = _row(axis, group, config, count, own, base if config != baseline else {}, columns, manifest)
            rows.append(row)
    return {
        "dataset": manifest.dataset,
        "protocol": protocol.to_dict(),
        "manifest": manifest.to_dict(),
        "baseline": baseline,
        "configs": list(names),
        "columns": dict(columns),
        "conflicts": [list(each) for each in joined.conflicts],
        "definitions": DEFINITIONS,
        "rows": rows,
    }


def _configs(asked: Sequence[str] | None, scored: Sequence[Scored], baseline: str) -> tuple[str, ...]:
    there = {each.line.config for each in scored}
    if asked is None:
        return tuple(sorted(there, key=lambda name: (name != baseline, name)))
    if unknown := sorted(there - set(asked)):
        raise ConfigError(f"there are answers of {', '.join(unknown)}, who are not among {', '.join(asked)}")
    return tuple(asked)


def _groups(manifest: Manifest) -> list[tuple[str, str, int]]:
    axes = sorted(manifest.groups, key=lambda axis: (axis != manifest.by, list(manifest.groups).index(axis)))
    groups = [(axis, group, count) for axis in axes for group, count in manifest.groups[axis].items()]
    mean = [(MEAN, manifest.by, sum(manifest.groups[manifest.by].values()))] if manifest.groups.get(manifest.by) else []
    return [(ALL, "all questions", manifest.samples), *mean, *groups]


def _row(
    axis: str,
    group: str,
    config: str,
    count: int,
    lines: Sequence[Scored],
    base: Mapping[str, Scored],
    columns: Mapping[str, str],
    manifest: Manifest,
) -> Row:
    own = [each for each in lines if each.scores]
    strata = [each.line.groups[manifest.by] if axis == MEAN else "" for each in own]
    row: Row = {"axis": axis, "group": group, "config": config, "samples": count, "answered": len(own)}
    row["errors"] = len(lines) - len(own)
    row["error_rate"] = row["errors"] / count
    row["unparsed_rate"] = fmean(each.unparsed for each in own) if own else None
    if axis == MEAN:
        row["groups"], row["of_groups"] = len(set(strata)), manifest.groups_published
    row["partial"] = len(own) < count or manifest.is_part or row.get("groups") != row.get("of_groups")
    values = [each.score for each in own]
    found = mean_of_strata(values, strata, [each.line.video for each in own]) if own else None
    row["score"] = found and found.value
    row["standard_error"] = found and found.standard_error
    sums: dict[str, float] = {}
    for value, stratum in zip(values, strata, strict=True):
        sums[stratum] = sums.get(stratum, 0.0) + value
    if axis == MEAN:  # a group that is not there could all be wrong
        shares = (sums.get(name, 0.0) / of for name, of in manifest.groups[manifest.by].items())
        row["floor"] = sum(shares) / manifest.groups_published
    else:
        row["floor"] = sum(values) / count
    pairs = [(each, base[each.line.id]) for each in own if each.line.id in base]
    row["difference"] = _difference(pairs, manifest.by if axis == MEAN else None) if pairs else None
    row["columns"] = {name: _column(name, own, strata) for name in columns}
    return row


def _column(name: str, own: Sequence[Scored], strata: Sequence[str]) -> dict[str, Any]:
    kept = [(each.scores[name], stratum) for each, stratum in zip(own, strata, strict=True)]
    counted = [(value, stratum, str(i)) for i, (value, stratum) in enumerate(kept) if value is not None]
    value = mean_of_strata(*zip(*counted, strict=True)).value if counted else None
    drawn = sum(name in each.drawn for each in own)
    return {"score": value, "counted": len(counted), "drawn_rate": drawn / len(own) if own else None}


def _difference(pairs: Sequence[tuple[Scored, Scored]], by: str | None) -> dict[str, Any]:
    ours, theirs = [mine.score for mine, _ in pairs], [other.score for _, other in pairs]
    videos = [mine.line.video for mine, _ in pairs]
    strata = [mine.line.groups[by] if by else "" for mine, _ in pairs]
    mean = mean_of_strata([a - b for a, b in zip(ours, theirs, strict=True)], strata, videos)
    interval = normal_interval(mean.value, mean.standard_error)
    if by is None:
        drawn = paired_difference(ours, theirs, videos).interval
        interval = drawn and list(drawn)
    return {"value": mean.value, "interval": interval, "standard_error": mean.standard_error, "pairs": len(pairs)}
