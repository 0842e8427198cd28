"""Make .venv and install the package into it: ``python tools/make_venv.py base|serve|dev|nightly``, for the Makefile.

Three kinds of machine:

- no GPU: everything under ``constraints/cpu.txt``, so that torch is the CPU build;
- a GPU, and the calling Python already has a torch that sees it: ``--system-site-packages``, and only what is missing
  is installed, under a constraint that keeps that torch (such machines may reach no registry at all);
- a GPU but no such torch: everything, torch unconstrained.

A stamp is written at the very end, so that a half-finished install is done again. Standard library only; its syntax is
old on purpose: a Python that is too old must live long enough to say so.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
EXTRAS = {
    "base": [],
    "serve": ["serve", "judge"],
    "dev": ["dev", "bench", "decord", "docs", "opencv"],
    "nightly": ["serve-ray"],
}
NEEDED_FOR_TESTS = "pytest"
TOLD_EVERY = 30  # seconds, where stdout is no terminal


def fail(message):
    """End with the exit code of a missing environment."""
    print("make: " + message, file=sys.stderr)
    raise SystemExit(3)


def check_python():
    """Refuse a Python that is too old, naming what to do."""
    if sys.version_info < (3, 10):
        found = [name for name in ("python3.13", "python3.12", "python3.11", "python3.10") if shutil.which(name)]
        hint = "run: make PYTHON={} ...".format(found[0]) if found else "install one, then: make PYTHON=python3.11 ..."
        fail("{} is Python {}.{}; 3.10 to 3.13 is needed: {}".format(sys.executable, *sys.version_info[:2], hint))


def gpu_kind():
    """Return "none", "system" (the calling Python's torch sees a GPU) or "bare" (a GPU without such a torch)."""
    devices = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd")
    if not shutil.which("nvidia-smi") and not any(os.path.exists(device) for device in devices):
        return "none"
    probe = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"
    if subprocess.run([sys.executable, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0:
        return "system"
    smi = shutil.which("nvidia-smi")
    works = smi and subprocess.run([smi, "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    return "bare" if works or os.path.exists("/dev/kfd") else "none"


def runs(python):
    """Whether an interpreter starts and is the one that was asked for."""
    wanted = "import sys; sys.exit(sys.version_info[:2] != {!r})".format(tuple(sys.version_info[:2]))
    try:
        return subprocess.run([str(python), "-c", wanted], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def create(system_site_packages):
    """Make the environment, anew if the one that stands is broken or of another Python or kind."""
    settings = VENV / "pyvenv.cfg"
    kind = "include-system-site-packages = " + ("true" if system_site_packages else "false")
    if runs(PYTHON) and settings.is_file() and kind in settings.read_text():
        return
    if VENV.exists():
        shutil.rmtree(str(VENV))
    if system_site_packages:  # the system's pip does; Debian's Python often has no other
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", str(VENV)], check=True)
        if sys.prefix != sys.base_prefix:  # called from an environment: that one's packages are meant too
            (purelib(PYTHON) / "caller.pth").write_text("{}\n".format(purelib(sys.executable)))
        return
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        fail("this Python cannot make environments: on Debian and Ubuntu, apt install python3-venv")
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)


def purelib(python):
    """Return the folder in which an interpreter's packages are installed."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(subprocess.check_output([str(python), "-c", code], universal_newlines=True).strip())


def tell_at_intervals(latest, done):
    """Print what is being installed each half minute, where nobody sees the line that a terminal has for it."""
    began = time.monotonic()
    while not done.wait(TOLD_EVERY):
        print("  {:.0f} s: {}".format(time.monotonic() - began, latest[0]), flush=True)


def pip(*arguments):
    """Run pip install, showing one line for each package on its way; return whether it succeeded."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    if (ROOT / ".whl").is_dir():  # wheels carried to a machine that reaches no registry
        command += ["--find-links", str(ROOT / ".whl")]
    command += arguments
    with open(LOG, "a") as log:
        log.write("$ " + " ".join(command) + "\n")
        process = subprocess.Popen(
            command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
        )
        assert process.stdout is not None
        latest, done = ["pip starts"], threading.Event()
        if not sys.stdout.isatty():
            threading.Thread(target=tell_at_intervals, args=(latest, done), daemon=True).start()
        for line in process.stdout:
            log.write(line)
            words = line.split()
            latest[0] = " ".join(words)[:76]
            if sys.stdout.isatty() and words[:1] in (["Collecting"], ["Downloading"], ["Installing"]):
                print("\r\033[K  {}".format(" ".join(words)[:76]), end="", flush=True)
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)
        done.set()
        return process.wait() == 0


def requirements(extras):
    """Return the requirements of the package and some of its extras, as pyproject.toml lists them."""
    try:
        import tomllib
    except ImportError:  # Python 3.10: pip carries a copy
        from pip._vendor import tomli as tomllib  # type: ignore[no-redef]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = list(project["dependencies"])
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    return listed


def missing(listed):
    """Return those requirements that the environment does not meet, asked inside the environment."""
    code = (
        "import sys\n"
        "from importlib.metadata import version, PackageNotFoundError as Absent\n"
        "try: from packaging.requirements import Requirement\n"
        "except ImportError: from pip._vendor.packaging.requirements import Requirement\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    need = Requirement(line)\n"
        "    if need.marker and not need.marker.evaluate(): continue\n"
        "    try: met = need.specifier.contains(version(need.name), prereleases=True)\n"
        "    except Absent: met = False\n"
        "    if not met: print(line)\n"
    )
    done = subprocess.run(
        [str(PYTHON), "-c", code], input="\n".join(listed), stdout=subprocess.PIPE, universal_newlines=True, check=True
    )
    return done.stdout.splitlines()


def installed(name):
    """Return the version of a package inside the environment."""
    code = "from importlib.metadata import version; print(version({!r}))".format(name)
    return subprocess.check_output([str(PYTHON), "-c", code], universal_newlines=True).strip()


def install_beside_system(extras):
    """Install only what the system does not have, and never another torch or triton."""
    if not pip("--no-deps", "--no-build-isolation", "-e", "."):
        # No setuptools to build with: a path file makes the package importable, which is all that make needs.
        (purelib(PYTHON) / "prunevid_qwen.pth").write_text(str(ROOT) + "\n")
    keep = VENV / "keep.txt"
    kept = ["torch"] if missing(["triton"]) else ["torch", "triton"]  # each torch has its own triton
    keep.write_text("".join("{}=={}\n".format(name, installed(name)) for name in kept))
    for listed, required in ((requirements([]), True), (requirements(extras), False)):
        for need in missing(listed):
            if pip("-c", str(keep), need):
                continue
            if required or need.startswith(NEEDED_FOR_TESTS):
                fail("{} is missing here and could not be installed; see {}".format(need, LOG))
            print("  not available here: {} (tests that need it are skipped)".format(need))


def install(extras, constraints):
    """Install the package and everything it needs."""
    target = ".[{}]".format(",".join(extras)) if extras else "."
    # setuptools first and no isolation: one build dependency, fetched once and not into a throw-away environment.
    if not pip(*constraints, "setuptools") or not pip(*constraints, "--no-build-isolation", "-e", target):
        tail = LOG.read_text().splitlines()[-12:]
        fail("the installation failed; the whole log is {}. It ended:\n  {}".format(LOG, "\n  ".join(tail)))


def main():
    """Install what the named target needs and write its stamp."""
    target = sys.argv[1] if len(sys.argv) == 2 else ""
    if target not in EXTRAS:
        fail("usage: make_venv.py base|serve|dev|nightly")
    check_python()
    kind = gpu_kind()
    create(system_site_packages=kind == "system")
    said = {
        "none": "no GPU: torch's CPU build, some minutes and 1.3 GB the first time",
        "system": "a GPU: using the torch of {}, installing only what is missing".format(sys.executable),
        "bare": "a GPU: installing torch with its libraries, several GB",
    }
    more = {
        "dev": "adding what the tests need, 1.3 GB, most of it triton",
        "serve": "adding what the server and its client need, 20 MB",
        "nightly": "adding Ray Serve for its tests, 120 MB",
    }
    said["none"] = more.get(target, said["none"])
    print("Installing into .venv ({})".format(said[kind]), flush=True)
    LOG.write_text("")
    if kind == "system":
        install_beside_system(EXTRAS[target])
    else:
        install(EXTRAS[target], ["-c", "constraints/cpu.txt"] if kind == "none" else [])
    (VENV / "{}.stamp".format(target)).write_text("installed\n")


if __name__ == "__main__":
    main()
