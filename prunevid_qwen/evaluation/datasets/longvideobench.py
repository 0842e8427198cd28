"""LongVideoBench (Wu et al., arXiv 2407.15754): the 1337 questions of its validation set, videos of up to an hour.

Its subtitles belong to the longer videos that the clips were cut from: see `read_longvideobench`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.annotations import Row, rows
from prunevid_qwen.evaluation.datasets.choices import letter_at
from prunevid_qwen.evaluation.datasets.places import existing, video_place
from prunevid_qwen.evaluation.datasets.record import Media, Record, Subtitle
from prunevid_qwen.evaluation.datasets.registry import Dataset, Problem, Wanted, no_questions, register
from prunevid_qwen.evaluation.datasets.subtitles import read_longvideobench

_REPOSITORIES = ("longvideobench/LongVideoBench",)
_NO_OPTION = "N/A"  # what the hub's tables fill up to five with
_FILES = {
    "val": (("lvb_val.json", "validation-*.parquet", "data/validation-*.parquet"), "validation", 1337),
    "test": (("lvb_test_wo_gt.json", "test-*.parquet", "data/test-*.parquet"), "test", 5341),
}
_GROUPS = ("duration_group", "question_category", "topic_category", "level")


@register(
    "longvideobench",
    "LongVideoBench",
    ("val", "test"),
    "  lvb_val.json\n"
    "  videos/<id>.mp4                videos.tar.part.*, joined and unpacked\n"
    "  subtitles/<id>_en.json         subtitles.tar, unpacked",
    subtitles=True,
)
def read(wanted: Wanted) -> Dataset:
    """Read a part's questions; those of "test" have no answers. Subtitles on request."""
    patterns, split, published = _FILES[wanted.part]
    shelves = wanted.shelves(*_REPOSITORIES)
    files = shelves.files(*patterns) or shelves.prepared("default", split)
    if not files:
        raise no_questions(wanted, "longvideobench", " or ".join(patterns[:2]))
    folders = existing([wanted.folder / "videos", wanted.folder])
    problems: dict[str, Problem] = {}
    records = tuple(_record(row, wanted, folders, problems) for row in rows(files))
    return Dataset(
        "longvideobench", "LongVideoBench", wanted.part, wanted.folder, records, tuple(files), "duration_group",
        published, tuple(problems.values()),
    )  # fmt: skip


def _record(row: Row, wanted: Wanted, folders: tuple[Path, ...], problems: dict[str, Problem]) -> Record:
    video = row.text("video_path")
    options = _options(row)
    answer = letter_at(row.text("correct_choice"), options, row.where) if wanted.part == "val" else None
    groups = {name: row.maybe(name) for name in _GROUPS if row.maybe(name)}
    said = _subtitles(row, wanted.folder, problems) if wanted.subtitles else ()
    media = Media("video", str(video_place(folders, video)), subtitles=said)
    return Record(row.text("id"), (media,), row.text("question"), options, answer, {**groups, "video": video})


def _options(row: Row) -> tuple[str, ...]:
    if "candidates" in row.values:
        return row.texts("candidates")
    options = [row.text(f"option{number}") for number in range(5)]
    while options and options[-1] == _NO_OPTION:
        options.pop()
    if not options:
        raise ConfigError(f"{row.where} has no options: download the annotation file again")
    return tuple(options)


def _subtitles(row: Row, folder: Path, problems: dict[str, Problem]) -> tuple[Subtitle, ...]:
    path = folder / "subtitles" / row.text("subtitle_path")
    first, duration = row.seconds("starting_timestamp_for_subtitles"), row.seconds("duration")
    try:
        return read_longvideobench(path, first or 0.0, duration)
    except MediaError as error:
        asking = (row.text("id"),)
        if path.exists():
            problem = Problem("unreadable", str(path), str(error), asking)
        elif path.parent.is_dir():
            problem = Problem("missing", str(path), "subtitles", asking)
        else:
            problem = Problem("missing", str(path.parent), "all subtitles (subtitles.tar, unpacked)", asking)
        before = problems.get(problem.path)
        problems[problem.path] = dataclasses.replace(problem, records=(*before.records, *asking)) if before else problem
        return ()
