"""Drive the page of `prunevid app` in the distribution's Chromium, in an environment of its own: ``make test-app``."""

from __future__ import annotations

import subprocess
import sys

from make_app_venv import PYTHON, ROOT, main


def test(arguments: list[str]) -> int:
    """Make the environment and run the tests; where there is no Chromium, say so and run none."""
    failed = main("browser")
    if failed or not (PYTHON.parent.parent / "browser.stamp").is_file():
        return failed
    return subprocess.run([str(PYTHON), "-m", "pytest", "-n", "0", "tests/browser", *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(test(sys.argv[1:]))
