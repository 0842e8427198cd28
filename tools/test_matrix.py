"""Run the tests under each supported transformers release: ``make test-matrix``, or ``make test-matrix ARGS="5.6.2"``.

Each release gets a small environment under ``.venv-matrix/`` that sees everything in ``.venv`` through a path file and
holds only what differs, so that torch is neither fetched nor stored again. Needs the registry the first time. Writes
``eval/results/test_matrix.json``, one row for each release, keeping the rows of releases that were not run; README's
table is filled from it by ``python tools/fill_pages.py``.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spread_tests import spread

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "eval" / "results" / "test_matrix.json"
# `TESTED` of prunevid_qwen/version.py, which says why these; a test holds the two together.
RELEASES = ("5.6.2", "5.10.4", "5.17.0", "5.18.0", "5.20.2", "5.23.0", "5.24.0")
# What `make test` runs; options on the command line come after these, and win.
SUITE = (*spread(), "-m", "not nightly")
# Linters' tests say nothing about transformers, and those of the pages hold them against this very result.
NOT_ABOUT_TRANSFORMERS = tuple(
    f"tests/test_{name}.py"
    for name in (
        "packaging",
        "layers",
        "tested_releases",
        "card_figures",
        "docs",
        "names",
        "pages",
        "site",
        "repository",
        "research_is_apart",
    )
)


def run(*command: str | Path, **arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, capturing what it says."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, **arguments)


def environment(release: str) -> Path:
    """Make the environment of a release, or find it made; return its Python.

    Raises:
        RuntimeError: the release could not be installed; the message ends with what pip said.
    """
    folder = ROOT / ".venv-matrix" / release
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.is_file():
        return python
    run(sys.executable, "-m", "venv", "--clear", folder, check=True)
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own, shared = (Path(run(p, "-c", where, check=True).stdout.strip()) for p in (python, sys.executable))
    # Own packages come first on the path. The checkout is found by the folder that pytest starts in.
    (own / "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
    done = run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"transformers=={release}")
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    stamp.touch()
    return python


def cpu_model() -> str:
    """Return the name of this machine's CPU, or of its kind where the system does not tell."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", told.read_text(), re.MULTILINE) if told.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def test(release: str, arguments: list[str]) -> dict[str, Any]:
    """Run the tests under one release and return its row."""
    options = [*SUITE, *arguments]
    row: dict[str, Any] = {"transformers": release, "ok": False, "pytest": shlex.join(options), "cpu": cpu_model()}
    row["day"] = datetime.now(timezone.utc).date().isoformat()
    row["commit"] = run("git", "rev-parse", "HEAD").stdout.strip()
    written = f":!{RESULTS.relative_to(ROOT)}"  # by the row before this one
    row["uncommitted_changes"] = bool(run("git", "status", "--porcelain", "--", ".", written).stdout.strip())
    try:
        python = environment(release)
    except RuntimeError as error:
        return {**row, "note": str(error)}
    versions = (
        "import json, sys, torch, transformers; print(json.dumps([transformers.__version__, torch.__version__, "
        + ("sys.version.split()[0]]))")
    )
    found, torch_version, python_version = json.loads(run(python, "-c", versions, check=True).stdout)
    if found != release:
        return {**row, "note": f"the environment imports transformers {found}: remove .venv-matrix/{release}"}
    began = time.monotonic()
    skipped = [f"--ignore={path}" for path in NOT_ABOUT_TRANSFORMERS]
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *skipped, *options)
    said = done.stdout.strip().splitlines() or [done.stderr[-500:]]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", said[-1])}
    row = {**row, "ok": done.returncode == 0, **counts, "seconds": round(time.monotonic() - began)}
    row |= {"torch": torch_version, "python": python_version}
    if done.returncode:
        row["failures"] = [line for line in said if line.startswith(("FAILED", "ERROR"))][:20] or said[-5:]
    return row


def main() -> int:
    """Test the releases named on the command line, or all; options go on to pytest."""
    releases = [word for word in sys.argv[1:] if re.fullmatch(r"\d+\.\d+\.\d+", word)]
    arguments = [word for word in sys.argv[1:] if word not in releases]
    rows = {row["transformers"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.is_file() else {}
    for release in releases or RELEASES:
        row = rows[release] = test(release, arguments)
        told = ", ".join(
            f"{row[what]} {what}" for what in ("passed", "failed", "skipped", "error", "errors") if what in row
        )
        print(f"transformers {release}: {'ok' if row['ok'] else 'FAILED'}; {told} {row.get('note', '')}", flush=True)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        in_order = sorted(rows.values(), key=lambda one: [int(part) for part in one["transformers"].split(".")])
        RESULTS.write_text(json.dumps(in_order, indent=2) + "\n", encoding="utf-8")
    return 0 if all(rows[release]["ok"] for release in releases or RELEASES) else 1


if __name__ == "__main__":
    sys.exit(main())
