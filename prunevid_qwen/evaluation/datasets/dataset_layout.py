"""What a benchmark's YAML file says, `<name>.yaml` beside this file: the dataclasses are its schema.

Texts with braces are filled in for each row of the annotation file: ``{column}`` with its value, ``{column[0]}`` with
its first letter, ``{column?}`` with nothing where a row has none, ``{row}`` with the row's number, ``{part}`` with the
part's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prunevid_qwen.config.option_checks import nearest
from prunevid_qwen.errors import ConfigError, excerpt, quoted
from prunevid_qwen.evaluation.datasets.record import MediaKind
from prunevid_qwen.evaluation.yaml_data import Marked, build, read_as

_FILES = Path(__file__).parent


@dataclass(frozen=True)
class Fields:
    """Which column of a row is what."""

    id: str  # of the record, filled in; unique, and the same on every machine
    question: str  # filled in
    # the column of a list; one column for each option; or null: they stand in the question, a line each, as (A) or A.
    options: str | tuple[str, ...] | None
    # {letter: column} ("B", "(B)" or "B. its text"), {index: column} (from 0), {text: column} (the option's own); null
    # where the authors keep it
    answer: Mapping[str, str] | None
    groups: Mapping[str, str]  # name -> value, filled in; an empty one is left out. "video": whose questions share one
    labelled: bool = False  # options of the list begin with their letters, which are taken off
    filler: str = ""  # options of this text at the end are none
    tail: str = ""  # text at the question's end that belongs to a prompt, and is taken off
    strip: bool = False  # take spaces off both ends of question and options, as the harness does
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # group -> value -> a word for it

    def __post_init__(self) -> None:
        if self.answer is not None and (len(self.answer) != 1 or set(self.answer) - {"letter", "index", "text"}):
            raise ConfigError(f"answer is one of letter, index, text: a column; got {quoted(dict(self.answer))}")
        options = (self.options,) if isinstance(self.options, str) else self.options or ()
        for name, columns in (("options", options), ("answer", tuple((self.answer or {}).values()))):
            for column in columns:
                if "{" in column:
                    meant = excerpt(column.strip("{}"))
                    raise ConfigError(f"{name} names a column: write {meant}, without braces; got {quoted(column)}")
        if "video" not in self.groups:
            raise ConfigError(f"groups need video: whose questions share a video; got {', '.join(self.groups)}")


@dataclass(frozen=True)
class Join:
    """A .json file of one object, whose value for a column of the row is one more column."""

    file: str  # its pattern
    by: str  # the column
    only: bool = False  # rows that it has no value for are no questions; without it they lack the column
    needed: bool = True  # without the file the questions are looked for in the next form


@dataclass(frozen=True)
class Form:
    """One way in which the questions come."""

    files: tuple[str, ...]  # patterns of annotation files; the first that finds any counts
    prepared: str = ""  # "config/split" of what the `datasets` library made of the repository
    joins: Mapping[str, Join] = field(default_factory=dict)  # column -> where its values stand
    record: Marked | None = None  # fields that differ from the benchmark's own


@dataclass(frozen=True)
class Part(Form):
    """A part of a benchmark, such as val and test."""

    questions: int = 0  # as published, at least 1
    otherwise: tuple[Form, ...] = ()  # further forms, looked for after this one

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ConfigError(f"questions is the number of the complete part, at least 1; got {self.questions}")


@dataclass(frozen=True)
class MediaFiles:
    """Where videos or images lie."""

    path: tuple[str, ...] = ()  # filled in; several are tried in order, but for one whose column a row lacks
    folders: tuple[str, ...] = (".",)  # in which: patterns in the user's folder, "." itself
    kind: MediaKind = "video"  # "video", under any usual ending, or "image"
    python: Literal["", "mvbench"] = ""  # the function of this package that finds them instead

    def __post_init__(self) -> None:
        if not self.path and not self.python:
            raise ConfigError('media needs path: how a row names its video, such as ["{video}.mp4"]')


@dataclass(frozen=True)
class SubtitleFiles:
    """Where subtitles lie: .srt, or .json as LongVideoBench has them."""

    path: str  # filled in
    folders: tuple[str, ...]  # the first that is there counts
    archive: str  # in which they are downloaded, for messages
    first: str = ""  # column of seconds: where the clip begins in the video that the times are of
    duration: str = ""  # column of seconds
    silent: str = ""  # how many videos have none in the published set; "" where each has some


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be read."""

    title: str  # as in its paper; in small letters and without its signs it is the file's name
    source: str  # paper, and where the layout is described
    by: str  # the group that published tables break down first
    layout: str  # what its folder holds, a line each, for messages
    parts: Mapping[str, Part]  # the first is the default
    record: Marked  # see Fields
    media: MediaFiles
    repositories: tuple[str, ...] = ()  # of the hub, whose cached files are looked at after the folder
    subtitles: SubtitleFiles | None = None
    # a file for each of these ("{task}" in texts), with columns of its own for its rows; "questions" of it counts. One
    # that is missing is a problem of the folder and no error
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # pattern -> what to do where a folder holds only that
    advice: Mapping[str, str] = field(default_factory=dict)  # part of a path -> what to do when such a file is missing
    # column of the tables -> one of protocol/harness_scorers.py, which `columns_of` there looks up: with its place
    scorers: Mapping[str, Marked] = field(default_factory=dict)
    groups: int = 0  # how many of them a published average over `by` is of; 0 for those that are found
    name: str = ""  # set when it is read

    def __post_init__(self) -> None:
        for part in self.parts.values():
            for form in (part, *part.otherwise):
                if self.by not in (fields := self.fields(form)).groups:
                    raise ConfigError(f"by is {self.by!r}, none of the groups {', '.join(fields.groups)}")

    def fields(self, form: Form) -> Fields:
        """Return the fields of one form of the questions."""
        own = form.record.value if form.record else {}
        return build(Marked({**self.record.value, **own}, (form.record or self.record).where), Fields, "record")


def names() -> tuple[str, ...]:
    """Return the benchmarks' names, sorted."""
    return tuple(sorted(path.stem for path in _FILES.glob("*.yaml")))


def benchmark(name: str) -> Benchmark:
    """Find a benchmark ("Video-MME" and "videomme" are one); a `ConfigError` offers the nearest."""
    if bare(name) in names():
        return _read(bare(name))
    close = nearest(bare(name), names())
    meant = f"did you mean {close}? " if close else ""
    raise ConfigError(f"no data set {quoted(name)}: {meant}There are {', '.join(names())}")


@cache
def _read(name: str) -> Benchmark:
    return dataclasses.replace(read_as(_FILES / f"{name}.yaml", Benchmark), name=name)


def bare(name: str) -> str:
    """Return a title as a name."""
    return name.lower().replace("*", "star").translate(str.maketrans("", "", "-_ "))
