"""Figures of a run from its stored answers: offline, as often as one likes, by our scorer and by other harnesses'."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from prunevid_qwen.errors import ConfigError, excerpt, quoted
from prunevid_qwen.evaluation.datasets.dataset_layout import benchmark
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.protocol.harness_scorers import SCORERS, columns_of
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.evaluation.protocol.scorers import Output
from prunevid_qwen.evaluation.report.intervals import mean_of_strata, normal_interval, paired_difference
from prunevid_qwen.evaluation.report.page import Row

Line = dict[str, Any]

ALL, MEAN = "all", "mean"
"""Axes of the two rows that are of no group: every question weighs the same; every group of ``Manifest.by`` does."""

BASELINE = "baseline"
"""The unpruned config, against which the others are paired."""

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

_NEEDED = ("id", "config", "raw", "answer", "options", "groups", "error")


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
    def of(cls, records: Sequence[Record], dataset: str, by: str, published: int | None) -> Manifest:
        """Count the records of a data set: all of them, not those that a run was limited to."""
        known = [record for record in records if record.answer is not None]
        groups: dict[str, Counter[str]] = {by: Counter()}
        for record in known:
            for axis, group in record.groups.items():
                if axis != "video":
                    groups.setdefault(axis, Counter())[group] += 1
        counted = {axis: dict(counts) for axis, counts in groups.items()}
        return cls(dataset, by, published, len(known), len(records) - len(known), counted)

    @property
    def is_part(self) -> bool:
        """Whether the data set was found smaller than it was published."""
        return self.published is not None and self.samples + self.hidden < self.published

    @property
    def groups_published(self) -> int:
        """How many groups the average over `by` is of, where the data set is complete."""
        return max(len(self.groups.get(self.by, {})), benchmark(self.dataset).groups)


def join(lines: Iterable[Line]) -> tuple[list[Line], list[tuple[str, str]]]:
    """Keep one line for each config and question, by config, then id: an answer rather than an error.

    Of several it is the least by its text, whatever their order; (config, id) of what was answered differently is
    returned too. A `ConfigError` is of a line without options, or of one config's lines of different runs.
    """
    found, runs = defaultdict[tuple[str, str], list[Line]](list), defaultdict[str, set[str]](set)
    for line in lines:
        if missing := [name for name in _NEEDED if name not in line]:
            raise ConfigError(f"a stored line lacks {', '.join(missing)}: got {excerpt(', '.join(line)) or 'nothing'}")
        if not line["options"]:
            raise ConfigError(
                f"{line['id']} has no options: only multiple-choice questions are scored here, free answers by "
                "`prunevid eval visual-cot`"
            )
        found[line["config"], line["id"]].append(line)
        runs[line["config"]] |= {line["run"]} if line.get("run") else set()
    for config, hashes in sorted(runs.items()):
        if len(hashes) > 1:
            raise ConfigError(
                f"answers of {quoted(config)} come from {len(hashes)} different runs ({', '.join(sorted(hashes))}): "
                "something that could change an answer differs; aggregate each by itself"
            )
    kept = [min(same, key=_order) for _, same in sorted(found.items())]
    answers = {key: {line["raw"] for line in same if line["error"] is None} for key, same in sorted(found.items())}
    return kept, [key for key, said in answers.items() if len(said) > 1]


def _order(line: Line) -> tuple[Any, ...]:
    rest = json.dumps([line["answer"], line["options"], sorted(line["groups"].items()), line.get("run")])
    return line["error"] is not None, line["raw"] or "", line["error"] or "", rest


def summarise(
    lines: Iterable[Line], manifest: Manifest, protocol: EvalProtocol, configs: Sequence[str] | None = None
) -> dict[str, Any]:
    """Compute every figure of a run, its rows of all questions, the mean of ``manifest.by``, each group of each axis.

    ``configs`` is the order of the tables; None is of those that answered, the baseline first.

    Raises:
        ConfigError: as `join`, no line has an answer, or there are more lines than questions.
    """
    (kept, conflicts), columns = join(lines), columns_of(manifest.dataset)
    scored = [_scored(line, columns, protocol.text.prefill) for line in kept if line["answer"] is not None]
    if all(line["error"] is not None for line in scored):
        said = f" (the first error: {scored[0]['error']})" if scored else ""
        raise ConfigError(f"no answer to score{said}: run the evaluation first, or look at its errors")
    there = {line["config"] for line in scored}
    names = sorted(there, key=lambda name: (name != BASELINE, name)) if configs is None else list(configs)
    by = manifest.groups.get(manifest.by)
    groups = [(ALL, "all questions", manifest.samples), *([(MEAN, manifest.by, sum(by.values()))] if by else [])]
    for axis in sorted(manifest.groups, key=lambda axis: axis != manifest.by):
        groups += [(axis, group, count) for group, count in manifest.groups[axis].items()]
    rows = []
    for axis, group, count in groups:
        of_group = [line for line in scored if axis in (ALL, MEAN) or line["groups"].get(axis) == group]
        base = {line["id"]: line for line in of_group if line["config"] == BASELINE and line["error"] is None}
        for config in names:
            own = [line for line in of_group if line["config"] == config]
            if len(own) > count:
                raise ConfigError(
                    f"{config!r} has lines of {len(own)} questions of {group}, which has {count}: these are answers to "
                    "other questions than those of the data set that was counted"
                )
            row: Row = {"axis": axis, "group": group, "config": config, "samples": count}
            rows.append(row | _figures(axis, count, own, {} if config == BASELINE else base, columns, manifest))
    return {
        "dataset": manifest.dataset,
        "protocol": protocol.to_dict(),
        "manifest": asdict(manifest),
        "baseline": BASELINE,
        "configs": names,
        "columns": dict(columns),
        "conflicts": [list(each) for each in conflicts],
        "definitions": DEFINITIONS,
        "rows": rows,
    }


def _scored(line: Line, columns: Mapping[str, str], prefill: str) -> Line:
    if line["error"] is not None:
        return line
    options = line["options"]
    output = Output(line["raw"], tuple(options), prefill)
    readings = {name: SCORERS[scorer](output) for name, scorer in {"ours": "ours", **columns}.items()}
    scores = {name: reading.score(line["answer"], len(options)) for name, reading in readings.items()}
    drawn = [name for name, reading in readings.items() if reading.then == "random"]
    found = {"scores": scores, "score": scores["ours"] or 0.0, "unparsed": readings["ours"].letter is None}
    return {**line, **found, "drawn": drawn, "video": line["groups"].get("video", line["id"])}


def _figures(
    axis: str,
    count: int,
    lines: Sequence[Line],
    base: Mapping[str, Line],
    columns: Mapping[str, str],
    manifest: Manifest,
) -> Row:
    if axis == MEAN:
        lines = [line for line in lines if manifest.by in line["groups"]]
    own = [line for line in lines if line["error"] is None]
    scores, strata = [line["score"] for line in own], _strata(axis, own, manifest)
    errors = len(lines) - len(own)
    row: Row = {"answered": len(own), "errors": errors, "error_rate": errors / count}
    row["unparsed_rate"] = fmean(line["unparsed"] for line in own) if own else None
    if axis == MEAN:
        row["groups"], row["of_groups"] = len(set(strata)), manifest.groups_published
    row["partial"] = len(own) < count or manifest.is_part or row.get("groups") != row.get("of_groups")
    found = mean_of_strata(scores, strata, [line["video"] for line in own]) if own else (None, None)
    row["score"], row["standard_error"] = found
    row["floor"] = sum(scores) / count
    if axis == MEAN:  # a group that is not there could all be wrong
        sums: dict[str, float] = defaultdict(float)
        for score, stratum in zip(scores, strata, strict=True):
            sums[stratum] += score
        row["floor"] = sum(sums[name] / of for name, of in manifest.groups[manifest.by].items())
        row["floor"] /= manifest.groups_published
    pairs = [line for line in own if line["id"] in base]
    row["difference"] = None
    if pairs:
        ours, theirs = [line["score"] for line in pairs], [base[line["id"]]["score"] for line in pairs]
        videos, differences = [line["video"] for line in pairs], [a - b for a, b in zip(ours, theirs, strict=True)]
        value, error = mean_of_strata(differences, _strata(axis, pairs, manifest), videos)
        drawn = normal_interval(value, error) if axis == MEAN else paired_difference(ours, theirs, videos).interval
        row["difference"] = {"value": value, "interval": drawn and list(drawn), "standard_error": error}
        row["difference"]["pairs"] = len(pairs)
    row["columns"] = {}
    for name in columns:
        kept = [(line["scores"][name], stratum) for line, stratum in zip(own, strata, strict=True)]
        counted = [(value, stratum, str(i)) for i, (value, stratum) in enumerate(kept) if value is not None]
        score = mean_of_strata(*zip(*counted, strict=True)).value if counted else None
        rate = sum(name in line["drawn"] for line in own) / len(own) if own else None
        row["columns"][name] = {"score": score, "counted": len(counted), "drawn_rate": rate}
    return row


def _strata(axis: str, lines: Sequence[Line], manifest: Manifest) -> list[str]:
    return [line["groups"][manifest.by] if axis == MEAN else "" for line in lines]
