"""Files that a kill, a full disk or a power cut leaves whole: lines of JSON, and files that are replaced at once."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout  # torch brings it: the system lets go of its locks when a process is killed

from prunevid_qwen.errors import ConfigError, SetupError, quoted

Line = dict[str, Any]

_ELSEWHERE = "wait for it, or pass another folder"


def replace(path: Path, data: bytes | Callable[[BinaryIO], Any]) -> None:
    """Write a file, or let ``data`` write it, so that an end in the middle leaves the old one or the new one."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        if isinstance(data, bytes):
            file.write(data)
        else:
            data(file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a file but for a last one that a kill cut short; [] where there is no file.

    Raises:
        ConfigError: a line is no JSON object; file and line are named.
    """
    return [line for _, line in _whole(path.read_bytes(), path)] if path.exists() else []


def keep_lines(path: Path, keep: Callable[[Line], bool] = lambda _: True) -> list[Line]:
    """Read the lines to ``keep``, and take all others out of the file, a torn last one too; what stays keeps its bytes.

    Raises:
        ConfigError: a line is no JSON object, or another process is writing the file.
    """
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

    Args:
        path: made where it is missing; a torn last line is cut off.
        otherwise: what somebody can do while another process is writing it.

    Raises:
        ConfigError: on entering, another process is writing the file.
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
        """Append lines at once; after a return they outlive a kill and a power cut.

        Raises:
            SetupError: the disk is full, or gone.
        """
        # half a surrogate pair, which stands for a byte of a file's name that is no UTF-8, becomes JSON's \\udc..
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode(errors="backslashreplace")
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SetupError(
                f"cannot write {self.path} ({error.strerror}): the lines before are kept; make room, and give the same "
                "command again"
            ) from error


def pack(path: Path, order: Callable[[Line], Any]) -> Path:
    """Replace a file of lines by ``<path>.xz``, and return that; what was packed before is replaced.

    Args:
        order: sort key of a line, so that the order in which processes finished does not show; lines of one key stand
            in the order of their text.
    """
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
