"""What a benchmark's folder lacks, and what in it cannot be read, said before any model is loaded."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.datasets.choices import without_letters
from prunevid_qwen.evaluation.datasets.damage import damage
from prunevid_qwen.evaluation.datasets.dataset_layout import benchmark
from prunevid_qwen.evaluation.datasets.places import packed
from prunevid_qwen.evaluation.datasets.record import Dataset, Problem

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FolderReport:
    """What `check` found."""

    dataset: Dataset
    media: int  # videos, images and frame folders that the questions name
    problems: tuple[Problem, ...]  # each file once; those of annotations and subtitles first
    askable: int  # questions whose media are all there and whole enough to be asked
    by_group: dict[str, tuple[int, int]]  # value of `Dataset.by`, in order -> (questions that can be asked, all)
    notes: tuple[str, ...]  # sentences on what is unusual and no problem
    next_steps: tuple[str, ...]  # what to do, most useful first

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


def check(dataset: Dataset, decode: bool = False, tell: Progress = lambda *_: None) -> FolderReport:
    """Look at every file that a question needs.

    Files are opened, and their length is compared with what their header promises. With ``decode`` every video is read
    to its end and its first and last frame and every image's pixels are decoded: that finds what is broken inside.
    ``tell`` is told of the progress: what is done, how many, of how many.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    for record in dataset.records:
        for media in record.media:
            wanted.setdefault((media.kind, media.path), []).append(record.id)
    found: dict[str, Problem] = {}
    counts: Counter[str] = Counter()  # of files under a folder that is not there: it stands once for all of them
    unusable: set[str] = set()
    for number, ((kind, path), ids) in enumerate(wanted.items(), 1):
        problem = _problem(kind, Path(path), decode, tuple(ids))
        if problem is not None:
            if problem.kind != "damaged":
                unusable.update(ids)
            folder = next(each for each in (Path(path), *Path(path).parents) if each.parent.exists())
            if problem.kind == "missing" and folder != Path(path):
                counts[str(folder)] += 1
                why = f"the whole folder, {counts[str(folder)]} of whose files are asked about"
                problem = dataclasses.replace(problem, path=str(folder), why=why)
            before = found[problem.path].records if problem.path in found else ()
            found[problem.path] = dataclasses.replace(problem, records=(*before, *problem.records))
        tell("checking", number, len(wanted))
    problems = (*dataset.problems, *found.values())
    groups = {record.id: record.groups.get(dataset.by, "") for record in dataset.records}
    good = Counter(group for name, group in groups.items() if name not in unusable)
    by_group = {group: (good[group], count) for group, count in Counter(groups.values()).items()}
    steps, notes = tuple(_next_steps(dataset, problems, len(wanted))), (*dataset.notes, *_notes(dataset))
    return FolderReport(dataset, len(wanted), problems, good.total(), by_group, notes, steps)


def _problem(kind: str, path: Path, decode: bool, ids: tuple[str, ...]) -> Problem | None:
    if not path.exists():
        return Problem("missing", str(path), "a folder of frames" if kind == "frames" else kind, ids)
    found = damage(kind, path, decode)
    return found and Problem(found[0], str(path), found[1], ids)


def _notes(dataset: Dataset) -> Iterator[str]:
    count = len(dataset.records)
    if count != dataset.published:
        yield f"{count} questions were found, the published set has {dataset.published}: scores are of these {count}"
    early = [
        record.id
        for record in dataset.records
        for media in record.media
        if media.start is not None and media.end is not None and media.end <= media.start
    ]
    if early:
        yield f"{len(early)} questions end where they begin or before it, such as {early[0]}"
    equal = [record.id for record in dataset.records if len(set(record.options)) < len(record.options)]
    if equal:
        first = "(the first counts as the answer where it is one of them)"
        yield f"{len(equal)} questions have two options of the same text {first}, such as {equal[0]}"
    lettered = [record.id for record in dataset.records if without_letters(record.options) != record.options]
    if lettered:
        where = f"add labelled: true to record in {dataset.name}.yaml"
        yield f"{len(lettered)} questions have options that begin with their letters, such as {lettered[0]}: {where}"


def _next_steps(dataset: Dataset, problems: tuple[Problem, ...], media: int) -> Iterator[str]:
    missing = [problem for problem in problems if problem.kind == "missing"]
    broken = [problem.path for problem in problems if problem.kind != "missing"]
    archives = packed(dataset.folder) if missing else []
    told = benchmark(dataset.name).advice.items()
    advice = [said for part, said in told if any(part in problem.path for problem in missing)]
    nothing = bool(media) and sum(len(problem.records) for problem in missing) >= len(dataset.records)
    if archives:
        yield f"unpack {_and_more(archives)}: there are archives in the folder that may hold what is missing"
    yield from dict.fromkeys(advice)
    if missing and nothing:
        yield f"nothing was found: is {dataset.folder} the right folder?"
    if missing and not (archives or advice or nothing):
        yield f"put {_and_more([each.path for each in missing])} there: the published set has them"
    if broken:
        yield f"download {_and_more(broken)} again"
    if problems:
        yield "or go on without them: a run leaves their questions out, and its tables say of how many the scores are"


def _and_more(paths: list[Any]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
