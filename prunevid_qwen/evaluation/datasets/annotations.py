"""The rows of annotation files, in the user's folder or among what `huggingface_hub` and `datasets` downloaded."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, SetupError, excerpt, quoted
from prunevid_qwen.evaluation.datasets.dataset_layout import bare
from prunevid_qwen.evaluation.datasets.record import LETTERS

_LABEL = re.compile(r"\s*(?:\((?=[A-Z]\)))?([A-Z])[.:)]\s*")
_OPTION = re.compile(r"^\s*(?:\([A-Z]\)|[A-Z][.)]\s)", re.MULTILINE)
_LFS = b"version https://git-lfs"
_AGAIN = "download the annotation file again, or name the right column in the benchmark's YAML file"


@dataclass(frozen=True)
class AnnotationRow:
    """One row of an annotation file; a value that it lacks, or that is of another kind, is a `ConfigError`."""

    where: str  # such as "json/action_count.json, record 3", for messages
    values: Mapping[str, Any]  # by column

    def __getitem__(self, name: str) -> str:
        return self.maybe(name[:-1]) if name.endswith("?") else self.text(name)

    def fill(self, template: str) -> str:
        """Fill in a text with braces, as `layout` describes it."""
        try:
            return template.format_map(self)
        except ConfigError:
            raise
        except (ValueError, LookupError, AttributeError) as error:
            raise ConfigError(f"{self.where}: {quoted(template)} cannot be filled in ({error}): mend it") from error

    def text(self, name: str) -> str:
        """Return a value that every record has, as text and otherwise verbatim."""
        value = self.values.get(name)
        if value is None or isinstance(value, (dict, list)):
            raise self._wrong(name, "one value")
        return str(value)

    def maybe(self, name: str) -> str:
        """Return a value as text, "" where there is none."""
        value = self.values.get(name)
        return "" if value is None else str(value)

    def seconds(self, name: str) -> float | None:
        """Return a finite number, None where there is none."""
        value = self.maybe(name)
        with contextlib.suppress(ValueError):
            if not value or math.isfinite(float(value)):
                return float(value) if value else None
        raise self._wrong(name, "seconds")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list that every record has, each of its items as text."""
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            raise self._wrong(name, "a list")
        return tuple(str(item) for item in value)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        there = excerpt(", ".join(self.values)) or "nothing"
        value = self.values.get(name)
        said = f"{name} is {'empty' if value is None else quoted(value)}, expected {expected}"
        said = said if name in self.values else f"no {quoted(name)} (it has {there})"
        return ConfigError(f"{self.where}: {said}: {_AGAIN}")


def snapshots(repositories: Sequence[str]) -> list[Path]:
    """Return the cached snapshots of repositories of the hub, branches' heads first, "main" before others."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    kept = {repo.repo_id: repo.revisions for repo in found if repo.repo_type == "dataset"}

    def order(revision: Any) -> tuple[Any, ...]:
        return "main" not in revision.refs, not revision.refs, revision.commit_hash

    return [each.snapshot_path for name in repositories for each in sorted(kept.get(name, ()), key=order)]


def prepared(repositories: Sequence[str], config: str, split: str) -> list[Path]:
    """Return the arrow files that `datasets` made of a configuration's split, the newest set of them."""
    from huggingface_hub import constants

    base = Path(constants.HF_HOME) / "datasets"
    wanted = {bare(repository.replace("/", "___")) for repository in repositories}  # it spells MVBench mv_bench
    folders = [path for path in base.iterdir() if bare(path.name) in wanted] if base.is_dir() else []
    found = [path for each in folders for path in each.glob(f"{config}/*/*/*-{split}*.arrow")]
    newest = max(found, key=lambda path: (path.stat().st_mtime, str(path)), default=base).parent
    return sorted(path for path in found if path.parent == newest)


def matching(root: Path, pattern: str) -> list[Path]:
    """Return the files under a folder that a pattern finds, sorted."""
    return sorted(filter(Path.is_file, root.glob(pattern)))


