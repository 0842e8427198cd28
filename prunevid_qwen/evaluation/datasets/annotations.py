"""The rows of annotation files: json, jsonl, csv, parquet, and the arrow files that the `datasets` library prepares.

They are looked for in the folder that the user named, and only then among what `huggingface_hub` and `datasets`
downloaded earlier: people who ran lmms-eval have the videos in one place and the questions in that cache.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, SetupError, excerpt, quoted

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Row:
    """One row of an annotation file; a value that it lacks, or that is of another kind, is a `ConfigError`."""

    where: str  # such as "json/action_count.json, record 3", for messages
    values: Mapping[str, Any]  # by column

    def __getitem__(self, name: str) -> str:
        return self.text(name) if not name.endswith("?") else self.maybe(name[:-1])

    def fill(self, template: str) -> str:
        """Fill in a text with braces, as `layout` describes it."""
        try:
            return template.format_map(self)
        except ConfigError:
            raise
        except (ValueError, LookupError, AttributeError) as error:
            raise ConfigError(
                f"{self.where}: {quoted(template)} cannot be filled in ({error}): mend its braces"
            ) from error

    def text(self, name: str) -> str:
        """Return a value that every record has, as text and otherwise verbatim."""
        value = self.values.get(name)
        if value is None or isinstance(value, (dict, list)):
            raise ConfigError(
                f"{self.where} has no {quoted(name)} (it has {excerpt(', '.join(self.values)) or 'nothing'}): is this "
                "the data set's own annotation file? Download it again, or name the right column in the benchmark's "
                "YAML file"
            )
        return str(value)

    def maybe(self, name: str) -> str:
        """Return a value as text, "" where there is none."""
        value = self.values.get(name)
        return "" if value is None else str(value)

    def seconds(self, name: str) -> float | None:
        """Return a finite number, None where there is none."""
        value = self.maybe(name)
        try:
            number = float(value or "nan")
        except ValueError:
            number = math.nan
        if value and not math.isfinite(number):
            raise self._wrong(name, "seconds")
        return number if value else None

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list that every record has, each of its items as text."""
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            raise self._wrong(name, "a list")
        return tuple(str(item) for item in value)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        got = quoted(self.values.get(name))
        return ConfigError(f"{self.where}: {name} is {got}, expected {expected}: download the annotation file again")


@dataclass(frozen=True)
class Shelves:
    """Where annotation files may lie."""

    folder: Path  # the one the user named; it comes first
    repositories: tuple[str, ...]  # of the hub, "owner/name", whose cached files are looked at next
    cache: Path | None = None  # the folder that holds the caches "hub" and "datasets"; None for the library's own

    @property
    def roots(self) -> Iterator[Path]:
        """The user's folder, then the cached snapshots: they are looked for when the folder has been looked into."""
        yield self.folder
        yield from self.snapshots

    @cached_property
    def snapshots(self) -> list[Path]:
        """Folders of the cached snapshots, those that a branch points at first, "main" before others."""
        from huggingface_hub import CacheNotFound, constants, scan_cache_dir

        try:
            found = scan_cache_dir(constants.HF_HUB_CACHE if self.cache is None else self.cache / "hub").repos
        except CacheNotFound:
            return []
        kept = {repo.repo_id: repo.revisions for repo in found if repo.repo_type == "dataset"}
        return [
            revision.snapshot_path
            for name in self.repositories
            for revision in sorted(
                kept.get(name, ()), key=lambda each: ("main" not in each.refs, not each.refs, each.commit_hash)
            )
        ]

    def prepared(self, config: str, split: str) -> list[Path]:
        """Return the arrow files that `datasets` made of a configuration's split, the newest set of them."""
        from huggingface_hub import constants

        base = (Path(constants.HF_HOME) if self.cache is None else self.cache) / "datasets"
        wanted = {_bare(repository.replace("/", "___")) for repository in self.repositories}
        folders = [path for path in base.iterdir() if _bare(path.name) in wanted] if base.is_dir() else []
        found = [path for each in folders for path in each.glob(f"{config}/*/*/*-{split}*.arrow")]
        newest = max(found, key=lambda path: (path.stat().st_mtime, str(path)), default=base).parent
        return sorted(path for path in found if path.parent == newest)


def matching(root: Path, pattern: str) -> list[Path]:
    """Return the files under a folder that a pattern finds, sorted."""
    return sorted(path for path in root.glob(pattern) if path.is_file())


def rows(paths: Sequence[Path]) -> list[Row]:
    """Read annotation files of one table in order.

    Args:
        paths: .json (a list of records), .jsonl, .csv with a header, .parquet or .arrow.

    Raises:
        ConfigError: a file is broken, or its rows are no records.
        SetupError: pyarrow, which reads two of the kinds, is not installed.
    """
    found = []
    readers = {".parquet": _columns, ".arrow": _columns, ".jsonl": _lines, ".csv": _csv}
    for path in paths:
        try:
            values = readers.get(path.suffix, _list)(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
        for number, record in enumerate(values):
            where = f"{path}, record {number}"
            if not isinstance(record, dict):
                raise ConfigError(f"{where} is {type(record).__name__}, expected an object of named values")
            found.append(Row(where, record))
    return found


def table(path: Path) -> dict[str, Any]:
    """Read a .json file of one object; see `rows` for the errors."""
    found: dict[str, Any] = _json(path, dict, "one object of values")
    return found


def _list(path: Path) -> list[Any]:
    found: list[Any] = _json(path, list, "a list of records")
    return found


def _json(path: Path, kind: type, expected: str) -> Any:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): was its download cut short? Download it again") from error
    if not isinstance(found, kind):
        raise ConfigError(f"{path} holds {type(found).__name__}, expected {expected}: is this the right file?")
    return found


def _lines(path: Path) -> list[Any]:
    records = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        try:
            if line.strip():
                records.append(json.loads(line))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is not JSON ({error}): was its download cut short?") from error
    return records


def _csv(path: Path) -> list[Any]:
    records = list(csv.DictReader(_text(path).splitlines(keepends=True), strict=True))
    for number, record in enumerate(records):
        if None in record or None in record.values():
            raise ConfigError(
                f"{path}, record {number} has not one value for each name of the first line: was its download cut "
                "short? Download it again"
            )
    return records


def _columns(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(
            f"{path.name} is read with pyarrow, which is not installed: pip install 'prunevid_qwen[eval]'"
        ) from error
    _bytes(path, 1)
    try:
        if path.suffix == ".parquet":
            return list(pyarrow.parquet.read_table(path).to_pylist())
        with pyarrow.memory_map(str(path)) as mapped:
            return list(pyarrow.ipc.open_stream(mapped).read_all().to_pylist())
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


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")  # `datasets` spells MVBench mv_bench
