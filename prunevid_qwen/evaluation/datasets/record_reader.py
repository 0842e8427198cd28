"""A benchmark's folder as records, by what its YAML file says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.evaluation.datasets.annotations import (
    AnnotationRow,
    letter_of,
    matching,
    prepared,
    question_and_options,
    rows,
    snapshots,
    table,
    without_letters,
)
from prunevid_qwen.evaluation.datasets.dataset_layout import Benchmark, Fields, Form, bare, benchmark, names
from prunevid_qwen.evaluation.datasets.record import Dataset, Media, Problem, Record, Subtitle
from prunevid_qwen.evaluation.datasets.subtitles import read_subtitles

_ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
MVBENCH_FPS = 3.0  # of the frame folders, whose pictures are numbered from 1


def read_dataset(name: str, folder: Path, part: str | None = None, subtitles: bool = False) -> Dataset:
    """Read a benchmark from the folder that it was downloaded to; no video is opened, or need be there.

    Args:
        name: of `names()`, in any spelling.
        folder: laid out as its `Benchmark.layout`, or as lmms-eval leaves its videos, with the questions in the cache.
        part: of the benchmark; None for the first.
        subtitles: read them too.

    Raises:
        ConfigError: an unknown name or part, or an annotation that cannot be right.
        MediaError: no such folder, or no questions in it.
    """
    known = benchmark(name)
    if part is not None and part not in known.parts:
        raise ConfigError(f"{known.name} has the parts {', '.join(known.parts)}; got {quoted(part)}")
    if not folder.is_dir():
        there = "it is a file" if folder.exists() else f"there is none (looked from {Path.cwd()})"
        raise MediaError(f"{folder} is to be the folder of {known.title}, but {there}. It holds:\n{known.layout}")
    if subtitles and known.subtitles is None:
        have = ", ".join(each for each in names() if benchmark(each).subtitles)
        raise ConfigError(f"{known.title} has no subtitles; {have} have some")
    return _Reader(known, part or next(iter(known.parts)), folder, subtitles).read()


class _Reader:
    def __init__(self, known: Benchmark, part: str, folder: Path, subtitles: bool) -> None:
        self.known, self.part, self.folder = known, part, folder
        self.says = known.subtitles if subtitles else None
        self.forms: tuple[Form, ...] = (known.parts[part], *known.parts[part].otherwise)
        self.problems: dict[str, Problem] = {}
        self.cues = lru_cache(read_subtitles)  # several questions are about one video
        self.folders = lru_cache(self._folders)

    @cached_property
    def snapshots(self) -> list[Path]:
        return snapshots(self.known.repositories)

    def read(self) -> Dataset:
        known, records, files = self.known, dict[str, Record](), list[Path]()
        for task, columns in (known.each or {"": {}}).items():
            own = {"part": self.part, **columns, **({"task": task} if task else {})}
            form, paths, joined = self._find(own)
            if task and not paths:
                path = str(self.folder / self._filled(form.files[0], own))
                why = f"the {columns['questions']} questions of {task} are in it"
                self.problems[path] = Problem("missing", path, why)
            files += [*paths, *joined.values()] if paths else []
            for number, row in enumerate(_rows(form, paths, joined)):
                values = {"row": number, **row.values, **own}
                record = self._record(dataclasses.replace(row, values=values), known.fields(form))
                if records.setdefault(record.id, record) is not record:
                    raise ConfigError(
                        f"{known.title}: questions {list(records).index(record.id)} and {len(records)} both have the "
                        f"id {record.id}, and answers are stored by id: an annotation file was joined with itself or "
                        "edited; download it again, or let id in the benchmark's YAML file tell them apart"
                    )
        if not files:
            raise self._no_questions()
        notes = []
        if self.says and self.says.silent:
            said = {record.groups["video"]: bool(record.media[0].subtitles) for record in records.values()}
            silent = f"{list(said.values()).count(False)} of {len(said)} videos have no subtitles"
            notes.append(f"{silent} ({self.says.silent} in the published set)")
        return Dataset(
            known.name, known.title, self.part, self.folder, tuple(records.values()), tuple(files), known.by,
            known.parts[self.part].questions, tuple(self.problems.values()), tuple(notes),
        )  # fmt: skip

    def _filled(self, text: str, own: Mapping[str, Any]) -> str:
        return AnnotationRow(f"{self.known.name}.yaml", own).fill(text)

    def _find(self, own: Mapping[str, Any]) -> tuple[Form, list[Path], dict[str, Path]]:
        """Return the first form whose files are there, these, and those of its joins; without any, the first form.

        They are looked for in the user's folder, in cached snapshots, in what `datasets` prepared.
        """
        joined: list[tuple[Form, dict[str, Path]]] = []
        for form in self.forms:
            found = {name: self._first(join.file) for name, join in form.joins.items()}
            if all(found[name] or not join.needed for name, join in form.joins.items()):
                joined.append((form, {name: path for name, path in found.items() if path}))
        for root in self._roots():
            for form, there in joined:
                for pattern in form.files:
                    if paths := matching(root, self._filled(pattern, own)):
                        return form, paths, there
        for form, there in joined:
            config, _, split = self._filled(form.prepared, own).rpartition("/")
            if config and (paths := prepared(self.known.repositories, config, split)):
                return form, paths, there
        return self.forms[0], [], {}

    def _roots(self) -> Iterator[Path]:
        yield self.folder
        yield from self.snapshots  # which are looked for when the folder has been looked into

    def _first(self, pattern: str) -> Path | None:
        return next((path for root in self._roots() for path in matching(root, pattern)), None)

    def _record(self, row: AnnotationRow, fields: Fields) -> Record:
        name = row.fill(fields.id)
        row = dataclasses.replace(row, where=f"{row.where} ({name})")
        question, options = _question(row, fields)
        answer = None
        if fields.answer is not None:
            ((kind, column),) = fields.answer.items()
            answer = letter_of(row.text(column), kind, options, row.where, f"{self.known.name}.yaml")
        filled = {group: row.fill(text) for group, text in fields.groups.items()}
        groups = {group: fields.words.get(group, {}).get(text, text) for group, text in filled.items() if text}
        media = _mvbench_media(row, self.folder) if self.known.media.python else self._media(row)
        media = dataclasses.replace(media, subtitles=self._subtitles(row, name)) if self.says else media
        return Record(name, (media,), question, options, answer, groups)

    def _media(self, row: AnnotationRow) -> Media:
        place = self.known.media
        named = [path for path in place.path if all(row.values.get(c) is not None for c in _columns(path))]
        paths = [row.fill(path) for path in named or place.path[:1]]  # where there is none it names the column
        folders = self.folders(tuple(row.fill(folder) for folder in place.folders))
        if place.kind == "image":
            there = (folder / path for path in paths for folder in (*folders, *self.snapshots))
            found = next((path for path in there if path.exists()), None)
        else:
            found = next(filter(None, (_video_there(folders, path) for path in paths)), None)
        return Media(place.kind, str(found or folders[0] / paths[0]))

    def _folders(self, patterns: tuple[str, ...]) -> tuple[Path, ...]:
        return _existing(
            path
            for pattern in patterns
            for path in (sorted(self.folder.glob(pattern)) if "*" in pattern else [self.folder / pattern])
        )

    def _subtitles(self, row: AnnotationRow, asking: str) -> tuple[Subtitle, ...]:
        assert self.says is not None
        folder = _existing(self.folder / name for name in self.says.folders)[0]
        path = folder / row.fill(self.says.path)
        try:
            if path.exists():
                return self.cues(path, row.seconds(self.says.first) or 0.0, row.seconds(self.says.duration))
            problem = Problem("missing", str(path), "subtitles")
            if not folder.is_dir():
                problem = Problem("missing", str(folder), f"all subtitles ({self.says.archive}, unpacked)")
            elif self.says.silent:
                return ()
        except MediaError as error:
            problem = Problem("unreadable", str(path), str(error))
        before = self.problems.get(problem.path, problem).records
        self.problems[problem.path] = dataclasses.replace(problem, records=(*before, asking))
        return ()

    def _no_questions(self) -> MediaError:
        known = self.known
        for pattern, instead in known.refused.items():
            if matching(self.folder, pattern):
                return MediaError(f"{self.folder} {instead}")
        files = dict.fromkeys(
            name for form in self.forms for name in (*form.files, *(join.file for join in form.joins.values()))
        )
        held = sorted(path.name for path in self.folder.iterdir())
        shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") or "nothing"
        below = [self.folder / each for each in held if bare(each) == known.name and (self.folder / each).is_dir()]
        meant = f"Did you mean {below[0]}? " if below else ""
        return MediaError(
            f"no questions of {known.title} in {self.folder}, nor in the cache of datasets: looked for "
            f"{', '.join(files)}; the folder holds {shown}. {meant}It is laid out as:\n{known.layout}"
        )


def _rows(form: Form, paths: list[Path], joined: Mapping[str, Path]) -> list[AnnotationRow]:
    found = rows(paths)
    for name, path in joined.items() if paths else ():
        join, values = form.joins[name], table(path)
        keyed = [(row.text(join.by), row) for row in found]
        if join.only and (absent := [key for key in values if key not in {key for key, _ in keyed}]):
            raise ConfigError(
                f"{path} answers {len(absent)} questions that {paths[0]} does not ask, such as {absent[0]}: the "
                "two files are of different releases; download both again"
            )
        found = [
            dataclasses.replace(row, values={**row.values, name: values.get(key)})
            for key, row in keyed
            if key in values or not join.only
        ]
    return found


def _question(row: AnnotationRow, fields: Fields) -> tuple[str, tuple[str, ...]]:
    question = row.fill(fields.question)
    if fields.options is None:
        return question_and_options(question.strip().removesuffix(fields.tail).rstrip(), row.where)
    columns = fields.options
    options = row.texts(columns) if isinstance(columns, str) else tuple(map(row.text, columns))
    if fields.labelled:
        options = without_letters(options)
    if fields.strip:
        question, options = question.strip(), tuple(option.strip() for option in options)
    while fields.filler and options and options[-1] == fields.filler:
        options = options[:-1]
    if not options:
        raise ConfigError(f"{row.where} has no options: download the annotation file again")
    return question, options


def _columns(template: str) -> list[str]:
    return re.findall(r"\{([^{}?\[]+)", template)


# ---- where media lie


def _video_there(folders: Sequence[Path], name: str) -> Path | None:
    """Return where a video lies in the first folder that has it; branches and mirrors re-encode: any ending will do."""
    for folder in folders:
        path = folder / name
        stem = path.with_suffix("") if path.suffix in _ENDINGS else path
        for there in (path, *(stem.with_name(stem.name + suffix) for suffix in _ENDINGS)):
            if there.exists():
                return there
    return None


def _existing(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Keep the folders that are there; the first of them all, if none is."""
    listed = list(folders)
    return tuple(folder for folder in listed if folder.is_dir()) or (listed[0],)


