"""What is installed: one version, light imports, no network, and the torch-free parts on every supported Python."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
PYENV = Path.home() / ".pyenv" / "versions"
# Run before anything else in a subprocess: whatever reaches for the network fails at once.
NO_NETWORK = """
import socket
def refuse(*_, **__): raise AssertionError("the network was touched")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def python(code: str, *arguments: str, interpreter: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [interpreter, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
        check=False,
    )


def test_importing_the_package_and_help_load_no_torch_and_no_network() -> None:
    code = NO_NETWORK + (
        "import sys, prunevid_qwen\n"
        "from prunevid_qwen.cli import main\n"
        "assert main(['ask', '--help']) == 0 and main(['--version']) == 0\n"
        "heavy = {'torch', 'transformers', 'av', 'PIL', 'numpy', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_same_everywhere() -> None:
    from prunevid_qwen.version import __version__

    try:
        installed = version("prunevid_qwen")
    except PackageNotFoundError:
        pytest.skip("the package runs from its source folder here: nothing is installed to compare with")
    assert installed == __version__


def test_torchvision_is_not_required() -> None:
    try:
        listed = requires("prunevid_qwen") or []
    except PackageNotFoundError:
        pytest.skip("the package runs from its source folder here: it has no metadata")
    assert not [need for need in listed if need.startswith("torchvision") and "extra ==" not in need]


def test_setup_py_tells_the_version(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("no setuptools in this environment")
    from prunevid_qwen.version import __version__

    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.split()[-1:] == [__version__], done.stderr


def test_every_file_of_data_is_in_the_wheel() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    package = ROOT / "prunevid_qwen"
    packed = {path for pattern in asked["prunevid_qwen"] for path in package.glob(pattern)}
    data = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in data if path.suffix != ".py"} <= packed


@pytest.mark.parametrize("series", ["3.10", "3.12", "3.13"])
def test_torch_free_parts_on_other_pythons(series: str, tmp_path: Path) -> None:
    found = sorted(PYENV.glob(f"{series}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {series} under {PYENV}")
    interpreter = str(found[-1])
    compiled = python(
        "import compileall, sys\n"
        "sys.pycache_prefix = sys.argv[2]\n"
        "sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1, force=True))\n",
        str(ROOT / "prunevid_qwen"),
        str(tmp_path),
        interpreter=interpreter,
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    done = python(
        "import importlib.util\n"
        "import prunevid_qwen\n"
        "from prunevid_qwen import errors, version\n"
        "from prunevid_qwen.config import PRESETS, PruneVidConfig, get_config\n"
        "for name in PRESETS: assert PruneVidConfig.from_json(get_config(name).to_json()) == get_config(name)\n"
        "try: PruneVidConfig(keep_ratio=25)\n"
        "except errors.ConfigError as error: assert '0.25' in str(error)\n"
        "else: raise AssertionError('keep_ratio=25 was taken')\n"
        "if importlib.util.find_spec('typer'):\n"
        "    from prunevid_qwen.cli import main\n"
        "    assert main(['ask', '--help']) == 0\n",
        interpreter=interpreter,
    )
    assert done.returncode == 0, done.stderr
