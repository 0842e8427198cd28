"""research/ is in the repository and not in the wheel, and the package does not know it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_has_the_package_alone() -> None:
    setuptools = pytest.importorskip("setuptools")
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = setuptools.find_namespace_packages(where=str(ROOT), **settings["packages"]["find"])
    assert {name.partition(".")[0] for name in found} == {"prunevid_qwen"}


def test_the_package_imports_nothing_of_research() -> None:
    wrong = []
    for path in sorted((ROOT / "prunevid_qwen").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path}:{node.lineno}" for name in names if name.partition(".")[0] == "research"]
    assert not wrong


def test_what_research_is_tested_by_is_nightly() -> None:
    files = sorted((ROOT / "tests" / "research").glob("test_*.py"))
    assert files and not [path for path in files if "pytestmark = pytest.mark.nightly" not in path.read_text("utf-8")]
