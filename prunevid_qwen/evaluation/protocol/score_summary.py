"""Figures of a run from its stored answers: offline, as often as one likes, by our scorer and by other harnesses'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.dataset_layout import benchmark
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.protocol.answer_lines import AnswerLine, join
from prunevid_qwen.evaluation.protocol.harness_scorers import SCORERS, columns_of
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.evaluation.protocol.scorers import Output
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

_BASELINE = "baseline"  # the unpruned configuration, against which the others are paired


@dataclass(frozen=True)
class Manifest:
    """The questions of a data set as it was found, counted: without it a table cannot say what share it is of."""

    dataset: str  # "mvbench", ...
    by: str  # the axis that published tables break down first: "task", "duration", ...
    published: int | None  # questions of the complete data set, or None where that is not known
    samples: int  # questions with a known answer
    hidden: int  # questions whose answers the authors keep
    groups: Mapping[str, Mapping[str, int]]  # axis -> group, in the order of the data set -> its samples

    @classmethod
    def of(cls, records: Iterable[Record], dataset: str, by: str, published: int | None) -> Manifest:
        """Count the records of a data set: all of them, not those that a run was limited to.

        Raises:
            ConfigError: no record has a known answer.
        """
        records = list(records)
        known = [record for record in records if record.answer is not None]
        groups: dict[str, dict[str, int]] = {by: {}}
        for record in known:
            for axis, group in record.groups.items():
                if axis != "video":
                    counts = groups.setdefault(axis, {})
                    counts[group] = counts.get(group, 0) + 1
        if not known:
            raise ConfigError(
                f"none of the {len(records)} questions of {dataset} has a known answer: export the answers for the "
                "authors' server instead of scoring them here"
            )
        return cls(dataset, by, published, len(known), len(records) - len(known), groups)

    @property
    def found(self) -> int:
        """How many questions the data folder held."""
        return self.samples + self.hidden

    @property
    def is_part(self) -> bool:
        """Whether the data set was found smaller than it was published."""
        return self.published is not None and self.found < self.published

    @property
    def groups_published(self) -> int:
        """How many groups the average over `by` is of, where the data set is complete."""
        return max(len(self.groups.get(self.by, {})), benchmark(self.dataset).groups)


@dataclass(frozen=True)
class _Scored:
    line: AnswerLine
    scores: Mapping[str, float | None]  # by scorer; empty where there is an error
    unparsed: bool = False
    drawn: tuple[str, ...] = ()  # scorers that would draw an option

    @property
    def score(self) -> float:
        return self.scores["ours"] or 0.0


def _scored(line: AnswerLine, columns: Mapping[str, str], prefill: str) -> _Scored:
    if line.raw is None:
        return _Scored(line, {})
    output = Output(line.raw, line.options, prefill)
    readings = {name: SCORERS[scorer](output) for name, scorer in {"ours": "ours", **columns}.items()}
    scores = {name: reading.score(line.answer, len(line.options)) for name, reading in readings.items()}
    drawn = tuple(name for name, reading in readings.items() if reading.then == "random")
    return _Scored(line, scores, readings["ours"].letter is None, drawn)


def summarise(
    lines: Iterable[AnswerLine], manifest: Manifest, protocol: EvalProtocol, configs: Sequence[str] | None = None
) -> dict[str, Any]:
    """Compute every figure of a run.

    Args:
        lines: in any order, from any number of files; see `lines.join` for what is there twice.
        manifest: how many questions the data set has.
        protocol: how they were asked.
        configs: who was asked, in the order of the tables; None for those that answered, the baseline first.

    Returns:
        What `tables` shows. Rows: all questions, the mean of the groups of ``manifest.by``, each group of each axis.

    Raises:
        ConfigError: no line has an answer, more lines than questions, a configuration that is not in ``configs``, or
            the protocol of another data set.
    """
    if protocol.dataset != manifest.dataset:
        raise ConfigError(f"a protocol for {protocol.dataset} does not go with the questions of {manifest.dataset}")
    joined, columns = join(lines), columns_of(manifest.dataset)
    scored = [_scored(line, columns, protocol.text.prefill) for line in joined.lines if line.answer is not None]
    if not any(each.scores for each in scored):
        said = next((f" (the first error: {each.line.error})" for each in scored), "")
        raise ConfigError(f"no answer to score{said}: run the evaluation first, or look at its errors")
    there = {each.line.config for each in scored}
    names = sorted(there, key=lambda name: (name != _BASELINE, name)) if configs is None else list(configs)
    if unknown := sorted(there - set(names)):
        raise ConfigError(f"there are answers of {', '.join(unknown)}, who are not among {', '.join(names)}")
    rows = []
    for axis, group, count in _groups(manifest):
        of_group = [each for each in scored if axis in (ALL, MEAN) or each.line.groups.get(axis) == group]
        base = {each.line.id: each for each in of_group if each.line.config == _BASELINE and each.scores}
        for config in names:
            own = [each for each in of_group if each.line.config == config]
            if len(own) > count:
                raise ConfigError(
                    f"{config!r} has lines of {len(own)} questions of {group}, which has {count}: these are answers to "
                    "other questions than those of the data set that was counted"
                )
            row: Row = {"axis": axis, "group": group, "config": config, "samples": count}
            rows.append(row | _figures(axis, count, own, {} if config == _BASELINE else base, columns, manifest))
    return {
        "dataset": manifest.dataset,
        "protocol": protocol.to_dict(),
        "manifest": asdict(manifest),
        "baseline": _BASELINE,
        "configs": names,
        "columns": dict(columns),
        "conflicts": [list(each) for each in joined.conflicts],
        "definitions": DEFINITIONS,
        "rows": rows,
    }


def _groups(manifest: Manifest) -> list[tuple[str, str, int]]:
    axes = sorted(manifest.groups, key=lambda axis: axis != manifest.by)
    groups = [(axis, group, count) for axis in axes for group, count in manifest.groups[axis].items()]
    by = manifest.groups.get(manifest.by)
    mean = [(MEAN, manifest.by, sum(by.values()))] if by else []
    return [(ALL, "all questions", manifest.samples), *mean, *groups]


def _figures(
    axis: str,
    count: int,
    lines: Sequence[_Scored],
    base: Mapping[str, _Scored],
    columns: Mapping[str, str],
    manifest: Manifest,
) -> Row:
    if axis == MEAN:
        lines = [each for each in lines if manifest.by in each.line.groups]
    own = [each for each in lines if each.scores]
    strata = [each.line.groups[manifest.by] if axis == MEAN else "" for each in own]
    errors = len(lines) - len(own)
    row: Row = {"answered": len(own), "errors": errors, "error_rate": errors / count}
    row["unparsed_rate"] = fmean(each.unparsed for each in own) if own else None
    if axis == MEAN:
        row["groups"], row["of_groups"] = len(set(strata)), manifest.groups_published
    row["partial"] = len(own) < count or manifest.is_part or row.get("groups") != row.get("of_groups")
    found = mean_of_strata([each.score for each in own], strata, [each.line.video for each in own]) if own else None
    row["score"] = found and found.value
    row["standard_error"] = found and found.standard_error
    if axis == MEAN:  # a group that is not there could all be wrong
        sums: dict[str, float] = {}
        for each, stratum in zip(own, strata, strict=True):
            sums[stratum] = sums.get(stratum, 0.0) + each.score
        shares = (sums.get(name, 0.0) / of for name, of in manifest.groups[manifest.by].items())
        row["floor"] = sum(shares) / manifest.groups_published
    else:
        row["floor"] = sum(each.score for each in own) / count
    pairs = [(each, base[each.line.id]) for each in own if each.line.id in base]
    row["difference"] = _difference(pairs, manifest.by if axis == MEAN else None) if pairs else None
    row["columns"] = {name: _column(name, own, strata) for name in columns}
    return row


def _column(name: str, own: Sequence[_Scored], strata: Sequence[str]) -> dict[str, Any]:
    kept = [(each.scores[name], stratum) for each, stratum in zip(own, strata, strict=True)]
    counted = [(value, stratum, str(i)) for i, (value, stratum) in enumerate(kept) if value is not None]
    value = mean_of_strata(*zip(*counted, strict=True)).value if counted else None
    drawn = sum(name in each.drawn for each in own)
    return {"score": value, "counted": len(counted), "drawn_rate": drawn / len(own) if own else None}


def _difference(pairs: Sequence[tuple[_Scored, _Scored]], by: str | None) -> dict[str, Any]:
    ours, theirs = [mine.score for mine, _ in pairs], [other.score for _, other in pairs]
    videos = [mine.line.video for mine, _ in pairs]
    strata = [mine.line.groups[by] if by else "" for mine, _ in pairs]
    mean = mean_of_strata([a - b for a, b in zip(ours, theirs, strict=True)], strata, videos)
    interval = normal_interval(mean.value, mean.standard_error)
    if by is None:
        drawn = paired_difference(ours, theirs, videos).interval
        interval = drawn and list(drawn)
    return {"value": mean.value, "interval": interval, "standard_error": mean.standard_error, "pairs": len(pairs)}
