"""Make .venv-app, in which the page of `prunevid app` runs: ``python tools/make_app_venv.py page|browser``.

Gradio wants an older pillow than the tests do, so it has an environment of its own. That one sees the packages of .venv
(the Python that runs this script), and holds Gradio and what it needs: 290 MB instead of a second torch. ``browser``
adds Playwright, which drives the distribution's Chromium in the tests, where there is one. A stamp is written last, so
that an install that broke off is done again.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script is started with its own folder alone

from make_venv import requirements  # noqa: E402

from tests.browser.chromium import HOW, chromium  # noqa: E402

VENV = ROOT / ".venv-app"
PYTHON = VENV / "bin" / "python"
PLAYWRIGHT = "playwright>=1.50"


def main(purpose: str) -> int:
    """Install what is missing; return the exit code."""
    wanted = [each for each in requirements(["app"]) if each not in requirements([])]
    if purpose == "browser":
        if chromium() is None:
            print(f"The browser tests are skipped: {HOW}")
            return 0
        wanted.append(PLAYWRIGHT)
    stamp = VENV / f"{purpose}.stamp"
    said = "\n".join([sys.version, *wanted])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == said:
        return 0
    print(f"Installing {' and '.join(wanted)} into {VENV.name}", flush=True)
    venv.create(VENV, clear=not PYTHON.exists(), symlinks=True)
    beside = Path(sysconfig.get_path("purelib", vars={"base": str(VENV)}))
    (beside / "base.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n", encoding="utf-8")
    pip = [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", *wanted]
    with (VENV / "install.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(pip, cwd=VENV, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        print(f"make: {' and '.join(wanted)} could not be installed; see {log.name}", file=sys.stderr)
        return 3
    stamp.write_text(said, encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["page"], ["browser"]):
        raise SystemExit("usage: make_app_venv.py page|browser")
    raise SystemExit(main(sys.argv[1]))