def _mvbench_media(row: AnnotationRow, folder: Path) -> Media:
    """Return the clip of a question of MVBench, which its YAML cannot say.

    Branch ``main`` has the source videos and gives the seconds that a question is about; branch ``video`` has clips
    that are cut already, and bounds must not be applied to those again. Which of the two a folder holds is seen clip by
    clip. ``data0613`` holds clips that were replaced later; lmms-eval unpacks without a video folder around all.
    """
    first = _existing([folder / "video", folder / "mvbench_video", folder])
    roots = [*first, *(root / "data0613" for root in first)]
    video, whole, cut = (row.text(name) for name in ("video", "whole", "cut"))
    start, end = (row.seconds(name) if row.values.get("bound") else None for name in ("start", "end"))
    path = _video_there([root / whole for root in roots], video)
    if path is None and cut != whole:
        names = [video]  # the questions of branch video name the clip, those of branch main its source
        if start is not None and end is not None:
            names.append(f"{video.removesuffix('.mp4')}_{start}_{end}.mp4")
        path = next(filter(None, (_video_there([root / cut], name) for root in roots for name in names)), None)
        only_cut = any((root / cut).is_dir() for root in roots) and not any((root / whole).is_dir() for root in roots)
        if path is not None or only_cut:
            return Media("video", str(path or roots[0] / cut / video))  # nothing but the part asked about
    path = path or roots[0] / whole / video
    if path.is_dir() or (not path.exists() and not path.suffix):
        return Media("frames", str(path), start, end, MVBENCH_FPS)
    return Media("video", str(path), start, end)
