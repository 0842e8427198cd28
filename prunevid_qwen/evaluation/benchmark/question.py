"""A benchmark's records as tasks: those that share a video are read and encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.engine.reading import ReadMedia
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.evaluation.protocol.prompts import subtitles_at
from prunevid_qwen.evaluation.protocol.protocol import Protocol


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A record as a protocol asks it."""

    record: Record
    protocol: Protocol

    @property
    def id(self) -> str:
        """That of the record."""
        return self.record.id

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write the question; subtitles are those at the moments of the frames taken."""
        said = None
        if self.protocol.subtitles == "frames":
            said = [
                line
                for shown, read in zip(self.record.media, media, strict=True)
                for line in subtitles_at(shown.subtitles, read.timestamps)
            ]
        return self.protocol.text.write(self.record, said).messages(items)

    def about(self) -> Line:
        """Return what scorers need, and every choice of the protocol."""
        return {
            "id": self.record.id,
            "question": self.record.question,
            "options": list(self.record.options),
            "answer": self.record.answer,
            "groups": dict(self.record.groups),
            "protocol": self.protocol.to_dict(),
        }


def tasks_of(records: Sequence[Record], protocol: Protocol, configs: Sequence[str]) -> Iterator[Task]:
    """Yield the tasks of a run, in the order of the records; neighbours with the same media are one.

    Args:
        records: to be asked.
        protocol: how.
        configs: names of those that answer.
    """
    for media, same in groupby(records, key=lambda record: record.media):
        yield Task(media, tuple((BenchmarkQuestion(record, protocol), tuple(configs)) for record in same))


def spread(records: Sequence[Record], limit: int | None) -> Sequence[Record]:
    """Take ``limit`` records, equally spaced, so that a first try sees every part of a data set; None takes all."""
    if limit is None or limit >= len(records):
        return records
    return [records[i * len(records) // limit] for i in range(limit)]
