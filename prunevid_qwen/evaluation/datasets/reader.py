"""A benchmark's folder as records, by what its YAML file says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.evaluation.datasets import mvbench
from prunevid_qwen.evaluation.datasets.annotations import Row, Shelves, matching, rows, table
from prunevid_qwen.evaluation.datasets.choices import letter_of, without_letters
from prunevid_qwen.evaluation.datasets.layout import Benchmark, Fields, Form, bare, benchmark, names
from prunevid_qwen.evaluation.datasets.places import existing, first_there, video_place
from prunevid_qwen.evaluation.datasets.record import Dataset, Media, Problem, Record, Subtitle
from prunevid_qwen.evaluation.datasets.subtitles import read_subtitles

_OPTION = re.compile(r"^\s*(?:\([A-Z]\)|[A-Z][.)]\s)", re.MULTILINE)
_PYTHON = {"mvbench": mvbench.media}


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
    if subtitles and known.subtitles is None:
        have = ", ".join(each for each in names() if benchmark(each).subtitles)
        raise ConfigError(f"{known.title} has no subtitles; {have} have some")
    reader = _Reader(known, part or next(iter(known.parts)), Shelves(folder, known.repositories, cache), subtitles)
    return reader.read()


class _Reader:
    def __init__(self, known: Benchmark, part: str, shelves: Shelves, subtitles: bool) -> None:
        self.known, self.part, self.shelves, self.folder = known, part, shelves, shelves.folder
        self.says = known.subtitles if subtitles else None
        self.problems: dict[str, Problem] = {}
        self.cues: dict[tuple[str, float], tuple[tuple[Subtitle, ...], Problem | None]] = {}
        self.folders: dict[tuple[str, ...], tuple[Path, ...]] = {}

    def read(self) -> Dataset:
        known, records, files = self.known, dict[str, Record](), list[Path]()
        for task, columns in (known.each or {"": {}}).items():
            own = {"part": self.part, **columns, **({"task": task} if task else {})}
            form, paths, joined = self._find(own)
            if task and not paths:
                path = self.folder / self._patterns(form, own)[0]
                said = f"the {columns['questions']} questions of {task} are in it"
                self.problems[str(path)] = Problem("missing", str(path), said)
            files += [*paths, *joined.values()] if paths else []
            for number, row in enumerate(self._rows(form, paths, joined)):
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
        return Dataset(
            known.name, known.title, self.part, self.folder, tuple(records.values()), tuple(files), known.by,
            known.parts[self.part].questions, tuple(self.problems.values()), tuple(self._notes(records)),
            tuple(known.advice.items()),
        )  # fmt: skip

    @property
    def forms(self) -> tuple[Form, ...]:
        part = self.known.parts[self.part]
        return part, *part.otherwise

    def _patterns(self, form: Form, own: Mapping[str, Any]) -> list[str]:
        return [Row(f"{self.known.name}.yaml, files", own).fill(pattern) for pattern in form.files]

    def _find(self, own: Mapping[str, Any]) -> tuple[Form, list[Path], dict[str, Path]]:
        """Return the first form whose files are there, these, and those of its joins; without any, the first form.

        They are looked for in the user's folder, in cached snapshots, in what `datasets` prepared.
        """
        joined: list[tuple[Form, dict[str, Path]]] = []
        for form in self.forms:
            found = {name: self._first(join.file) for name, join in form.joins.items()}
            there = {name: path for name, path in found.items() if path}
            if all(name in there or not join.needed for name, join in form.joins.items()):
                joined.append((form, there))
        for root in self.shelves.roots:
            for form, there in joined:
                for pattern in self._patterns(form, own):
                    if paths := matching(root, pattern):
                        return form, paths, there
        for form, there in joined:
            config, _, split = Row(f"{self.known.name}.yaml, prepared", own).fill(form.prepared).rpartition("/")
            if config and (paths := self.shelves.prepared(config, split)):
                return form, paths, there
        return self.forms[0], [], {}

    def _first(self, pattern: str) -> Path | None:
        return next((path for root in self.shelves.roots for path in matching(root, pattern)), None)

    @staticmethod
    def _rows(form: Form, paths: list[Path], joined: Mapping[str, Path]) -> list[Row]:
        found = rows(paths)
        for name, path in joined.items() if paths else ():
            join, values = form.joins[name], table(path)
            keys = [row.text(join.by) for row in found]
            if join.only and (absent := [key for key in values if key not in set(keys)]):
                raise ConfigError(
                    f"{path} answers {len(absent)} questions that {paths[0]} does not ask, such as {absent[0]}: the "
                    "two files are of different releases; download both again"
                )
            found = [
                dataclasses.replace(row, values={**row.values, name: values.get(key)})
                for row, key in zip(found, keys, strict=True)
                if key in values or not join.only
            ]
        return found

    def _record(self, row: Row, fields: Fields) -> Record:
        name = row.fill(fields.id)
        row = dataclasses.replace(row, where=f"{row.where} ({name})")
        question, options = self._question(row, fields)
        answer = None
        if fields.answer is not None:
            ((kind, column),) = fields.answer.items()
            answer = letter_of(row.text(column), kind, options, row.where)
        filled = {group: row.fill(text) for group, text in fields.groups.items()}
        groups = {group: fields.words.get(group, {}).get(text, text) for group, text in filled.items() if text}
        media = self._media(row)
        if self.says:
            media = dataclasses.replace(media, subtitles=self._subtitles(row, name))
        return Record(name, (media,), question, options, answer, groups)

    @staticmethod
    def _question(row: Row, fields: Fields) -> tuple[str, tuple[str, ...]]:
        question = row.fill(fields.question)
        if fields.options is None:
            return _apart(question.strip().removesuffix(fields.tail).rstrip(), row)
        if isinstance(fields.options, str):
            options = row.texts(fields.options)
        else:
            options = tuple(row.text(column) for column in fields.options)
        if fields.labelled:
            options = without_letters(options)
        if fields.strip:
            question, options = question.strip(), tuple(option.strip() for option in options)
        while fields.filler and options and options[-1] == fields.filler:
            options = options[:-1]
        if not options:
            raise ConfigError(f"{row.where} has no options: download the annotation file again")
        return question, options

    def _media(self, row: Row) -> Media:
        place = self.known.media
        if place.python:
            return _PYTHON[place.python](row, self.folder)
        paths = [row.fill(path) for path in place.path if all(row.values.get(c) is not None for c in _columns(path))]
        paths = paths or [row.fill(place.path[0])]  # names the column that is not there
        patterns = tuple(row.fill(folder) for folder in place.folders)
        if patterns not in self.folders:
            found = [each for pattern in patterns for each in _below(self.folder, pattern)]
            snapshots = self.shelves.snapshots if place.kind == "image" else []
            self.folders[patterns] = (*existing(found), *snapshots)
        folders = self.folders[patterns]
        if place.kind == "image":
            image = first_there(folder / path for path in paths for folder in folders)
            return Media("image", str(image or folders[0] / paths[0]))
        places = [video_place(folders, path) for path in paths]
        return Media("video", str(first_there(places) or places[0]))

    def _subtitles(self, row: Row, asking: str) -> tuple[Subtitle, ...]:
        assert self.says is not None
        says, (folder, *_) = self.says, existing(self.folder / name for name in self.says.folders)
        path = folder / row.fill(says.path)
        first, duration = row.seconds(says.first) or 0.0, row.seconds(says.duration)
        key = (str(path), first)
        if key not in self.cues:
            self.cues[key] = self._read_subtitles(folder, path, first, duration)
        cues, problem = self.cues[key]
        if problem is not None:
            before = self.problems.get(problem.path, problem).records
            self.problems[problem.path] = dataclasses.replace(problem, records=(*before, asking))
        return cues

    def _read_subtitles(
        self, folder: Path, path: Path, first: float, duration: float | None
    ) -> tuple[tuple[Subtitle, ...], Problem | None]:
        assert self.says is not None
        if not folder.is_dir():
            return (), Problem("missing", str(folder), f"all subtitles ({self.says.archive}, unpacked)")
        if not path.exists():
            return (), None if self.says.silent else Problem("missing", str(path), "subtitles")
        try:
            return read_subtitles(path, first, duration), None
        except MediaError as error:
            return (), Problem("unreadable", str(path), str(error))

    def _notes(self, records: Mapping[str, Record]) -> Iterator[str]:
        if self.says and self.says.silent:
            said = {record.groups["video"]: bool(record.media[0].subtitles) for record in records.values()}
            silent = list(said.values()).count(False)
            yield f"{silent} of {len(said)} videos have no subtitles ({self.says.silent} in the published set)"

    def _no_questions(self) -> ConfigError:
        known = self.known
        for pattern, instead in known.refused.items():
            if matching(self.folder, pattern):
                return ConfigError(f"{self.folder} {instead}")
        task, columns = next(iter((known.each or {"": {}}).items()))
        looked_for = ", or ".join(
            " and ".join([self._patterns(form, {"part": self.part, "task": task, **columns})[0],
                          *(join.file for join in form.joins.values() if join.needed)])
            for form in self.forms
        )  # fmt: skip
        held = sorted(path.name for path in self.folder.iterdir())
        shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "") or "nothing"
        below = [self.folder / each for each in held if bare(each) == known.name and (self.folder / each).is_dir()]
        meant = f"Did you mean {below[0]}? " if below else ""
        return ConfigError(
            f"no questions of {known.title} in {self.folder}, nor in the cache of datasets: looked for {looked_for}, "
            f"the folder holds {shown}. {meant}It is laid out as:\n{known.layout}"
        )


def _columns(template: str) -> list[str]:
    return re.findall(r"\{([^{}?\[]+)", template)


def _below(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]


def _apart(text: str, row: Row) -> tuple[str, tuple[str, ...]]:
    """Take question and options apart."""
    starts = [match.start() for match in _OPTION.finditer(text)]
    lines = [text[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=False)]
    options = without_letters(lines)
    if len(options) < 2 or options == tuple(lines):
        raise ConfigError(
            f"{row.where}: the text {quoted(text)} holds no options (A), (B) and so on or A., B., a line each: "
            "is this the benchmark's own file?"
        )
    return text[: starts[0]].strip(), options
