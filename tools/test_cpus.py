"""Run the tests as other CPUs and a busy machine would: ``make test-cpus``, or ``make test-cpus ARGS="avx2 busy"``.

Libraries choose how they sum by what the CPU can do, and switches of theirs make them choose otherwise. The whole suite
runs under the plainest choice and beside busy loops; the tests that compare numbers (``-m numeric``) run under the
others. Each row says whether its switch did what it is for: one that this machine cannot honour is recorded as not run.
Writes ``eval/results/test_cpus.json`` after each row, keeping the rows that were not asked for.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spread_tests import spread

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "eval" / "results" / "test_cpus.json"
NUMERIC = ("-m", "numeric")
ALONE = ("-n", "0") if spread() else ()
SHOWN = 20

CAPABILITY = "import torch; print(torch.backends.cpu.get_cpu_capability())"
MKL = "import torch; a = torch.ones(64, 64); print(torch.backends.mkl.is_available()); a @ a"
ONEDNN = "import torch; print(torch.backends.mkldnn.is_available()); torch.ones(8, 64).to_mkldnn().relu()"
THREADS = "import torch; print(torch.get_num_threads())"


@dataclass(frozen=True)
class Row:
    """One way to run the tests.

    Args:
        name: on the command line.
        switch: environment variables.
        probe: Python code whose output shows that the switch is honoured; "" where there is nothing to honour.
        shows: what that output holds then.
        select: arguments of pytest; () is the whole suite.
        busy: a busy loop for each core runs beside it.
        look: environment variables of the probe alone.
    """

    name: str
    switch: dict[str, str] = field(default_factory=dict)
    probe: str = ""
    shows: str = ""
    select: tuple[str, ...] = NUMERIC
    busy: bool = False
    look: dict[str, str] = field(default_factory=dict)


ROWS = (
    Row("default", {"ATEN_CPU_CAPABILITY": "default"}, CAPABILITY, "DEFAULT", select=()),
    Row("busy", select=(), busy=True),
    Row("avx2", {"ATEN_CPU_CAPABILITY": "avx2"}, CAPABILITY, "AVX2"),
    Row("mkl_compatible", {"MKL_CBWR": "COMPATIBLE"}, MKL, "CNR:COMPATIBLE", look={"MKL_VERBOSE": "1"}),
    Row("onednn_sse41", {"ONEDNN_MAX_CPU_ISA": "SSE41"}, ONEDNN, "isa:Intel SSE4.1", look={"ONEDNN_VERBOSE": "1"}),
    Row("onednn_avx2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, ONEDNN, "isa:Intel AVX2\n", look={"ONEDNN_VERBOSE": "1"}),
    # in one process: two of two threads each wait for cores, and spin while they do
    Row("threads_2", {"PRUNEVID_TEST_THREADS": "2", "OMP_NUM_THREADS": "2"}, THREADS, "2", (*NUMERIC, *ALONE)),
)
NAMED = {row.name: row for row in ROWS}


def run(*command: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, capturing what it says."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **arguments)


def honoured(row: Row) -> bool:
    """Tell whether the switch does on this machine what it is for."""
    if not row.probe:
        return True
    done = run(sys.executable, "-c", row.probe, env={**os.environ, **row.switch, **row.look})
    return done.returncode == 0 and row.shows in done.stdout + done.stderr


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep every core busy with somebody else's work, a little less urgent than ours."""
    code = "import os\nos.nice(5)\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    loops = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def about() -> dict[str, Any]:
    """Say what runs the tests, and where."""
    code = (
        "import json, sys, torch, transformers as t; "
        "print(json.dumps([torch.__version__, t.__version__, sys.version.split()[0]]))"
    )
    torch, transformers, python = json.loads(run(sys.executable, "-c", code, check=True).stdout)
    cpu = (
        re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if os.path.exists("/proc/cpuinfo")
        else None
    )
    changed = run("git", "status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}").stdout.strip()
    return {
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "capability": run(sys.executable, "-c", CAPABILITY).stdout.strip(),
        "cores": os.cpu_count(),
        "torch": torch,
        "transformers": transformers,
        "python": python,
        "commit": run("git", "rev-parse", "HEAD").stdout.strip() + (" with changes" if changed else ""),
    }


def test(row: Row, arguments: list[str]) -> dict[str, Any]:
    """Run the tests in one way and return what is recorded of it."""
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *spread(), *row.select, *arguments]
    said = " ".join([*(f"{name}={value}" for name, value in row.switch.items()), "python", *command])
    found: dict[str, Any] = {"row": row.name, "switch": row.switch, "busy": row.busy, "command": said, **about()}
    found["load"] = round(os.getloadavg()[0], 1)  # of a minute, before
    if not honoured(row):
        return {**found, "ok": None, "not_run": "this machine, or this build of torch, does not honour the switch"}
    began = time.monotonic()
    with busy_loops((os.cpu_count() or 1) if row.busy else 0):
        done = run(sys.executable, *command, env={**os.environ, **row.switch})
    lines = done.stdout.strip().splitlines() or [done.stderr[-500:]]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1])}
    found |= {"ok": done.returncode == 0, **counts, "seconds": round(time.monotonic() - began)}
    if done.returncode:
        found["failures"] = [line for line in lines if line.startswith(("FAILED", "ERROR"))][:SHOWN] or lines[-5:]
    return found


def told(row: dict[str, Any]) -> str:
    """Return a row as a line for people."""
    if row["ok"] is None:
        return f"{row['row']}: not run: {row['not_run']}"
    counts = ", ".join(
        f"{row[what]} {what}" for what in ("passed", "failed", "skipped", "error", "errors") if what in row
    )
    return f"{row['row']}: {'ok' if row['ok'] else 'FAILED'}; {counts}, {row['seconds']} s"


def main() -> int:
    """Run the rows named on the command line, or all; what begins with a dash goes on to pytest."""
    words = sys.argv[1:]
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    names, arguments = words[:first] or list(NAMED), words[first:]
    unknown = [name for name in names if name not in NAMED]
    if unknown:
        print(f"no row is called {unknown[0]!r}: there are {', '.join(NAMED)}", file=sys.stderr)
        return 2
    rows = {row["row"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))} if RESULTS.is_file() else {}
    for name in names:
        rows[name] = test(NAMED[name], arguments)
        print(told(rows[name]), *rows[name].get("failures", []), sep="\n  ", flush=True)
        in_order = [rows[each] for each in NAMED if each in rows]
        beside = RESULTS.with_name(f"{RESULTS.name}.new")  # an interruption leaves one of the two whole
        beside.write_text(json.dumps(in_order, indent=2) + "\n", encoding="utf-8")
        beside.replace(RESULTS)
    return 0 if all(rows[name]["ok"] is not False for name in names) else 1


if __name__ == "__main__":
    sys.exit(main())
