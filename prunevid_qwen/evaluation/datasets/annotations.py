"""The rows of annotation files: json, jsonl, parquet, and the arrow files that the `datasets` library prepares.

They are looked for in the folder that the user named, and only then among what `datasets` and `huggingface_hub`
downloaded
earlier: people who ran lmms-eval have the videos in one place and the questions in that cache. Nothing is downloaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, SetupError, excerpt, quoted

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Row:
    """One row of an annotation file, with where it stands, for messages.

    Args:
        where: such as "json/action_count.json, record 3".
        values: as read; lists of a parquet file are lists here too.
    """

    where: str
    values: dict[str, Any]

    def text(self, name: str) -> str:
        """Return a value that every record has, as text and otherwise verbatim.

        Raises:
            ConfigError: there is none.
        """
        value = self.values.get(name)
        if value is None or isinstance(value, (dict, list)):
            raise ConfigError(
                f"{self.where} has no {quoted(name)} (it has "
                f"{excerpt(', '.join(self.values)) or 'nothing'}): is this the data set's "
                "own annotation file? Download it again"
            )
        return str(value)

    def maybe(self, name: str) -> str:
        """Return a value as text, "" where there is none."""
        value = self.values.get(name)
        return "" if value is None else str(value)

    def seconds(self, name: str) -> float | None:
        """Return a number, None where there is none.

        Raises:
            ConfigError: it is no finite number.
        """
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(
                f"{self.where}: {name} is {quoted(value)}, expected seconds: download the annotation file again"
            )
        return number

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list that every record has, each of its items as text.

        Raises:
            ConfigError: there is none, or it is no list.
        """
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            raise ConfigError(
                f"{self.where}: {name} is {quoted(value)}, expected a list: download the annotation file again"
            )
        return tuple(str(item) for item in value)


@dataclass(frozen=True)
class Shelves:
    """Where annotation files may lie.

    Args:
        folder: the one the user named; it comes first.
        repositories: of the hub, "owner/name", whose cached files are looked at next.
        cache: the folder that holds the caches "hub" and "datasets"; None for the library's own.
    """

    folder: Path
    repositories: tuple[str, ...]
    cache: Path | None = None

    def files(self, *patterns: str) -> list[Path]:
        """Return the files of the first pattern that finds any, in the user's folder, else in a cached snapshot."""
        for root in (self.folder, *self._snapshots()):
            for pattern in patterns:
                found = sorted(path for path in root.glob(pattern) if path.is_file())
                if found:
                    return found
        return []

    def prepared(self, config: str, split: str) -> list[Path]:
        """Return the arrow files that `datasets` made of a configuration's split, the newest set of them."""
        base = self._cache() / "datasets"
        wanted = {_bare(repository.replace("/", "___")) for repository in self.repositories}
        folders = [path for path in _entries(base) if _bare(path.name) in wanted]
        found = [path for each in folders for path in each.glob(f"{config}/*/*/*-{split}*.arrow")]
        if not found:
            return []
        newest = max(found, key=lambda path: (path.stat().st_mtime, str(path))).parent
        return sorted(path for path in found if path.parent == newest)

    def snapshots(self) -> list[Path]:
        """Return the folders of the cached snapshots, those that a branch points at first, "main" before others."""
        return list(self._snapshots())

    def _snapshots(self) -> Iterator[Path]:
        for repository in self.repositories:
            home = self._hub() / f"datasets--{repository.replace('/', '--')}"
            refs = sorted((ref for ref in (home / "refs").rglob("*") if ref.is_file()), key=_main_first)
            commits = [ref.read_text(encoding="utf-8").strip() for ref in refs]
            others = [path.name for path in _entries(home / "snapshots")]
            for commit in dict.fromkeys([*commits, *others]):
                if (home / "snapshots" / commit).is_dir():
                    yield home / "snapshots" / commit

    def _hub(self) -> Path:
        if self.cache is not None:
            return self.cache / "hub"
        from huggingface_hub import constants  # reads the user's settings, once

        return Path(constants.HF_HUB_CACHE)

    def _cache(self) -> Path:
        if self.cache is not None:
            return self.cache
        from huggingface_hub import constants

        return Path(constants.HF_HOME)


def rows(paths: Sequence[Path]) -> list[Row]:
    """Read annotation files of one table in order.

    Args:
        paths: .json (a list, or an object of one record by id), .jsonl, .parquet or .arrow.

    Raises:
        ConfigError: a file is broken, or its rows are no records.
        SetupError: pyarrow, which reads two of the kinds, is not installed.
    """
    found = []
    for path in paths:
        try:
            values = _columns(path) if path.suffix in (".parquet", ".arrow") else _plain(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
        for number, record in enumerate(values):
            if not isinstance(record, dict):
                raise ConfigError(
                    f"{path}, record {number} is {type(record).__name__}, expected an object of named values"
                )
            found.append(Row(f"{path}, record {number}", record))
    return found


def table(path: Path) -> Any:
    """Read a .json file whole; see `rows` for the errors."""
    text = _bytes(path).decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): was its download cut short? Download it again") from error


def _plain(path: Path) -> list[Any]:
    if path.suffix == ".jsonl":
        records = []
        for number, line in enumerate(_bytes(path).decode("utf-8-sig", "replace").split("\n"), 1):
            try:
                if line.strip():
                    records.append(json.loads(line))
            except ValueError as error:
                raise ConfigError(
                    f"{path}, line {number} is not JSON ({error}): was its download cut short?"
                ) from error
        return records
    records = table(path)
    if not isinstance(records, list):
        raise ConfigError(f"{path} holds {type(records).__name__}, expected a list of records: is this the right file?")
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


def _bytes(path: Path, count: int = -1) -> bytes:
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ConfigError(f"{path} is a Git LFS pointer, not the file itself: run 'git lfs pull' in its folder")
        file.seek(0)
        return file.read(count)


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")  # `datasets` spells MVBench mv_bench


def _main_first(ref: Path) -> tuple[bool, str]:
    return ref.name != "main", str(ref)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
