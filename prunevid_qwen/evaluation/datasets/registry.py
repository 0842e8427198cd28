"""Which benchmarks are known, under their papers' names, and what reading one gives."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.annotations import Shelves
from prunevid_qwen.evaluation.datasets.record import Record

ProblemKind = Literal["missing", "unreadable", "damaged"]


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used as it is.

    Args:
        kind: "missing", "unreadable" (nothing of it can be used) or "damaged" (a part of it can).
        path: of the file or folder.
        why: one clause.
        records: ids of the questions that need it.
    """

    kind: ProblemKind
    path: str
    why: str
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What a reader is asked for.

    Args:
        folder: that the user named.
        part: one of the benchmark's parts.
        subtitles: read them too.
        cache: as in `Shelves`.
    """

    folder: Path
    part: str
    subtitles: bool = False
    cache: Path | None = None

    def shelves(self, *repositories: str) -> Shelves:
        """Return where annotation files may lie."""
        return Shelves(self.folder, repositories, self.cache)


@dataclass(frozen=True)
class Dataset:
    """What a folder holds of a benchmark.

    Args:
        name, title: "videomme" and "Video-MME".
        part: such as "subset" and "full" of EgoSchema.
        folder: as named by the user.
        records: in the order of the annotation files; ids are unique.
        annotations: files that the records were read from, for a fingerprint of the questions.
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


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be read.

    Args:
        name: as in commands.
        title: as in its paper.
        parts: the first is the default.
        layout: what its folder holds, a line each.
        subtitles: whether it has any.
        read: turns a folder into records.
    """

    name: str
    title: str
    parts: tuple[str, ...]
    layout: str
    subtitles: bool
    read: Callable[[Wanted], Dataset]


_BENCHMARKS: dict[str, Benchmark] = {}


def register(
    name: str, title: str, parts: tuple[str, ...], layout: str, subtitles: bool = False
) -> Callable[[Callable[[Wanted], Dataset]], Callable[[Wanted], Dataset]]:
    """Make a reader known; see `Benchmark` for the arguments."""

    def keep(read: Callable[[Wanted], Dataset]) -> Callable[[Wanted], Dataset]:
        _BENCHMARKS[name] = Benchmark(name, title, parts, layout, subtitles, read)
        return read

    return keep


def names() -> tuple[str, ...]:
    """Return the names of the benchmarks, sorted."""
    return tuple(sorted(_BENCHMARKS))


def benchmark(name: str) -> Benchmark:
    """Find a benchmark; "Video-MME", "video_mme" and "videomme" are one.

    Raises:
        ConfigError: there is none of that name; the nearest is offered.
    """
    by_spelling = {_bare(spelling): each for each in _BENCHMARKS.values() for spelling in (each.name, each.title)}
    if _bare(name) in by_spelling:
        return by_spelling[_bare(name)]
    close = difflib.get_close_matches(_bare(name), by_spelling, n=1)
    meant = f"did you mean {by_spelling[close[0]].name}? " if close else ""
    raise ConfigError(f"no data set {quoted(name)}: {meant}There are {', '.join(names())}")


def read_dataset(
    name: str, folder: Path, part: str | None = None, subtitles: bool = False, cache: Path | None = None
) -> Dataset:
    """Read a benchmark from the folder that it was downloaded to; no video is opened.

    Args:
        name: of `names()`, in any spelling.
        folder: laid out as its `Benchmark.layout`, or as lmms-eval leaves its videos, with the questions in the cache.
        part: of the benchmark; None for the first.
        subtitles: read them too, where the benchmark has some.
        cache: folder of the caches "hub" and "datasets" of Hugging Face's libraries; None for their own.

    Returns:
        Its records, whether or not their videos are there: `check` says which are not.

    Raises:
        ConfigError: an unknown name or part, a folder that holds no questions of it, or an annotation that cannot be
            right.
        SetupError: pyarrow is needed and not installed.
    """
    known = benchmark(name)
    if part is not None and part not in known.parts:
        raise ConfigError(f"{known.name} has the parts {', '.join(known.parts)}; got {quoted(part)}")
    if not folder.is_dir():
        there = "it is a file" if folder.exists() else f"there is none (looked from {Path.cwd()})"
        raise ConfigError(f"{folder} is to be the folder of {known.title}, but {there}. It holds:\n{known.layout}")
    if subtitles and not known.subtitles:
        have = ", ".join(each for each in names() if _BENCHMARKS[each].subtitles)
        raise ConfigError(f"{known.title} has no subtitles; {have} have some")
    found = known.read(Wanted(folder, part or known.parts[0], subtitles, cache))
    seen: dict[str, int] = {}
    for position, record in enumerate(found.records):
        before = seen.setdefault(record.id, position)
        if before != position:
            raise ConfigError(
                f"{known.title}: questions {before} and {position} both have the id {record.id}, and answers are "
                "stored by id: an annotation file was joined with itself or edited; download it again"
            )
    return found


def no_questions(wanted: Wanted, name: str, looked_for: str) -> ConfigError:
    """Return the error for a folder without annotation files; a folder in it that has them is offered."""
    known = _BENCHMARKS[name]
    held = sorted(path.name for path in wanted.folder.iterdir())
    shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") or "nothing"
    below = [
        path for path in sorted(wanted.folder.iterdir()) if path.is_dir() and _bare(path.name) == _bare(known.title)
    ]
    meant = f"Did you mean {below[0]}? " if below else ""
    return ConfigError(
        f"no questions of {known.title} in {wanted.folder}, nor in the cache of datasets: looked for {looked_for}, the "
        f"folder holds {shown}. {meant}It is laid out as:\n{known.layout}"
    )


def _bare(name: str) -> str:
    return name.lower().replace("*", "star").translate(str.maketrans("", "", "-_ "))
