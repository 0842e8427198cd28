"""What a benchmark's folder lacks, and what in it cannot be read, said before any model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.datasets.places import packed
from prunevid_qwen.evaluation.datasets.probing import damage
from prunevid_qwen.evaluation.datasets.record import Dataset, Media, Problem, Record

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Args:
        dataset: what was checked.
        media: videos, images and frame folders that the questions name.
        problems: each file once; those of annotations and subtitles first.
        askable: questions whose media are all there and whole enough to be asked.
        by_group: value of `Dataset.by` -> (questions that can be asked, all), in the order of the records.
        notes: sentences on what is unusual and no problem.
        next_steps: what to do, most useful first.
    """

    dataset: Dataset
    media: int
    problems: tuple[Problem, ...]
    askable: int
    by_group: dict[str, tuple[int, int]]
    notes: tuple[str, ...]
    next_steps: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, unreadable or damaged."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        data = self.dataset
        return {
            "dataset": data.name,
            "part": data.part,
            "folder": str(data.folder),
            "annotations": [str(path) for path in data.annotations],
            "questions": len(data.records),
            "published_questions": data.published,
            "askable": self.askable,
            "media": self.media,
            "counts": dict(Counter(problem.kind for problem in self.problems)),
            f"by_{data.by}": {
                name: {"askable": good, "questions": all_} for name, (good, all_) in self.by_group.items()
            },
            "problems": [
                {"kind": each.kind, "path": each.path, "why": each.why, "questions": list(each.records)}
                for each in self.problems
            ],
            "notes": list(self.notes),
            "next_steps": list(self.next_steps),
            "complete": self.complete,
        }


def check(dataset: Dataset, decode: bool = False, tell: Tell = lambda *_: None) -> Report:
    """Look at every file that a question needs.

    Args:
        dataset: as read.
        decode: read every video to its end and decode its first and last frame, and every image's pixels: it finds
            what is broken inside, and takes as long as reading all bytes takes. Otherwise files are opened, and their
            length is compared with what their header promises.
        tell: told of the progress.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    for record in dataset.records:
        for media in record.media:
            wanted.setdefault((media.kind, media.path), []).append(record.id)
    found = _Found(list(dataset.problems))
    unusable: set[str] = set()
    for number, ((kind, path), ids) in enumerate(wanted.items(), 1):
        problem = _problem(kind, Path(path), decode, tuple(ids))
        if problem is not None:
            found.add(problem)
            if problem.kind != "damaged":
                unusable.update(ids)
        tell("checking", number, len(wanted))
    counted: dict[str, list[int]] = {}
    for record in dataset.records:
        counts = counted.setdefault(record.groups.get(dataset.by, ""), [0, 0])
        counts[0] += record.id not in unusable
        counts[1] += 1
    return Report(
        dataset,
        len(wanted),
        tuple(found.problems),
        len(dataset.records) - len(unusable),
        {name: (good, all_) for name, (good, all_) in counted.items()},
        (*dataset.notes, *_notes(dataset)),
        tuple(_next_steps(dataset, found.problems, len(wanted))),
    )


def _problem(kind: str, path: Path, decode: bool, ids: tuple[str, ...]) -> Problem | None:
    if not path.exists():
        return Problem("missing", str(path), "a folder of frames" if kind == "frames" else kind, ids)
    found = damage(kind, path, decode)
    return found and Problem(found[0], str(path), found[1], ids)


@dataclass
class _Found:
    """Problems so far; a folder that is not there stands once for all of its files."""

    problems: list[Problem]
    folders: dict[Path, tuple[int, int]] = field(default_factory=dict)  # -> place in `problems`, files asked about

    def add(self, problem: Problem) -> None:
        folder = Path(problem.path).parent
        if problem.kind != "missing" or folder.exists():
            self.problems.append(problem)
            return
        while not folder.parent.exists():
            folder = folder.parent
        place, files = self.folders.get(folder, (len(self.problems), 0))
        before = self.problems[place].records if files else ()
        why = f"the whole folder, {files + 1} of whose files are asked about"
        self.problems[place : place + 1] = [Problem("missing", str(folder), why, (*before, *problem.records))]
        self.folders[folder] = place, files + 1


def _notes(dataset: Dataset) -> Iterable[str]:
    count = len(dataset.records)
    if count != dataset.published:
        yield f"{count} questions were found, the published set has {dataset.published}: scores are of these {count}"
    for what, odd in (
        ("end where they begin or before it", _empty_windows),
        ("have two options of the same text (the first counts as the answer where it is one of them)", _equal_options),
    ):
        found = [record.id for record in dataset.records if odd(record)]
        if found:
            yield f"{len(found)} questions {what}, such as {found[0]}"


def _empty_windows(record: Record) -> bool:
    return any(_ends_early(media) for media in record.media)


def _ends_early(media: Media) -> bool:
    return media.start is not None and media.end is not None and media.end <= media.start


def _equal_options(record: Record) -> bool:
    return len(set(record.options)) < len(record.options)


def _next_steps(dataset: Dataset, problems: list[Problem], media: int) -> Iterable[str]:
    missing = [problem for problem in problems if problem.kind == "missing"]
    broken = [problem for problem in problems if problem.kind != "missing"]
    steps: list[str] = []
    if missing:
        archives = packed(dataset.folder)
        if archives:
            more = f" and {len(archives) - 1} more" if len(archives) > 1 else ""
            steps.append(f"unpack {archives[0]}{more}: there are archives in the folder that may hold what is missing")
        steps += dict.fromkeys(
            sentence for part, sentence in dataset.advice if any(part in problem.path for problem in missing)
        )
        if sum(len(problem.records) for problem in missing) >= len(dataset.records) and media:
            steps.append(f"nothing was found: is {dataset.folder} the right folder?")
        if not steps:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            steps.append(f"put {missing[0].path}{more} there: the published set has them")
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        steps.append(f"download {broken[0].path}{more} again")
    yield from steps
    if problems:
        yield "or go on without them: a run leaves their questions out, and its tables say of how many the scores are"
