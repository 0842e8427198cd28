"""The folder of a Visual-CoT run: its record, and lines that outlive a kill. Knows nothing of models and judges."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_folder import ANSWERS, RECORD, read_record, surroundings, write_record
from prunevid_qwen.receipt import versions

JUDGEMENTS, SUMMARY, TABLE, REPORT = "judgements.jsonl", "summary.json", "summary.csv", "report.md"

_WRITTEN = (ANSWERS, RECORD, JUDGEMENTS, SUMMARY, TABLE, REPORT)

Line = dict[str, Any]


def open_folder(folder: Path, options: dict[str, Any], about: dict[str, Any], restart: bool = False) -> dict[str, Any]:
    """Make a folder ready for answers, or find it begun by the same run.

    Args:
        folder: made where it is missing.
        options: everything that could change an answer, beside versions and this package's code.
        about: what else the record says: the command, who competes.
        restart: throw away what the folder holds, judgements too.

    Returns: the record.

    Raises:
        ConfigError: the folder holds the answers of another run; the first difference is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if restart:
        for name in _WRITTEN:
            (folder / name).unlink(missing_ok=True)
    before = read_record(folder, options)
    if before is not None:
        return before
    record = {
        "what": "questions about single images, with and without pruning",
        **about,
        "options": options,
        "versions": versions(),
        **surroundings(),
    }
    write_record(folder, record)
    return record


def recorded(folder: Path) -> dict[str, Any]:
    """Return the record of a run that has begun.

    Raises:
        ConfigError: there is none.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ConfigError(f"no {RECORD} in {folder}: give the folder of a `prunevid eval visual-cot` run as --out")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def add_line(path: Path, line: Line) -> None:
    """Append a line; after a return it outlives a kill and a power cut."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path, keep: Callable[[Line], bool] = lambda _: True) -> list[Line]:
    """Read the lines to go on from, and take all others out of the file, a torn last one among them.

    Args:
        path: need not exist.
        keep: which lines stay.
    """
    if not path.exists():
        return []
    data = path.read_bytes()  # a kill can cut a character in two
    texts = [part for part in data[: data.rfind(b"\n") + 1].split(b"\n") if part]
    lines = [(text, json.loads(text)) for text in texts]
    kept = [(text, line) for text, line in lines if keep(line)]
    whole = b"".join(text + b"\n" for text, _ in kept)
    if whole != data:
        replace(path, whole)
    return [line for _, line in kept]


def replace(path: Path, data: bytes) -> None:
    """Write a file so that a kill, a full disk or a power cut leaves the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
