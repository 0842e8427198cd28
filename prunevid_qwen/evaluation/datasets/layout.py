"""What a benchmark's YAML file says: where its questions and media lie, and which column is what.

`<name>.yaml` beside this file makes a benchmark known by that name; the dataclasses here are its schema. Texts with
braces are filled in for each row of the annotation file: ``{column}`` with its value, ``{column[0]}`` with the first
letter of that, ``{column?}`` with nothing where a row has none, ``{row}`` with the row's number from 0, ``{part}`` with
the part's name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.record import MediaKind
from prunevid_qwen.evaluation.yaml_data import Marked, build, read_as

_FILES = Path(__file__).parent


@dataclass(frozen=True)
class Fields:
    """Which column of a row is what.

    Args:
        id: of the record, filled in; unique, and the same on every machine.
        question: filled in.
        options: the column of a list, one column for each option, or None: they stand in the question, a line each,
            marked (A) or A.
        answer: its column, and what is in it: ``{letter: column}`` ("B", "(B)" or "B. its text"), ``{index: column}``
            (from 0) or ``{text: column}`` (the option's own); None where the authors keep it.
        groups: name -> value, filled in; "video" says whose questions share a video. An empty one is left out.
        labelled: options of the list begin with their letters, which are taken off.
        filler: options of this text at the end are none.
        tail: text at the question's end that belongs to a prompt, and is taken off.
        strip: take spaces off both ends of question and options, as the harness does.
        words: group -> value -> a word for it.
    """

    id: str
    question: str
    options: str | tuple[str, ...] | None
    answer: Mapping[str, str] | None
    groups: Mapping[str, str]
    labelled: bool = False
    filler: str = ""
    tail: str = ""
    strip: bool = False
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.answer is not None and (len(self.answer) != 1 or set(self.answer) - {"letter", "index", "text"}):
            raise ConfigError(f"answer is one of letter, index, text: a column; got {quoted(dict(self.answer))}")
        if "video" not in self.groups:
            raise ConfigError(f"groups need video: whose questions share a video; got {', '.join(self.groups)}")


@dataclass(frozen=True)
class Join:
    """A .json file of one object, whose value for a column of the row is one more column.

    Args:
        file: its pattern.
        by: the column.
        only: rows that it has no value for are no questions; without it they lack the column.
        needed: without the file the questions are looked for elsewhere.
    """

    file: str
    by: str
    only: bool = False
    needed: bool = True


@dataclass(frozen=True)
class Form:
    """One way in which the questions come.

    Args:
        files: patterns of annotation files; the first that finds any counts.
        prepared: "config/split" of what the `datasets` library made of the repository, or "".
        joins: column -> where its values stand.
        record: fields that differ from the benchmark's own.
    """

    files: tuple[str, ...]
    prepared: str = ""
    joins: Mapping[str, Join] = field(default_factory=dict)
    record: Marked | None = None


@dataclass(frozen=True)
class Part(Form):
    """A part of a benchmark, such as val and test.

    Args:
        questions: as published.
        otherwise: further forms, looked for after this one.
    """

    questions: int = 0
    otherwise: tuple[Form, ...] = ()

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ConfigError(f"questions is the number of the complete part, at least 1; got {self.questions}")


@dataclass(frozen=True)
class MediaFiles:
    """Where videos or images lie.

    Args:
        path: filled in; several are tried in order, and one is passed over where a row lacks its column.
        folders: in which; patterns of the user's folder, "." itself.
        kind: "video", under any usual ending, or "image".
        python: a function of this package that finds them instead, for what cannot be said here.
    """

    path: tuple[str, ...] = ()
    folders: tuple[str, ...] = (".",)
    kind: MediaKind = "video"
    python: Literal["", "mvbench"] = ""

    def __post_init__(self) -> None:
        if not self.path and not self.python:
            raise ConfigError('media needs path: how a row names its video, such as ["{video}.mp4"]')


@dataclass(frozen=True)
class SubtitleFiles:
    """Where subtitles lie: .srt, or .json as LongVideoBench has them.

    Args:
        path: filled in.
        folders: the first that is there counts.
        archive: in which they are downloaded, for messages.
        first, duration: columns of seconds, "" for none: where the clip begins in the video that the times are of, and
            how long it is.
        silent: how many videos have none in the published set; "" where each has some.
    """

    path: str
    folders: tuple[str, ...]
    archive: str
    first: str = ""
    duration: str = ""
    silent: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be read.

    Args:
        title: as in its paper; without its signs and in small letters it is the file's name.
        source: paper, and where the layout is described.
        by: the group that published tables break down first.
        layout: what its folder holds, a line each, for messages.
        parts: the first is the default.
        record: see `Fields`.
        media: see `MediaFiles`.
        repositories: of the hub, whose cached files are looked at after the folder.
        subtitles: see `SubtitleFiles`; None where there are none.
        each: a file for each of these ("{task}" in texts), with columns of its own for its rows; "questions" of it
            counts. One that is missing is a problem of the folder and no error.
        refused: pattern -> what to do instead, where the folder holds nothing but that.
        advice: part of a path -> what to do when a file with it is missing.
        scorers: column of the tables -> scorer of `protocol.scorers` that reads the same answers beside ours.
        groups: how many of them a published average over `by` is of; 0 for those that are found.
    """

    title: str
    source: str
    by: str
    layout: str
    parts: Mapping[str, Part]
    record: Marked
    media: MediaFiles
    repositories: tuple[str, ...] = ()
    subtitles: SubtitleFiles | None = None
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    advice: Mapping[str, str] = field(default_factory=dict)
    scorers: Mapping[str, str] = field(default_factory=dict)
    groups: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for part in self.parts.values():
            for form in (part, *part.otherwise):
                if self.by not in (fields := self.fields(form)).groups:
                    raise self.record.error(f"by is {self.by!r}, none of the groups {', '.join(fields.groups)}")

    def fields(self, form: Form) -> Fields:
        """Return the fields of one form of the questions."""
        own = form.record.value if form.record else {}
        return build(Marked({**self.record.value, **own}, (form.record or self.record).where), Fields, "record")


def names() -> tuple[str, ...]:
    """Return the names of the benchmarks, sorted."""
    return tuple(sorted(path.stem for path in _FILES.glob("*.yaml")))


def benchmark(name: str) -> Benchmark:
    """Find a benchmark; "Video-MME", "video_mme" and "videomme" are one.

    Raises:
        ConfigError: there is none of that name (the nearest is offered), or its file is wrong.
    """
    if bare(name) in names():
        return _read(bare(name))
    close = difflib.get_close_matches(bare(name), names(), n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"no data set {quoted(name)}: {meant}There are {', '.join(names())}")


@cache
def _read(name: str) -> Benchmark:
    return dataclasses.replace(read_as(_FILES / f"{name}.yaml", Benchmark), name=name)


def bare(name: str) -> str:
    """Return a title as a name."""
    return name.lower().replace("*", "star").translate(str.maketrans("", "", "-_ "))
