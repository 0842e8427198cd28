"""Build sdist and wheel, check both, and run the wheel where nothing else is installed: ``make wheel``.

Standard library only. ``build`` and ``twine`` live in ``.venv-wheel``; the wheel is installed with what it says it
needs into an environment that is thrown away (torch's CPU build under ``constraints/cpu.txt``), far from this checkout.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv-wheel"
NEEDED = (
    "prunevid_qwen/__init__.py",
    "prunevid_qwen/py.typed",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("prunevid_qwen/bundled/*/model.safetensors")),
    "prunevid_qwen/bundled/clips/clips.json",
    "prunevid_qwen/training/recipes/glimpse.yaml",
)
LEFT_OUT = (".*", "build", "dist", "runs", "site", "*.egg-info", "__pycache__")
"""What of a checkout is nobody's source."""

CALLS = (
    ("python", "-c", "import prunevid_qwen, sys; print(prunevid_qwen.__file__)"),
    ("prunevid", "--version"),
    ("prunevid", "ask", "--help"),
    ("prunevid", "train", "glimpse", "--recipe", "glimpse_tiny", "--dry_run", "--data", "samples=2"),
    ("prunevid", "ask", "--video_path", "{clip}", "--question", "What color is the last object?"),
    ("prunevid", "demo", "--model_path", "bundled-qwen3vl"),
)
"""What has to work in the empty environment; ``{clip}`` is a bundled clip."""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a program and return its output; end with its error where it fails."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=alone, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def environment(folder: Path, *packages: str) -> Path:
    """Make an environment with some packages and return the folder of its programs."""
    if not (folder / "bin" / "python").exists():
        run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)
    return folder / "bin"


def wrong_in(names: set[str]) -> list[str]:
    """Say what is wrong with the names of a wheel's files."""
    rooms = {name.partition("/")[0] for name in names}
    strange = sorted(room for room in rooms if room != "prunevid_qwen" and not room.endswith(".dist-info"))
    missing = [name for name in NEEDED if name not in names]
    return [f"the wheel holds {room}/" for room in strange] + [f"the wheel lacks {name}" for name in missing]


def main() -> None:
    """Build, check, install, call."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-install", action="store_true", help="build and check alone; a minute instead of several")
    install = not parser.parse_args().no_install
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    tools = environment(TOOLS, "build", "twine")
    with tempfile.TemporaryDirectory() as folder:  # setuptools leaves files in what it builds, and packs a build/ there
        shutil.copytree(ROOT, Path(folder) / "source", ignore=shutil.ignore_patterns(*LEFT_OUT))
        run(tools / "python", "-m", "build", "--outdir", ROOT / "dist", Path(folder) / "source")
    built = sorted((ROOT / "dist").iterdir())
    (wheel,), (sdist,) = ([path for path in built if path.name.endswith(end)] for end in (".whl", ".tar.gz"))
    print(run(tools / "python", "-m", "twine", "check", "--strict", sdist, wheel).strip())
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    with tarfile.open(sdist) as file:
        in_sdist = len(file.getnames())
    if wrong := wrong_in(names):
        sys.exit("\n".join(wrong))
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB; {sdist.name}: {in_sdist} files")
    if not install:
        return
    with tempfile.TemporaryDirectory() as folder:
        empty = environment(Path(folder) / "venv", "-c", str(ROOT / "constraints" / "cpu.txt"), str(wheel))
        (clip,) = Path(folder).glob("venv/lib/python*/site-packages/prunevid_qwen/bundled/clips/late_square.mp4")
        for call in CALLS:
            said = run(empty / call[0], *(word.format(clip=clip) for word in call[1:]), cwd=Path(folder))
            print(f"{' '.join(call)}: {said.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
