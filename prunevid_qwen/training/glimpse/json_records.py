"""JSON records by number, straight from the file: what is kept in memory is where each one begins and ends.

Two ways of writing are told apart by the first byte: ``{`` begins JSON lines (a record a line, empty lines are passed
over), ``[`` begins one list of records. A list is read once in pieces to find its records, never as a whole, however
long it is: Visual-CoT's viscot_363k.json and the 2.7 GB of viscot_mixed_2m.json need no conversion. What is kept is 24
bytes for each record that was chosen; while a file is opened, 16 for each that it holds.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.training.glimpse.records import check_index

_PIECE = 1 << 20  # bytes read at once
_BOM = b"\xef\xbb\xbf"
# whole strings, so that no bracket inside one counts; a lone quote is a string that goes on in the next piece
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]"]', re.DOTALL)


class JsonRecords:
    """The records of one file, or a random sample of them, in the order of the file.

    Args:
        path: JSON lines or a JSON list, UTF-8.
        samples: how many to draw without repetition; None takes all.
        seed: of the draw; the same file, ``samples`` and ``seed`` give the same records in every process.

    Raises:
        MediaError: the file is missing, cannot be read, is cut off, or holds no record.
        ConfigError: more samples than there are records.
    """

    def __init__(self, path: str | Path, samples: int | None = None, seed: int = 0) -> None:
        self.path = Path(path)
        spans = _spans(self.path)
        count = len(spans)
        numbers = np.arange(count)
        if samples is not None:
            if samples > count:
                raise ConfigError(
                    f"samples={samples} of {self.path}, which holds {count} records: ask for at most {count}, or leave "
                    "samples out to take all"
                )
            numbers = np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))
        self._numbers, self._spans = numbers, spans[numbers]

    def __len__(self) -> int:
        """Count the records chosen."""
        return len(self._numbers)

    def number(self, index: int) -> int:
        """Return which record of the file this is, counted from 1."""
        return int(self._numbers[check_index(index, len(self))]) + 1

    def __getitem__(self, index: int) -> Any:
        """Read one record.

        Raises:
            IndexError: there is none of that index.
            ValueError: what stands there is no JSON in UTF-8; it says why.
        """
        start, end = self._spans[check_index(index, len(self))].tolist()
        with self.path.open("rb") as file:  # opened anew: nothing is shared between processes
            file.seek(start)
            text = file.read(end - start)
        return json.loads(text.decode("utf-8"))


def _spans(path: Path) -> np.ndarray:
    """Where each record begins and ends: [n, 2] int64 bytes."""
    found = array("q")
    try:
        with path.open("rb") as file:
            start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            file.seek(start)
            first = _first_byte(file)
            file.seek(start)
            for span in _in_list(file, path, start) if first == b"[" else _in_lines(file, start):
                found.extend(span)
    except OSError as error:
        raise MediaError(
            f"the records {path} cannot be read ({error.strerror}): pass the path of a .json or .jsonl file"
        ) from error
    if not found:
        raise MediaError(f"{path} holds no record: expected JSON lines or a JSON list of objects, check the file")
    return np.frombuffer(found, np.int64).reshape(-1, 2)


def _first_byte(file: IO[bytes]) -> bytes:
    while piece := file.read(4096):
        if stripped := piece.lstrip():
            return stripped[:1]
    return b""


def _in_lines(file: IO[bytes], at: int) -> Iterator[tuple[int, int]]:
    for line in file:
        if line.strip():
            yield at, at + len(line)
        at += len(line)


def _in_list(file: IO[bytes], path: Path, at: int) -> Iterator[tuple[int, int]]:
    """Follow brackets outside strings; a record is what stands in the list's own brackets."""
    depth, begun, rest = 0, 0, b""
    while piece := file.read(_PIECE):
        text, done = rest + piece, 0
        for mark in _MARK.finditer(text):
            kind = text[mark.start()]
            done = mark.end()
            if kind == 0x22:  # "
                if mark.end() - mark.start() == 1:
                    done = mark.start()
                    break
                if depth == 1:  # no record, but it has its place in the list; the checker names it
                    yield at + mark.start(), at + mark.end()
            elif kind in b"[{":
                if depth == 1:
                    begun = at + mark.start()
                depth += 1
            else:
                depth -= 1
                if depth == 1:
                    yield begun, at + mark.end()
        else:
            done = len(text)
        at, rest = at + done, text[done:]
    if depth or rest:
        raise MediaError(
            f"the JSON list {path} is cut off: it ends inside {'a record' if depth > 1 else 'the list'}: copy or "
            "download it again"
        )
