"""What a benchmark's folder lacks, and what in it cannot be read, said before any model is loaded."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.datasets.annotations import without_letters
from prunevid_qwen.evaluation.datasets.dataset_layout import benchmark
from prunevid_qwen.evaluation.datasets.record import Dataset, Problem, ProblemKind

_ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tar.part*", "*.zip.part*")
_SHOWN = 5
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


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
        groups = {name: {"askable": good, "questions": count} for name, (good, count) in self.by_group.items()}
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
            f"by_{data.by}": groups,
            "problems": [
                {"kind": each.kind, "path": each.path, "why": each.why, "questions": list(each.records)}
                for each in self.problems
            ],
            "notes": list(self.notes),
            "next_steps": list(self.next_steps),
            "complete": self.complete,
        }


def check(
    dataset: Dataset, decode: bool = False, tell: Callable[[str, int, int], None] = lambda *_: None
) -> FolderReport:
    """Look at every file that a question needs; each is opened, and its length compared with what its header promises.

    With ``decode`` all of it is read, which finds what is broken inside.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    for record in dataset.records:
        for media in record.media:
            wanted.setdefault((media.kind, media.path), []).append(record.id)
    found: dict[str, Problem] = {}
    counts: Counter[str] = Counter()  # of files under a folder that is not there: it stands once for all of them
    unusable: set[str] = set()
    for number, ((kind, path), ids) in enumerate(wanted.items(), 1):
        missing = ("missing", "a folder of frames" if kind == "frames" else kind)
        wrong: Any = damage(kind, Path(path), decode) if os.path.exists(path) else missing
        if wrong is not None:
            problem = Problem(wrong[0], path, wrong[1], tuple(ids))
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


def _notes(dataset: Dataset) -> Iterator[str]:
    count, records = len(dataset.records), dataset.records
    if count != dataset.published:
        yield f"{count} questions were found, the published set has {dataset.published}: scores are of these {count}"
    early = [
        record.id
        for record in records
        for media in record.media
        if media.start is not None and media.end is not None and media.end <= media.start
    ]
    equal = [record.id for record in records if len(set(record.options)) < len(record.options)]
    lettered = [record.id for record in records if without_letters(record.options) != record.options]
    for found, said in (
        (early, "end where they begin or before it"),
        (equal, "have two options of the same text (the first counts as the answer where it is one of them)"),
        (lettered, f"have options that begin with their letters: add labelled: true to record in {dataset.name}.yaml"),
    ):
        if found:
            yield f"{len(found)} questions {said}, such as {found[0]}"


def _next_steps(dataset: Dataset, problems: tuple[Problem, ...], media: int) -> Iterator[str]:
    missing = [problem for problem in problems if problem.kind == "missing"]
    broken = [problem.path for problem in problems if problem.kind != "missing"]
    patterns = [depth + pattern for pattern in _ARCHIVES for depth in ("", "*/")] if missing else []
    archives = sorted({path for pattern in patterns for path in dataset.folder.glob(pattern) if path.is_file()})
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


def _and_more(paths: Sequence[Any]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


# ---- one file


def damage(kind: str, path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    """Say what is wrong with a video, an image or a folder of frames that exists, None if nothing is."""
    try:
        return {"image": _image, "frames": _frames, "video": _video}[kind](path, decode)
    except MediaError as error:
        return "unreadable", str(error)


def _video(path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    if not decode:
        from prunevid_qwen.video.paths import local_file
        from prunevid_qwen.video.pyav import open_container

        container, _ = open_container(local_file(path))
        container.close()
        size, promised = path.stat().st_size, promised_bytes(path)
        if promised is not None and promised > size:
            return "damaged", f"it was cut short: its header promises {promised} bytes, {size} are there"
        return None
    from prunevid_qwen.video import read_video
    from prunevid_qwen.video.video_read import Remark

    video = read_video(path, max_frames=2, time_limit=None)
    wrong = [note.removeprefix(f"{path}: ") for note in video.warnings if not isinstance(note, Remark)]
    return ("damaged", "; ".join(wrong)) if wrong else None


def _image(path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    from PIL import Image

    from prunevid_qwen.video import read_image

    if decode:
        read_image(path)
        return None
    try:
        with Image.open(path) as image:
            image.verify()
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:  # all that Pillow's readers raise
        return "unreadable", f"it is no readable image ({error})"
    return None


def _frames(folder: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    from prunevid_qwen.video.frames import IMAGE_SUFFIXES, natural_order

    try:
        held = os.listdir(folder)
    except OSError as error:
        return "unreadable", f"it cannot be listed as a folder of frames ({error.strerror})"
    pictures = [name for name in held if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    names = sorted(pictures, key=natural_order)
    if not names:
        return "unreadable", f"the folder holds no frame among its {len(held)} files"
    for name in names if decode else names[:1]:
        if found := _image(folder / name, decode):
            return found[0], f"{name}: {found[1]}"
    stems = [Path(name).stem for name in names]
    if not all(stem.isascii() and stem.isdigit() for stem in stems):
        return None
    there = set(map(int, stems))
    absent = [number for number in range(1, max(there) + 1) if number not in there]
    shown = ", ".join(map(str, absent[:_SHOWN])) + (", ..." if len(absent) > _SHOWN else "")
    why = f"{len(absent)} of {max(there)} frames are not there (number {shown}): later ones would move in time"
    return ("damaged", why) if absent else None


def promised_bytes(path: Path) -> int | None:
    """Return the least length in bytes that a video file states for itself, None where it states none.

    One that a broken download cut short, and whose index comes first, opens, and even plays, without its later frames.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _BOXES:
            return _end_of_boxes(file, path.stat().st_size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            stated = struct.unpack("<I", head[4:8])[0]
            return stated + 8 if 0 < stated < 0xFFFFFFFF else None  # what was streamed states nothing
        if head[:4] != _EBML:
            return None
        file.seek(4)
        file.seek(_stated(file) or 0, 1)
        length = _stated(file) if file.read(4) == _SEGMENT else None
        return None if length is None else file.tell() + length


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8 or not kind.isalnum():  # up to the end of the file, or no box
            break
        at += length
    return at


def _stated(file: BinaryIO) -> int | None:
    """Read a number of EBML's variable length; all ones mean that it is not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    unknown = (1 << 7 * (extra + 1)) - 1
    value = int.from_bytes(first + file.read(extra), "big") & unknown
    return None if value == unknown else value
