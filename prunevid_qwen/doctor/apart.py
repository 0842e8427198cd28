"""Processes of their own for what may crash one: native libraries, which no except clause catches."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import excerpt

SECONDS = 120.0
"""A process that has not ended by then is ended: 20 times as long as imports take on a busy machine."""

# the parent's own search path, so that both see the same installation
_FIRST = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1))\n"
_IMPORT = """
import importlib
for name in sys.argv[1:]:
    try:
        version = str(getattr(importlib.import_module(name), "__version__", ""))
        said = {"version": version}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps([name, said]), flush=True)
"""
_READ = """
from prunevid_qwen.doctor.drawn_clip import read_clip
backend = sys.argv.pop(1)
for each in sys.argv[1:]:
    name, _, clip = each.partition("=")
    print(json.dumps([name, read_clip(backend, clip)]), flush=True)
"""


@dataclass(frozen=True)
class Installed:
    """What importing a library apart gave: None where nothing went wrong.

    Args:
        version: "" where it says none.
        error: what its import raised, or how the process ended.
    """

    version: str = ""
    error: str | None = None


def is_there(module: str) -> bool:
    """Tell whether a library is installed, without importing it."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def imported(modules: Iterable[str]) -> dict[str, Installed]:
    """Import the installed ones of ``modules`` in one process, in order; another goes on behind one that crashes."""
    left, found = [each for each in modules if is_there(each)], dict[str, Installed]()
    while left:
        answers, ended = _answers(_IMPORT, left)
        for name, said in answers:
            found[name] = Installed(said.get("version", ""), said.get("error"))
        left = left[len(answers) :]
        if left:
            found[left[0]] = Installed("", ended)
            left = left[1:]
    return found


def clips_read(backend: str, clips: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read clips by name with one reader in a process; what `read_clip` says of each, an "error" for a crash."""
    left, found = dict(clips), dict[str, dict[str, Any]]()
    while left:
        answers, ended = _answers(_READ, [backend, *(f"{name}={path}" for name, path in left.items())])
        found |= dict(answers)
        left = {name: path for name, path in left.items() if name not in found}
        if left:
            found[next(iter(left))] = {"error": ended}
            left.pop(next(iter(left)))
    return found


def _answers(code: str, words: Sequence[str]) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """Run code in a process; return its lines of JSON, and how it ended."""
    command = [sys.executable, "-c", _FIRST + code, json.dumps(sys.path), *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
        return _read_lines(out if isinstance(out, str) else out.decode(errors="replace")), (
            f"did not end within {SECONDS:.0f} seconds"
        )
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        ended = f"crashes Python ({name})"
    else:
        ended = f"ends Python with exit code {done.returncode}" + (f": {excerpt(last)}" if last else "")
    return _read_lines(done.stdout), ended


def _read_lines(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Keep the whole lines of ours: libraries print too."""
    found = []
    for line in text.splitlines():
        if line.startswith('["') and line.endswith("}]"):
            name, said = json.loads(line)
            found.append((str(name), dict(said)))
    return found
