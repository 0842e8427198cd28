"""How many questions there are, whatever was answered: without it a table cannot say what share it is of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.layout import benchmark
from prunevid_qwen.evaluation.datasets.record import Record


@dataclass(frozen=True)
class Manifest:
    """The questions of a data set as it was found, counted."""

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
        groups: dict[str, dict[str, int]] = {by: {}}
        samples = hidden = 0
        for record in records:
            if record.answer is None:
                hidden += 1
                continue
            samples += 1
            for axis, group in record.groups.items():
                if axis != "video":
                    counts = groups.setdefault(axis, {})
                    counts[group] = counts.get(group, 0) + 1
        if not samples:
            raise ConfigError(
                f"none of the {hidden} questions of {dataset} has a known answer: export the answers for the authors' "
                "server instead of scoring them here"
            )
        return cls(dataset, by, published, samples, hidden, groups)

    @property
    def is_part(self) -> bool:
        """Whether the data set was found smaller than it was published."""
        return self.published is not None and self.samples + self.hidden < self.published

    @property
    def groups_published(self) -> int:
        """How many groups the average over `by` is of, where the data set is complete."""
        return max(len(self.groups.get(self.by, {})), benchmark(self.dataset).groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, ready for the JSON record of a run."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Manifest:
        """Read them back.

        Raises:
            ConfigError: another set of names than `to_dict` gives.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(counts) != sorted(names):
            raise ConfigError(f"a manifest has {', '.join(names)}; got {', '.join(counts) or 'nothing'}")
        return cls(**counts)
