"""Compare the kernels and the pruned forward on a GPU with what they are to compute: ``make gpu-check``.

Uses the Python that runs it and installs nothing; on a machine without a GPU it says so and ends well. Each part is a
process of its own, so that a kernel that hangs costs its part's time and no more. Ends with 1 if a check failed or was
not reached in time. Writes every check and timing to a JSON file.

Standard library only: this process has to live where torch does not.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from make_venv import gpu_kind

ROOT = Path(__file__).resolve().parent.parent
START = 12.0  # seconds that a part may need to load its libraries, on top of its checks' time


class Part(NamedTuple):
    """A part of the check: a name for the terminal, what runs it, seconds it may take, a tool that watches it."""

    name: str
    runs: str
    seconds: float
    tool: str = ""


PARTS = (
    Part("about", "about", 30),
    Part("kernels against their laws", "kernels", 160),
    Part("the whole path", "path", 100),
    Part("timings", "timings", 80),
    Part("the vision tower", "tower", 60),
    Part("memcheck", "sanitized", 55, "memcheck"),
    Part("racecheck", "sanitized", 55, "racecheck"),
)


def seconds_for(parts: tuple[Part, ...], left: float) -> float:
    """Return how long the first of ``parts`` may take: all that is left but what the later ones are promised."""
    promised = sum(part.seconds for part in parts[1:])
    return max(0.0, min(left, max(parts[0].seconds, left - promised)))


def command(part: Part, seconds: float, seed: int) -> list[str]:
    """Return what runs a part, or nothing where its tool is missing."""
    run = [sys.executable, "-m", "tests.gpu.parts", part.runs, str(max(1.0, seconds - START)), str(seed)]
    if not part.tool:
        return run
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    return [sanitizer, "--tool", part.tool, "--error-exitcode", "99", *run] if sanitizer else []


def carry_out(part: Part, call: list[str], seconds: float) -> dict[str, Any]:
    """Run a part and return its lines, and what went wrong with it as a whole.

    Args:
        part: which.
        call: its command.
        seconds: after which it is stopped.
    """
    if not call:
        return {"lines": [], "skipped": "compute-sanitizer is not on this machine"}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))
    environment["HF_HUB_OFFLINE"] = "1"
    if part.tool:  # torch's own store of memory would hide what is out of bounds
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    process = subprocess.Popen(
        call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip
    stopped = ""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the sanitizer's child too
        output, _ = process.communicate()
        stopped = f"stopped after {seconds:.0f} s"
    except BaseException:  # Ctrl-C: the part is in a session of its own, which the terminal does not reach
        os.killpg(process.pid, 9)
        raise
    found = {"lines": lines_of(output), "tail": output[-4000:]}
    return {**found, **judged(part, process.returncode, output, stopped)}


def lines_of(output: str) -> list[dict[str, Any]]:
    """Return the checks among what a part printed."""
    found = []
    for line in output.splitlines():
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict) and "check" in read:
            found.append(read)
    return found


def judged(part: Part, code: int, output: str, stopped: str) -> dict[str, str]:
    """Say of a part as a whole: {} (it ran), "skipped" (it cannot run here), "not_run" or "wrong"."""
    if part.tool and re.search(r"(?i)device not supported|unable to find injection library", output):
        return {"skipped": "compute-sanitizer does not support this device or container"}
    if stopped:
        return {"not_run": stopped}
    if part.tool:
        summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)[^\n]*", output)
        if summary is None:
            return {"skipped": f"compute-sanitizer does not work here: {output.strip()[-200:]}"}
        if int(summary[1]):
            return {"wrong": summary[0]}
    if code:
        return {"wrong": f"ended with {code}: {output.strip()[-300:]}"}
    return {}


def told(part: Part, found: dict[str, Any]) -> tuple[int, int]:
    """Print a part's outcome and return how many of its checks failed and how many were not run."""
    lines = found["lines"]
    wrong, missed = [x for x in lines if x.get("wrong")], [x for x in lines if "not_run" in x]
    good = len(lines) - len(wrong) - len(missed)
    for said in ("skipped", "not_run", "wrong"):
        if said in found:
            print(f"{part.name}: {said.replace('_', ' ')}: {found[said]}")
    if lines:
        print(f"{part.name}: {good} passed, {len(wrong)} failed, {len(missed)} not run")
    for line in wrong:
        print(f"  FAILED {line['check']}: {line['wrong'][:600]}")
    for line in missed:
        print(f"  not run: {line['check']}")
    for line in lines:
        if "found" in line:
            print(f"  {line['check']}: {line['found']}")
    return len(wrong) + ("wrong" in found), len(missed) + ("not_run" in found)


def main(arguments: list[str]) -> int:
    """Check what can be checked within the time; return 1 if something failed or was not reached."""
    parser = argparse.ArgumentParser(prog="make gpu-check ARGS=...", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_check.json", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=530.0, help="for everything; default: %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of the data; default: fresh")
    given = parser.parse_args(arguments)
    kind = gpu_kind()
    if kind == "none":
        print("gpu-check: skipped: this machine has no GPU (no nvidia-smi, no /dev/nvidia* or /dev/kfd that works)")
        return 0
    if kind == "bare":
        print(f"gpu-check: there is a GPU, but {sys.executable} has no torch that sees it; try PYTHON=...")
        return 1
    return check(given.out, given.seconds, given.seed)


def check(out: Path, seconds: float, seed: int) -> int:
    """Carry out every part and write what was found."""
    begun, failed, missed = time.monotonic(), 0, 0
    report: dict[str, Any] = {"seed": seed, "parts": {}}
    print(f"gpu-check: seed {seed}, at most {seconds:.0f} s", flush=True)
    for i, part in enumerate(PARTS):
        limit = seconds_for(PARTS[i:], seconds - (time.monotonic() - begun))
        if limit <= START:
            found: dict[str, Any] = {"lines": [], "not_run": "no time was left"}
        else:
            found = carry_out(part, command(part, limit, seed), limit)
        bad, unreached = told(part, found)
        failed, missed = failed + bad, missed + unreached
        report["parts"][part.name] = found
        report |= {"failed": failed, "not_run": missed, "seconds": round(time.monotonic() - begun, 1)}
        out.parent.mkdir(parents=True, exist_ok=True)  # after every part: what stands is kept if a limit ends us
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        sys.stdout.flush()
    print(f"gpu-check: {failed} failed, {missed} not run, {report['seconds']} s; {out}")
    return int(bool(failed or missed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
