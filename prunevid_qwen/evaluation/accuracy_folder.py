"""The folder of a benchmark run: its record, and which videos it holds whole. Knows nothing of how they are asked."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.store import RECORD as RECORD
from prunevid_qwen.evaluation.store import code_digest as code_digest
from prunevid_qwen.evaluation.store import replace
from prunevid_qwen.evaluation.store import surroundings as surroundings
from prunevid_qwen.receipt import versions

ANSWERS = "answers.jsonl"

MAY_GROW = "videos"
"""The one option in which a run that goes on may differ from its beginning: it may ask about more."""

_PACKED = "answers.jsonl.xz"
_WRITTEN = (ANSWERS, _PACKED, RECORD, "summary.json", "report.md", "comparison.md")

_CODE = "code_sha256"

VideoName = tuple[str, int]
"""Condition and seed."""


def empty_folder(folder: Path) -> None:
    """Throw away the files of a run."""
    for name in _WRITTEN:
        (folder / name).unlink(missing_ok=True)


def read_record(folder: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Read ``run.json`` and make sure that it is of the same run; None where there is no run yet.

    Args:
        folder: of the run.
        options: of the run that wants to go on; beside them the installed versions and this package's code have to be
            the same: answers of two states of a method do not belong into one table.

    Raises:
        ConfigError: another run's, or answers that nothing says the origin of.
    """
    answers, packed = folder / ANSWERS, folder / _PACKED
    if not (folder / RECORD).exists():
        if answers.exists() or packed.exists():
            raise ConfigError(f"{folder} holds answers, but no {RECORD} says of what: pass --restart or another folder")
        return None
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    code = {_CODE: code_digest()}
    before = {**record["options"], **record["versions"], _CODE: record.get(_CODE)}
    now = {**options, **versions(), **code}
    for name in {**now, **before}:  # an option that is no longer given is a difference too
        value = now.get(name)
        if before.get(name) == value or (name == MAY_GROW and name in now and before[name] < value):
            continue
        raise ConfigError(
            f"{folder} holds a run with other options: {_difference(name, before.get(name), value)}. Pass --restart to "
            "throw its answers away, or another folder"
        )
    return record


def pack_answers(folder: Path) -> Path:
    """Replace ``answers.jsonl`` by ``answers.jsonl.xz``, which `accuracy_answers.read_answers` reads as well.

    Lines are sorted, so that the order in which processes finished does not show; what was packed before is replaced.

    Returns: the path of the packed file.
    """
    answers, packed = folder / ANSWERS, folder / _PACKED
    lines = sorted(answers.read_text(encoding="utf-8").splitlines(keepends=True), key=_packing_order)
    replace(packed, lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    answers.unlink()
    return packed


def unpack_answers(folder: Path) -> None:
    """Make ``answers.jsonl`` of the packed answers, so that a run can go on; nothing where there are none."""
    answers, packed = folder / ANSWERS, folder / _PACKED
    if packed.exists() and not answers.exists():
        replace(answers, lzma.decompress(packed.read_bytes()))
    packed.unlink(missing_ok=True)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``run.json``; a kill leaves the old or the new one."""
    replace(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def whole_videos(folder: Path, wanted: dict[VideoName, int]) -> set[VideoName]:
    """Say which videos have all their lines, and take out the lines of others, a torn last one among them.

    Args:
        folder: of the run.
        wanted: lines of each video.
    """
    path = folder / ANSWERS
    if not path.exists():
        return set()
    kept: list[tuple[VideoName, str]] = []
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn
        if line.endswith("\n"):
            kept.append(((entry["condition"], entry["seed"]), line))
    counts = Counter(name for name, _ in kept)
    done = {name for name, count in counts.items() if count == wanted.get(name)}
    whole = "".join(line for name, line in kept if name in done)
    if whole != text:
        replace(path, whole.encode())
    return done


def _difference(name: str, before: Any, now: Any) -> str:
    if name != "methods" or before is None:
        return f"{name} was {before!r}, is now {now!r}"
    old, new = ({method["name"]: method for method in each} for each in (before, now))
    said = {
        "only then": [each for each in old if each not in new],
        "only now": [each for each in new if each not in old],
        "changed": [each for each in new if each in old and old[each] != new[each]],
    }
    parts = [f"{what}: {', '.join(names)}" for what, names in said.items() if names]
    return f"methods differ ({'; '.join(parts) or 'in their order'})"


def _packing_order(line: str) -> tuple[str, str, int, str]:
    """Neighbours are alike: one method's answers to one question in a row of budgets."""
    row = json.loads(line)
    return row["condition"], row["seed"], row["question"], line
