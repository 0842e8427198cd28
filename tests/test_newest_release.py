"""`make test-newest` itself, without a registry: what it installs, what it runs, and when it is no failure."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NEWER = "99.1.0"


def tool() -> Any:
    """The script, which stands in no package."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return importlib.import_module("test_newest")


test_newest = tool()


class Registry:
    """Stands in for pip: knows one newest release, installs packages of names and needs alone."""

    def __init__(self, newest: str = NEWER, needs: dict[str, list[str]] | None = None) -> None:
        self.newest, self.needs, self.asked = newest, needs or {}, []

    def __call__(self, *words: str) -> str:
        self.asked.append(words)
        if words[0] == "index":
            return f"transformers ({self.newest})\nAvailable versions: {self.newest}, 5.6.2\n"
        need = Requirement(words[-1])
        version = next(iter(need.specifier)).version
        info = Path(words[words.index("--target") + 1]) / f"{need.name}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        lines = [f"Requires-Dist: {line}" for line in self.needs.get(need.name, [])]
        about = ["Metadata-Version: 2.1", f"Name: {need.name}", f"Version: {version}", *lines]
        (info / "METADATA").write_text("\n".join(about))
        return ""

    @property
    def installed(self) -> list[str]:
        return [words[-1] for words in self.asked if words[0] == "install"]


class Started:
    """Stands in for what is run: notes it, and ends with a given code."""

    def __init__(self, canary: int = 0, oracles: int = 0) -> None:
        self.codes, self.commands, self.environments = {"-c": canary, "-m": oracles}, [], []

    def __call__(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        self.commands.append(list(command))
        self.environments.append(dict(environment))
        return self.codes[command[1]]


def run(tmp_path: Path, registry: Any, started: Started, *arguments: str) -> int:
    code: int = test_newest.main(arguments, registry, started, tmp_path)
    return code


def test_a_newer_release_is_put_first_on_the_path(tmp_path: Path) -> None:
    registry, started = Registry(), Started()
    assert run(tmp_path, registry, started, "-x") == 0
    assert registry.installed == [f"transformers=={NEWER}"]
    assert all("--no-deps" in words for words in registry.asked if words[0] == "install")
    canary, oracles = started.commands
    assert canary[-1] == NEWER
    assert set(test_newest.ORACLES) | {"-x"} <= set(oracles)
    for environment in started.environments:
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / f"beside-{NEWER}")
        assert environment["XDG_CACHE_HOME"] != os.environ.get("XDG_CACHE_HOME")


def test_the_oracles_are_there() -> None:
    assert [path for path in test_newest.ORACLES if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("newest", ["pinned", "5.6.2"])
def test_the_pinned_one_has_been_tested(tmp_path: Path, newest: str) -> None:
    """Also where the registry, as a mirror that lags, knows an older one only."""
    registry = Registry(test_newest.pinned_release() if newest == "pinned" else newest)
    started = Started()
    assert run(tmp_path, registry, started) == 0
    assert registry.installed == [] and started.commands == []


def test_a_release_that_is_named_is_run_though_older(tmp_path: Path) -> None:
    registry, started = Registry(), Started()
    assert run(tmp_path, registry, started, "--release", "5.6.2") == 0
    assert registry.installed == ["transformers==5.6.2"] and len(started.commands) == 2


def test_another_pin_makes_the_newest_untested(tmp_path: Path) -> None:
    pinned, started = test_newest.pinned_release(), Started()
    assert run(tmp_path, Registry(pinned), started, "--pinned", "5.23.0") == 0
    assert len(started.commands) == 2


@pytest.mark.parametrize(("canary", "oracles"), [(1, 0), (0, 1), (0, 5), (1, 1)])
def test_what_fails_is_a_failure(tmp_path: Path, canary: int, oracles: int) -> None:
    started = Started(canary, oracles)
    assert run(tmp_path, Registry(), started) == 1
    assert len(started.commands) == 2


def refused(*_words: str) -> str:
    raise test_newest.OutOfReach("no route to the registry")


def silent(*_words: str) -> str:
    return "WARNING: pip index says something else now"


@pytest.mark.parametrize("ask", [refused, silent])
def test_out_of_reach_is_said_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ask: Callable[..., str]
) -> None:
    started = Started()
    assert run(tmp_path, ask, started) == 0
    assert capsys.readouterr().out.startswith("skipped") and started.commands == []


def test_pip_that_fails_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **_given: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: the last word\nnoise\n")

    monkeypatch.setattr(test_newest.subprocess, "run", failed)
    with pytest.raises(test_newest.OutOfReach, match="last word"):
        test_newest.pip("index", "versions", "transformers")


def test_only_what_the_environment_lacks_comes_along(tmp_path: Path) -> None:
    needs = {
        "transformers": ["pytest>=1", "absent-extra>=1; extra == 'never'", "absent-one>=2", "Pytest_Timeout>=999.0"],
        "absent-one": ["absent.two==3", "torch>=1"],
    }
    registry, started = Registry(needs=needs), Started()
    assert run(tmp_path, registry, started) == 0
    assert registry.installed == [f"transformers=={NEWER}", "absent-one>=2", "Pytest_Timeout>=999.0", "absent.two==3"]
    again = Registry(needs=needs)
    assert run(tmp_path, again, started) == 0
    assert again.installed == [], "it is there already"


@pytest.mark.parametrize("need", ["torch>=99", "nvidia-cublas-cu99>=1"])
def test_a_second_torch_never_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str], need: str) -> None:
    registry, started = Registry(needs={"transformers": [need]}), Started()
    assert run(tmp_path, registry, started) == 0
    assert registry.installed == [f"transformers=={NEWER}"] and started.commands == []
    assert capsys.readouterr().out.startswith("skipped")


def test_needs_that_contradict_each_other_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry, started = Registry(needs={"transformers": ["absent-one>=2", "absent-one<1"]}), Started()
    assert run(tmp_path, registry, started) == 0
    assert started.commands == [] and capsys.readouterr().out.splitlines()[-1].startswith("skipped")


def test_an_install_that_broke_off_is_done_again(tmp_path: Path) -> None:
    broken = Registry(needs={"transformers": ["torch>=99"]})
    assert run(tmp_path, broken, Started()) == 0
    assert not (tmp_path / f"beside-{NEWER}" / "installed").exists()
