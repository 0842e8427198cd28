"""The folder of a run: its record, and one fsynced line for every answer. Knows nothing of models and questions.

Each process that answers appends to a file of its own, so that a kill can tear no line but the last of its file, and
any number of processes, on any machines that share the folder, can go on with a run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # torch brings it: the system lets go of its locks when a process is killed

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.accuracy_folder import RECORD, code_digest, read_record, surroundings, write_record
from prunevid_qwen.evaluation.engine.tasks import Line
from prunevid_qwen.evaluation.store.identity import digest_of
from prunevid_qwen.receipt import versions

_ANSWERS, _LOCK = "answers*.jsonl", "run.lock"
_TABLES = ("report.md", "summary.csv", "summary.json")

Shard = tuple[int, int]
"""(which, of how many): the part of the tasks that one process answers."""

WHOLE: Shard = (0, 1)


def begin(
    folder: Path,
    options: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    restart: bool = False,
) -> dict[str, str]:
    """Make a folder ready for answers, or find it begun by the same run, to which configs may be added.

    Args:
        folder: made where it is missing.
        options: everything that could change an answer, beside the configs, versions and this package's code.
        configs: name -> everything of it that could change an answer.
        about: what else the record says.
        restart: throw away what the folder holds.

    Returns: name of each config -> the hash that its lines carry.

    Raises:
        ConfigError: the folder holds the answers of another run (the first difference is named), cannot be made, or is
            to be thrown away while a process writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder} ({error.strerror}): pass another folder") from error
    with FileLock(folder / _LOCK):
        if restart:
            _check_nobody_writes(folder)
            for path in [*answer_files(folder), *(folder / name for name in (RECORD, *_TABLES))]:
                path.unlink(missing_ok=True)
        if answer_files(folder) and not (folder / RECORD).exists():
            raise ConfigError(f"{folder} holds answers, but no {RECORD} says of what: pass --restart or another folder")
        record = read_record(folder, dict(options))
        if record is None:
            record = {**about, "options": dict(options), "configs": {}, "versions": versions(), **surroundings()}
        added = {name: dict(config) for name, config in configs.items() if name not in record["configs"]}
        for name, config in configs.items():
            _same(folder, name, record["configs"].get(name, config), config)
        if added:
            record["configs"].update(added)
            write_record(folder, record)
    shared = {"options": dict(options), "versions": versions(), "code": code_digest()}
    return {
        name: digest_of({**shared, "config": sorted(config.items())}).removeprefix("sha256 ")
        for name, config in configs.items()
    }


def recorded(folder: Path, command: str) -> dict[str, Any]:
    """Return the record of a run that has begun.

    Raises:
        ConfigError: there is none.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ConfigError(f"no {RECORD} in {folder}: give the folder of a `{command}`")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def answer_files(folder: Path) -> list[Path]:
    """Return the files of answers, of however many processes, sorted."""
    return sorted(folder.glob(_ANSWERS))


def answered(folder: Path, hashes: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return (config, id) of what the configs in ``hashes`` have answered; what failed is to be asked again.

    Raises:
        ConfigError: a line is of another run, or no line of answers.
    """
    done = set()
    for path in answer_files(folder):
        for number, line in enumerate(whole_lines(path), 1):
            if not isinstance(line, dict) or not {"config", "id", "error", "run"} <= line.keys():
                raise ConfigError(f"{path}:{number} is no answer of a run: take the line out, or pass --restart")
            wanted = hashes.get(line["config"])
            if wanted is None:  # not asked now
                continue
            if line["run"] != wanted:
                raise ConfigError(
                    f"{path}:{number} is of another run of {line['config']!r} (hash {line['run']:.12}, now "
                    f"{wanted:.12}): pass --restart or another folder"
                )
            if line["error"] is None:
                done.add((line["config"], line["id"]))
    return done


def whole_lines(path: Path) -> list[Any]:
    """Read the lines of a file but for a last one that a kill cut short.

    Raises:
        ConfigError: a line in the middle is not JSON.
    """
    data = path.read_bytes()  # a kill can cut a character in two
    lines = []
    for number, text in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n"), 1):
        if not text:
            continue
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ConfigError(f"{path}:{number} is not a JSON line ({error}): take it out and run again") from error
    return lines


class Part:
    """A file of lines that this process alone appends to.

    Args:
        path: made where it is missing; a torn last line is cut off.

    Raises:
        ConfigError: another process is at it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    @classmethod
    def of(cls, folder: Path, shard: Shard = WHOLE) -> Part:
        """Return the part of a shard of a run."""
        number, count = shard
        return cls(folder / ("answers.jsonl" if count == 1 else f"answers-{number}-of-{count}.jsonl"))

    def __enter__(self) -> Part:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(
                f"another process is writing {self.path}: wait for it, or share the work between processes with "
                "--shard 0/2 and --shard 1/2"
            ) from None
        data = self.path.read_bytes() if self.path.exists() else b""
        self._file = self.path.open("ab")
        self._file.truncate(data.rfind(b"\n") + 1)
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            with contextlib.suppress(OSError):  # what a full disk did not take was said by `add`
                self._file.close()
        finally:
            self._lock.release()

    def add(self, line: Line) -> None:
        """Append a line; after a return it outlives a kill and a power cut.

        Raises:
            SetupError: the disk is full, or gone.
        """
        # half a surrogate pair, which stands for a byte of a file's name that is no UTF-8, becomes JSON's \\udc..
        text = json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SetupError(
                f"cannot write {self.path} ({error.strerror}): what was answered before is kept; make room, and give "
                "the same command again"
            ) from error


def _check_nobody_writes(folder: Path) -> None:
    for path in folder.glob(f".{_ANSWERS}.lock"):
        try:
            with FileLock(path).acquire(blocking=False):
                pass
        except Timeout:
            whose = folder / path.name.removeprefix(".").removesuffix(".lock")
            raise ConfigError(
                f"another process is writing {whose}: end it before its answers are thrown away, or pass another folder"
            ) from None


def _same(folder: Path, name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for option in {**before, **now}:
        if before.get(option) != now.get(option):
            raise ConfigError(
                f"{folder} holds answers of a config {name!r} with {option}={before.get(option)!r}, now it is "
                f"{now.get(option)!r}: pass --restart to throw them away, or another folder"
            )
