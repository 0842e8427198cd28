"""tools/test_cpus.py: what a row records, and that a switch which does nothing here is no success."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import test_cpus

RED = "FAILED tests/test_a.py::test_b - assert 1\n1 failed, 6 passed, 2 skipped in 3.10s"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A machine whose torch is always of the kind "AVX2", and whose tests all pass but under that switch."""
    calls: list[list[str]] = []

    def run(*command: str, env: dict[str, str] | None = None, **_: Any) -> subprocess.CompletedProcess[str]:
        if "pytest" not in command:
            return subprocess.CompletedProcess(command, 0, "AVX2\n", "")
        calls.append(list(command))
        red = "ATEN_CPU_CAPABILITY" in (env or {})
        return subprocess.CompletedProcess(command, int(red), RED if red else "9 passed in 1.00s", "")

    monkeypatch.setattr(test_cpus, "run", run)
    monkeypatch.setattr(test_cpus, "about", lambda: {"cpu": "stub"})
    monkeypatch.setattr(test_cpus, "RESULTS", tmp_path / "test_cpus.json")
    return calls


def cpus(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["test_cpus.py", *words])
    code = test_cpus.main()
    return code, {row["row"]: row for row in json.loads(test_cpus.RESULTS.read_text())}


def test_rows_are_kept_and_a_switch_without_effect_is_not_run(
    machine: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, rows = cpus(monkeypatch, "default")
    assert code == 0 and rows["default"]["ok"] is None and rows["default"]["not_run"] and not machine
    code, rows = cpus(monkeypatch, "avx2", "-x")
    assert code == 1 and list(rows) == ["default", "avx2"]
    assert machine[0][-1] == "-x" and {"-m", "numeric"} <= set(machine[0])
    row = rows["avx2"]
    assert (row["ok"], row["failed"], row["passed"], row["skipped"]) == (False, 1, 6, 2)
    assert row["failures"] == [RED.splitlines()[0]] and row["switch"] == {"ATEN_CPU_CAPABILITY": "avx2"}


def test_an_unknown_row_is_refused(machine: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["test_cpus.py", "avx3"])
    assert test_cpus.main() == 2 and not machine


def test_busy_loops_end_with_their_block() -> None:
    with test_cpus.busy_loops(0):
        pass
    loops: list[Any] = []
    real = subprocess.Popen

    def noted(*given: Any, **more: Any) -> Any:
        loops.append(real(*given, **more))
        return loops[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_cpus.subprocess, "Popen", noted)
        with pytest.raises(KeyError), test_cpus.busy_loops(1):
            assert loops[0].poll() is None
            raise KeyError
    assert loops[0].poll() is not None


def test_exactly_the_files_that_import_torch_are_numeric(request: pytest.FixtureRequest) -> None:
    import torch  # here, so that this file is not numeric itself

    assert "numeric" not in request.node.keywords
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))

    def marks(**names: Any) -> list[str]:
        module = pytest.Module.from_parent(request.session, path=Path(__file__))
        module.obj = types.SimpleNamespace(test_a=lambda: None, **names)
        item = pytest.Function.from_parent(module, name="test_a", callobj=module.obj.test_a)
        conftest.pytest_collection_modifyitems([item])
        return [mark.name for mark in item.own_markers]

    assert marks(torch=torch) == ["numeric"]
    assert marks() == marks(torch="a name alone") == []


def test_no_test_may_hang(request: pytest.FixtureRequest) -> None:
    assert 0 < float(request.config.getini("timeout")) <= 600
