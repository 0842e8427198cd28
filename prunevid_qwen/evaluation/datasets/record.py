"""One question of a benchmark, the same whatever folder it came from, and a folder's questions with what it lacks.

A reader turns a folder as downloaded into these and knows nothing of prompts, frames or scores; what comes after it
knows nothing of folders. Nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

MediaKind = Literal["video", "image", "frames"]
ProblemKind = Literal["missing", "unreadable", "damaged"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Subtitle:
    """What is said between two moments of a video, both in seconds from its first frame; `text` is one line."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Media:
    """Where one video, image or folder of frames lies, and which part of it the question is about.

    kind: "video" (a file), "image" (a file) or "frames" (a folder with one picture a frame).
    path: where the data set says it is, whether or not it exists there.
    start, end: seconds; None for the file's own. Passed on as the annotation has them: `end` may lie after the last
        frame, and the two may be equal or swapped.
    fps: pictures a second of a frame folder; None for files, which know theirs.
    subtitles: in the order of the file, whole video; () where the data set has none for it.
    """

    kind: MediaKind
    path: str
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    subtitles: tuple[Subtitle, ...] = ()


@dataclass(frozen=True)
class Record:
    """One question.

    id: unique within the data set, and the same on every machine.
    media: what is shown, in order.
    question: verbatim.
    options: their texts without letters, verbatim and in order: the first is A. () for an open question.
    answer: the letter among `options`, the text itself for an open question, None where the authors keep it.
    groups: what results are averaged over ("task", "duration", "domain", ...), and "video": whose questions share a
        video and therefore luck.
    """

    id: str
    media: tuple[Media, ...]
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options and self.answer is not None and self.answer not in tuple(self.letters):
            raise ValueError(
                f"record {self.id}: the answer is {self.answer!r}, but the options have the letters {self.letters}"
            )
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))

    def __reduce__(self) -> tuple[type[Record], tuple[object, ...]]:
        # a mapping proxy does not pickle, and records travel to worker processes
        return Record, (self.id, self.media, self.question, self.options, self.answer, dict(self.groups))

    @property
    def letters(self) -> str:
        """One letter for each option: "ABCD" for four, "" for an open question."""
        return LETTERS[: len(self.options)]

    @property
    def answer_text(self) -> str | None:
        """The right option's text, or the answer itself of an open question; None where it is hidden."""
        return self.options[self.letters.index(self.answer)] if self.answer and self.options else self.answer


@dataclass(frozen=True)
class Problem:
    """A file or folder that cannot be used as it is.

    kind: "missing", "unreadable" (nothing of it can be used) or "damaged" (a part of it can).
    path: of it.
    why: one clause.
    records: ids of the questions that need it.
    """

    kind: ProblemKind
    path: str
    why: str
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """What a folder holds of a benchmark.

    name, title: "videomme" and "Video-MME".
    part: such as "subset" and "full" of EgoSchema.
    folder: as named by the user.
    records: in the order of the annotation files; ids are unique.
    annotations: files that the records were read from.
    by: the group of a record that published tables break down first.
    published: questions of the complete benchmark.
    problems: annotation and subtitle files that are missing or broken.
    notes: sentences on what is unusual and no error.
    advice: (part of a path, what to do when files with it are missing).
    """

    name: str
    title: str
    part: str
    folder: Path
    records: tuple[Record, ...]
    annotations: tuple[Path, ...]
    by: str
    published: int
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    advice: tuple[tuple[str, str], ...] = ()
