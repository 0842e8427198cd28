"""The folder of a run, whose files a kill or a power cut leaves whole; its record says of what run it is."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout  # torch brings it: the system lets go of its locks when a process is killed

from prunevid_qwen.errors import ConfigError, SetupError, quoted
from prunevid_qwen.evaluation.store.identity import CODE, code_digest, digest_of, surroundings
from prunevid_qwen.receipt import versions

RECORD = "run.json"
_OF_LINES = (".jsonl", ".xz")  # files that nobody can tell the origin of without a record

Line = dict[str, Any]
RunRecord = dict[str, Any]
Options = Mapping[str, Any]

_ELSEWHERE = "wait for it, or pass another folder"


def replace(path: Path, data: bytes | Callable[[BinaryIO], Any]) -> None:
    """Write a file, or let ``data`` write it, so that an end in the middle leaves the old one or the new one.

    A `SetupError` says that the disk is full, or the place not to be written to.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                data(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise SetupError(
            f"cannot write {path} ({error.strerror or error}): make room, or pass another place"
        ) from error


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a file (none: []) but for one that a kill cut short; a `ConfigError` names what is no line."""
    return [line for _, line in _whole(path.read_bytes(), path)] if path.exists() else []


def keep_lines(path: Path, keep: Callable[[Line], bool] = lambda _: True) -> list[Line]:
    """Read the lines to ``keep`` and take all others, a torn last one too, out of the file."""
    if not path.exists():
        return []
    with alone(path, _ELSEWHERE):
        data = path.read_bytes()
        kept = [(text, line) for text, line in _whole(data, path) if keep(line)]
        whole = b"".join(text + b"\n" for text, _ in kept)
        if whole != data:
            replace(path, whole)
    return [line for _, line in kept]


class Lines:
    """A file of lines that this process alone appends to: ``with Lines(path) as lines: lines.add(line)``.

    A torn last line is cut off. Entering raises `ConfigError` where another process is writing the file; ``otherwise``
    is what somebody can do then.
    """

    def __init__(self, path: Path, otherwise: str = _ELSEWHERE) -> None:
        self.path, self._otherwise = path, otherwise
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Lines:
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone(self.path, self._otherwise))
            data = self.path.read_bytes() if self.path.exists() else b""
            self._file = self.path.open("ab")
            stack.callback(self._close)
            self._file.truncate(data.rfind(b"\n") + 1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take was said by `add`
            self._file.close()

    def add(self, *lines: Line) -> None:
        """Append lines at once; after a return they outlive a power cut. A `SetupError` says that the disk is full."""
        # half a surrogate pair, which stands for a byte of a file's name that is no UTF-8, becomes JSON's \\udc..
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode(errors="backslashreplace")
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SetupError(
                f"cannot write {self.path} ({error.strerror or error}): the lines before are kept; make room, "
                "and give the same command again"
            ) from error


def pack(path: Path, order: Callable[[Line], Any]) -> Path:
    """Replace a file of lines by ``<path>.xz``, sorted by ``order``, then by their text, and return that."""
    lines = [text.decode() for text, _ in _whole(path.read_bytes(), path)]
    lines.sort(key=lambda text: (order(json.loads(text)), text))
    packed = path.with_name(f"{path.name}.xz")
    replace(packed, lzma.compress("".join(f"{text}\n" for text in lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    path.unlink()
    return packed


def unpack(path: Path) -> None:
    """Make a file of lines of its packed form, so that a run can go on; nothing where there is none."""
    packed = path.with_name(f"{path.name}.xz")
    if packed.exists() and not path.exists():
        replace(path, lzma.decompress(packed.read_bytes()))
    packed.unlink(missing_ok=True)


def lock_of(path: Path) -> Path:
    """Return the file that says who writes a file of lines, once anybody has."""
    return path.with_name(f".{path.name}.lock")


def alone(path: Path, otherwise: str) -> contextlib.AbstractContextManager[Any]:
    """Hold the lock of a file until the end of a block; ``otherwise`` is for the error where another process has it."""
    try:
        return FileLock(lock_of(path)).acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"another process is writing {path}: {otherwise}") from None


def _whole(data: bytes, path: Path) -> list[tuple[bytes, Line]]:
    """Parse whole lines; bytes, since a kill can cut a character in two."""
    found = []
    for number, text in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:  # also bytes that are no UTF-8
            raise ConfigError(f"{path}:{number} is not a JSON line ({error}): take it out and run again") from error
        if not isinstance(line, dict):
            raise ConfigError(f"{path}:{number} is not a stored line, but {quoted(line, 80)}: take it out")
        found.append((text, line))
    return found


class RunFolder:
    """Where a run keeps its record, its lines and its tables.

    Args:
        files: names or patterns of what a run writes beside its record, and a restart throws away.
        shown: what an error calls the run where it is no folder to its user: the file of answers beside it.
    """

    def __init__(self, path: Path, files: Collection[str] = (), shown: Path | None = None) -> None:
        self.path, self.files, self.shown = path, tuple(files), shown or path
        self.otherwise = f"pass --restart or another {'folder' if shown is None else 'file'}"

    def begin(
        self,
        options: Options,
        about: Options,
        restart: bool = False,
        grows: Collection[str] = (),
        configs: Mapping[str, Options] | None = None,
    ) -> RunRecord:
        """Make the folder ready for lines, or find it begun by the same run; return the record.

        Args:
            options: everything that could change a line, beside the installed versions and this package's code.
            about: what else the record of a run that begins says.
            restart: throw away what the folder holds.
            grows: options that may be larger in a run that goes on.
            configs: name -> its options, where they are not in ``options``: a run that goes on may bring more.

        Raises:
            ConfigError: the folder holds another run (the first difference is named), cannot be made, or is written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "run.lock").acquire()
        except Timeout:  # an OSError too, and none of the folder's
            raise
        except OSError as error:
            said = f"cannot make the folder {self.path}, or write into it ({error.strerror or error})"
            raise ConfigError(f"{said}: pass another folder") from error
        with lock:
            if restart:
                self._throw_away()
            record = self._found(options, grows)
            before = None if record is None else json.dumps(record)
            if record is None:
                record = {**about, "options": dict(options)}
                record |= {} if configs is None else {"configs": {}}
                record |= {"versions": versions(), **surroundings()}
            record["options"] |= {name: options[name] for name in grows if name in options}
            for name, config in (configs or {}).items():
                held = record["configs"].setdefault(name, dict(config))
                self._check_same(held, config, prefix=f"config {name!r}: ")
            if json.dumps(record) != before:
                self.write_record(record)
        return record

    def record(self, command: str) -> RunRecord:
        """Return the record of a run that has begun; where there is none, a `ConfigError` names the ``command``."""
        path = self.path / RECORD
        try:
            record: RunRecord = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"no {RECORD} in {self.path}: give the folder of a `{command}`") from None
        except ValueError as error:
            raise ConfigError(f"{path} is no JSON ({error}): {self.otherwise}") from None
        return record

    def write_record(self, record: Options) -> None:
        """Replace the record."""
        replace(self.path / RECORD, (json.dumps(record, indent=1) + "\n").encode())

    def found(self) -> list[Path]:
        """Return the files of the run that are there, the record not among them."""
        inside = [path for pattern in self.files for path in sorted(self.path.glob(pattern))]
        return [*inside, self.shown] if self.shown.is_file() else inside

    def _found(self, options: Options, grows: Collection[str]) -> RunRecord | None:
        if not (self.path / RECORD).exists():
            held = [path for path in self.found() if path.suffix in _OF_LINES or path == self.shown]
            if held := [path for path in held if path.stat().st_size]:
                raise ConfigError(f"{held[0]} exists, but no {self.path / RECORD} says of what run: {self.otherwise}")
            return None
        record = self.record("run")
        before = {**record["options"], **record["versions"], CODE: record.get(CODE)}
        now = {**options, **versions(), CODE: code_digest()}
        grown = {name for name in grows if name in now and name in before and before[name] <= now[name]}
        self._check_same(before, now, but=grown)
        return record

    def _check_same(self, before: Options, now: Options, but: Collection[str] = (), prefix: str = "") -> None:
        for name in {**now, **before}:  # an option that is no longer given is a difference too
            if name not in but and before.get(name) != now.get(name):
                said = prefix + _difference(name, before.get(name), now.get(name))
                raise ConfigError(f"{self.shown} holds another run ({said}): {self.otherwise}")

    def _throw_away(self) -> None:
        for path in self.found():
            if lock_of(path).exists():
                with alone(path, "end it before its lines are thrown away, or pass another folder"):
                    pass
        for path in (*self.found(), self.path / RECORD):
            path.unlink(missing_ok=True)


def run_hash(options: Options, config: Options) -> str:
    """Return the hash that the lines of a config carry: of it, the options, the versions and this package's code."""
    shared = {"options": dict(options), "versions": versions(), "code": code_digest()}
    return digest_of({**shared, "config": sorted(config.items())}).removeprefix("sha256 ")


def _difference(name: str, before: Any, now: Any) -> str:
    lists = isinstance(before, list) and isinstance(now, list)
    if not lists or not all(isinstance(each, dict) and "name" in each for each in (*before, *now)):
        return f"{name} was {before!r}, is now {now!r}"
    old, new = ({each["name"]: each for each in held} for held in (before, now))
    said = {
        "only then": [each for each in old if each not in new],
        "only now": [each for each in new if each not in old],
        "changed": [each for each in new if each in old and old[each] != new[each]],
    }
    parts = [f"{how}: {', '.join(names)}" for how, names in said.items() if names]
    return f"{name} differ ({'; '.join(parts) or 'in their order'})"