def rows(paths: Sequence[Path]) -> list[AnnotationRow]:
    """Read annotation files of one table: .json (a list of records), .jsonl, .csv with a header, .parquet, .arrow.

    A `ConfigError` says that a file is broken, or its rows no records, a `SetupError` that it needs pyarrow.
    """
    found = []
    readers = {".parquet": _columns, ".arrow": _columns, ".jsonl": json_lines, ".csv": _csv}
    for path in paths:
        try:
            values = readers.get(path.suffix, json_list)(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
        for number, record in enumerate(values):
            where = f"{path}, record {number}"
            if not isinstance(record, dict):
                raise ConfigError(f"{where} is {type(record).__name__}, expected an object of named values")
            found.append(AnnotationRow(where, record))
    return found


def table(path: Path, kind: type = dict, expected: str = "one object of values") -> Any:
    """Read a .json file of one object; see `rows` for the errors."""
    found = _parsed(_text(path), str(path))
    if not isinstance(found, kind):
        raise ConfigError(f"{path} holds {type(found).__name__}, expected {expected}: is this the right file?")
    return found


def json_list(path: Path) -> Any:
    """Read a .json file of a list; see `rows` for the errors."""
    return table(path, list, "a list of records")


def json_lines(path: Path) -> list[Any]:
    """Read a file of a JSON value a line; see `rows` for the errors."""
    lines = enumerate(_text(path).split("\n"), 1)
    return [_parsed(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON ({error}): was its download cut short? Download it again") from error


def _csv(path: Path) -> list[Any]:
    records = list(csv.DictReader(_text(path).splitlines(keepends=True), strict=True))
    for number, record in enumerate(records):
        if None in record or None in record.values():
            said = "has not one value for each name of the first line"
            raise ConfigError(f"{path}, record {number} {said}: was its download cut short? Download it again")
    return records


def _columns(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(f"reading {path.name} needs pyarrow: pip install 'prunevid_qwen[eval]'") from error
    _bytes(path, 1)
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        with pyarrow.memory_map(str(path)) as mapped:
            return pyarrow.ipc.open_stream(mapped).read_all().to_pylist()
    except pyarrow.ArrowException as error:
        said = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path} cannot be read ({said}): was its download cut short? Download it again") from error


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8-sig", "replace")


def _bytes(path: Path, count: int = -1) -> bytes:
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ConfigError(f"{path} is a Git LFS pointer, not the file itself: run 'git lfs pull' in its folder")
        file.seek(0)
        return file.read(count)


# ---- options and answers of every spelling become texts without letters, and a letter


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Take "A. ", "(A) " or "A) " from options if all of them have their own; else they are returned as they are.

    One option that begins with "A. " is a text ("A. Lincoln"); four that begin with A, B, C and D are labelled.
    """
    labels = [_LABEL.match(option) for option in options]
    if [label and label[1] for label in labels] != list(LETTERS[: len(options)]):
        return tuple(options)
    return tuple(option[label.end() :] for option, label in zip(options, labels, strict=True) if label)


def question_and_options(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Take apart a text whose lines begin with (A), (B) and so on, or with A. and B., from the first of them on."""
    starts = [match.start() for match in _OPTION.finditer(text)]
    lines = [text[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=False)]
    options = without_letters(lines)
    if len(options) < 2 or options == tuple(lines):
        raise ConfigError(
            f"{where}: the text {quoted(text)} holds no options (A), (B) and so on or A., B., a line each: "
            "is this the benchmark's own file?"
        )
    return text[: starts[0]].strip(), options


def letter_of(
    answer: object, kind: str, options: Sequence[str], where: str, file: str = "the benchmark's YAML file"
) -> str:
    """Return the letter of an answer to a row's options, which are without letters, or raise `ConfigError`.

    ``kind`` is "letter" (with or without brackets, or "B. its text"), "index" (from 0) or "text" (an option's own, of
    equal options the first one's); ``file`` says so.
    """
    letters, text, stripped = LETTERS[: len(options)], str(answer), [option.strip() for option in options]
    if kind == "index":
        expected, number = f"a number from 0 to {len(options) - 1}", text.strip()
        if number.isascii() and number.isdigit() and int(number) < len(options):
            return LETTERS[int(number)]
    elif kind == "text":
        expected = f"one of the options {quoted(list(options), 110)}"
        for among, wanted in ((list(options), text), (stripped, text.strip())):
            if wanted in among:
                return LETTERS[among.index(wanted)]
    else:
        expected, letter, label = f"one of {', '.join(letters)}", text.strip().strip("().:"), _LABEL.match(text)
        if len(letter) == 1 and letter in letters:
            return letter
        if label and label[1] in letters and stripped[LETTERS.index(label[1])] == text[label.end() :].strip():
            return label[1]
    raise ConfigError(
        f"{where}: the answer is {quoted(answer, 90)}, expected {expected}: the annotation file is damaged or was "
        f"edited, download it again; or say in {file} how it is written: answer: {{index: COLUMN}} (from 0), "
        "{letter: COLUMN} or {text: COLUMN}"
    )
