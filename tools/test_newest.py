"""Run the core's oracles under the newest release of transformers: ``make test-newest``; a part of CI.

Asks the registry. Where the newest release is the pinned one, the tests have run under it and nothing is done. Else it
is installed into a folder under ``.venv-matrix/``, without its dependencies but for those that the environment does not
satisfy (never a second torch), and put first on the path: the self-check of both families has to pass there, and then
the oracles, in about a minute. A registry out of reach is said, and is no failure. An oracle that fails is one, whoever
changed: a plain ``pip install`` brings that release to users from today on.

    python tools/test_newest.py [--release 5.23.0] [--pinned 5.23.0] [options of pytest]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints" / "cpu.txt"
BESIDE = ROOT / ".venv-matrix"
ORACLES = (
    "tests/test_seams.py", "tests/test_keep_everything.py", "tests/test_pruning_equals_masking.py",
    "tests/test_context.py", "tests/test_cache.py", "tests/test_generation.py", "tests/test_positions.py",
    "tests/test_steps.py", "tests/test_steps_generation.py", "tests/test_family_oracles.py",
)  # fmt: skip
NEVER = re.compile(r"torch|torchvision|triton|nvidia-.*")  # gigabytes, and another arithmetic than the tests'
CANARY = """
import sys, transformers
from prunevid_qwen.adapters import families
from prunevid_qwen.forward.hooks import self_check
if transformers.__version__ != sys.argv[1]:
    sys.exit(f"transformers {transformers.__version__} is imported from {transformers.__file__}, not {sys.argv[1]}")
for family in families():
    found = self_check(family)
    print(f"self-check of {family}: {len(found.checks)} points, {len(found.failed)} failed, {found.seconds:.1f} s")
    for check in found.failed:
        print(f"  {check}")
    if not found.ok:
        sys.exit(1)
"""

Pip = Callable[..., str]
Run = Callable[[Sequence[str], Mapping[str, str]], int]


class OutOfReach(Exception):
    """The registry did not answer, or did not give what was asked for."""


def pip(*words: str) -> str:
    """Run pip quickly or not at all, and return what it said.

    Raises:
        OutOfReach: it failed; with its last line.
    """
    command = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise OutOfReach("pip did not end within 300 s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise OutOfReach(said[-1] if said else f"pip ended with {done.returncode}")
    return done.stdout


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in the repository, in sight, and return its exit code."""
    return subprocess.run(list(command), cwd=ROOT, env=dict(environment), check=False).returncode


def pinned_release() -> str:
    """Return the release of transformers that the constraints name."""
    found = re.search(r"^transformers==(\S+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{CONSTRAINTS} pins no transformers")
    return found[1]


def newest_release(ask: Pip) -> str:
    """Return the newest release in the registry that this Python can install; no pre-release.

    Raises:
        OutOfReach: it could not be found out.
    """
    said = ask("index", "versions", "transformers")
    found = re.search(r"^transformers \((\S+)\)", said, re.MULTILINE)
    if found is None:
        raise OutOfReach(f"pip index did not name a release of transformers: {said[:200]!r}")
    return found[1]


def unmet(folder: Path) -> list[Requirement]:
    """List what the packages in a folder need and neither the folder nor the environment has."""
    found = distributions(path=[str(folder)])
    beside: dict[str, Distribution] = {_plain(each.metadata["Name"]): each for each in found}
    needs = [Requirement(line) for each in beside.values() for line in each.requires or ()]
    missing: dict[str, Requirement] = {}
    for need in needs:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        held = beside.get(_plain(need.name))
        try:
            version = (held or distribution(need.name)).version
        except PackageNotFoundError:
            version = None
        if version is None or not need.specifier.contains(version, prereleases=True):
            missing.setdefault(_plain(need.name), need)
    return list(missing.values())


def install(release: str, folder: Path, ask: Pip) -> None:
    """Install a release into a folder with what it needs beyond the environment, unless a stamp says that it is there.

    Raises:
        OutOfReach: something could not be installed, or is never to be installed a second time.
    """
    stamp = folder / "installed"
    if stamp.is_file():
        return
    into = ("install", "--quiet", "--upgrade", "--no-deps", "--target", str(folder))
    ask(*into, f"transformers=={release}")
    seen: set[str] = set()
    while needs := unmet(folder):
        said = ", ".join(str(need) for need in needs)
        if said in seen:
            raise OutOfReach(f"what it needs cannot be installed together: {said}")
        seen.add(said)
        heavy = [str(need) for need in needs if NEVER.fullmatch(_plain(need.name))]
        if heavy:
            raise OutOfReach(f"it needs {', '.join(heavy)}, and a second one is not installed for this")
        for need in needs:
            print(f"  also {need}, which the environment does not satisfy")
            ask(*into, f"{need.name}{need.specifier}")
    stamp.touch()


def main(arguments: Sequence[str], ask: Pip = pip, start: Run = run, beside: Path = BESIDE) -> int:
    """Test the newest release; 0 where it passed or nothing could be asked, 1 where it did not."""
    parser = argparse.ArgumentParser(description="the core's oracles under the newest transformers")
    parser.add_argument("--release", help="run this one instead of asking for the newest")
    parser.add_argument("--pinned", default=pinned_release(), help="what counts as tested already")
    given, options = parser.parse_known_args(arguments)
    try:
        release = given.release or newest_release(ask)
        tested, newest = Version(given.pinned), Version(release)
        if newest == tested or (newest < tested and given.release is None):
            print(f"transformers {given.pinned} is pinned and {release} the newest in the registry: nothing to do")
            return 0
        folder = beside / f"beside-{release}"
        install(release, folder, ask)
    except OutOfReach as error:
        print(f"skipped: the newest transformers: {error}")
        return 0
    print(f"transformers {release} from {folder}, pinned is {given.pinned}", flush=True)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
    with tempfile.TemporaryDirectory() as cache:  # the home's would remember that this release has passed
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": cache}
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ORACLES, *options]
        failed = [
            name
            for name, command in (("self-check", [sys.executable, "-c", CANARY, release]), ("oracles", tests))
            if start(command, environment)
        ]
    print(f"transformers {release}: {' and '.join(failed) + ' FAILED' if failed else 'self-check and oracles pass'}")
    return 1 if failed else 0


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
