"""One question of a benchmark, the same whatever folder it came from, and a folder's questions with what it lacks."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MediaKind = Literal["video", "image", "frames"]
ProblemKind = Literal["missing", "unreadable", "damaged"]

LETTERS = string.ascii_uppercase


@dataclass(frozen=True, slots=True)
class Subtitle:
    """What is said between two moments of a video, both in seconds from its first frame; `text` is one line."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Media:
    """Where one video, image or folder of frames lies, and which part of it the question is about."""

    kind: MediaKind  # "frames" is a folder with one picture a frame
    path: str  # where the data set says it is, whether or not it exists there
    # seconds, None for the file's own; as annotated: `end` may lie after the last frame, or before `start`
    start: float | None = None
    end: float | None = None
    fps: float | None = None  # pictures a second of a frame folder; None for files, which know theirs
    subtitles: tuple[Subtitle, ...] = ()  # in the order of the file, whole video


@dataclass(frozen=True)
class Record:
    """One question."""

    id: str  # unique within the data set, and the same on every machine
    media: tuple[Media, ...]  # what is shown, in order
    question: str  # verbatim
    options: tuple[str, ...] = ()  # their texts without letters, verbatim: the first is A. () for an open question
    answer: str | None = None  # the letter, the text itself for an open question, None where the authors keep it
    # what results are averaged over ("task", "duration", ...), and "video": whose questions share a video and its luck
    groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options and self.answer is not None and self.answer not in tuple(self.letters):
            raise ValueError(
                f"record {self.id}: the answer is {self.answer!r}, but the options have the letters {self.letters}"
            )

    @property
    def letters(self) -> str:
        """One letter for each option: "ABCD" for four, "" for an open question."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True)
class Problem:
    """A file or folder that cannot be used as it is."""

    kind: ProblemKind  # "unreadable": nothing of it can be used; "damaged": a part of it can
    path: str
    why: str  # one clause
    records: tuple[str, ...] = ()  # ids of the questions that need it


@dataclass(frozen=True)
class Dataset:
    """What a folder holds of a benchmark."""

    name: str  # "videomme"
    title: str  # "Video-MME"
    part: str  # such as "subset" and "full" of EgoSchema
    folder: Path  # as named by the user
    records: tuple[Record, ...]  # in the order of the annotation files; ids are unique
    annotations: tuple[Path, ...]  # files that the records were read from
    by: str  # the group of a record that published tables break down first
    published: int  # questions of the complete benchmark
    problems: tuple[Problem, ...] = ()  # annotation and subtitle files that are missing or broken
    notes: tuple[str, ...] = ()  # sentences on what is unusual and no error
