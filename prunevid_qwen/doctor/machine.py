"""The machine below Python: its processors, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prunevid_qwen.doctor.finding import FAULT, OK, WARNING, Finding
from prunevid_qwen.version import __version__

_GIB = 2**30
_OLDEST, _NEWEST = (3, 10), (3, 13)
_LEAST_MEMORY, _LEAST_DISK = 2 * _GIB, 2 * _GIB  # below, even small models and their downloads fail
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def package_and_python() -> Iterator[Finding]:
    """Say which versions of this package and of Python run."""
    yield Finding(
        "prunevid_qwen", OK, f"{__version__} in {Path(__file__).parents[1]}", figures={"version": __version__}
    )
    version, tested = platform.python_version(), sys.version_info[:2] <= _NEWEST
    said, fix = f"{version} on {platform.system()} {platform.machine()}", ""
    if sys.version_info[:2] < _OLDEST:
        fix = "install Python 3.10 to 3.13"
    elif not tested:
        said, fix = f"{said}; untested: 3.10 to 3.13 are tested", "use Python 3.13 if something fails"
    elif platform.system() != "Linux":
        said = f"{said}; Linux alone is tested"
    state = FAULT if sys.version_info[:2] < _OLDEST else OK if tested else WARNING
    yield Finding("Python", state, said, fix, {"version": version, "executable": sys.executable})


def processors() -> Iterator[Finding]:
    """Say how many processors this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processors", OK, f"{usable} usable", figures={"usable": usable})


def memory() -> Iterator[Finding]:
    """Say how much memory there is, and how much of it is free."""
    total, free = _memory()
    if total is None:
        yield Finding("memory", OK, "its size is not told by this system")
        return
    left = total if free is None else free
    said = f"{left / _GIB:.1f} GiB free of {total / _GIB:.1f} GiB"
    low = left < _LEAST_MEMORY
    fix = "end other programs, or raise the container's limit: loading a model needs the size of its weights"
    yield Finding("memory", WARNING if low else OK, said, fix if low else "", {"total": total, "free": free})


def disk() -> Iterator[Finding]:
    """Say how much room there is for temporary files."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # says in which folders it tried to write
        yield Finding("temporary files", FAULT, "no folder can be written to", "export TMPDIR=/a/folder/with/room")
        return
    yield room_in("temporary files", Path(folder), "export TMPDIR=/a/folder/with/room")


def room_in(name: str, folder: Path, fix: str) -> Finding:
    """Say how much room the disk of an existing folder has."""
    free = shutil.disk_usage(folder).free
    low = free < _LEAST_DISK
    figures = {"folder": str(folder), "free": free}
    return Finding(name, WARNING if low else OK, f"{free / _GIB:.1f} GiB free in {folder}", fix if low else "", figures)


def _memory() -> tuple[int | None, int | None]:
    """Return bytes in all and free ones; of a container, its own."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None, None
    table = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    total, free = table.get("MemTotal"), table.get("MemAvailable")
    for path in _LIMITS:
        try:
            limit = Path(path).read_text(encoding="ascii").strip()
        except OSError:  # this kind of container, or none
            continue
        if limit.isdigit() and total is not None and int(limit) < total:
            total, free = int(limit), None if free is None else min(free, int(limit))
    return total, free
