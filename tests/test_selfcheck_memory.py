"""When the self-check runs, and what is remembered of it."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import seams
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward.hooks import attached
from prunevid_qwen.forward.selfcheck import canary, verdicts
from prunevid_qwen.forward.selfcheck.checks import Check, SelfCheck
from prunevid_qwen.version import TESTED
from tests.models import tiny_model
from tests.patience import PATIENCE
from tests.untested_release import FAMILY, UNTESTED, Pretend, enter, new_process, pretend, untested

__all__ = ["pretend", "untested"]

# ---- when it is asked


@pytest.mark.parametrize("release", TESTED)
def test_a_tested_release_is_never_checked(monkeypatch: pytest.MonkeyPatch, pretend: Pretend, release: str) -> None:
    asked = pretend(ok=False)
    monkeypatch.setattr(seams, "transformers_release", lambda: release)
    enter()
    assert asked == []


def test_a_release_between_tested_ones_is(monkeypatch: pytest.MonkeyPatch, pretend: Pretend) -> None:
    asked = pretend()
    monkeypatch.setattr(seams, "transformers_release", lambda: "5.6.3")
    enter()
    assert asked == [FAMILY]


def test_once_a_process_and_family_and_once_in_all(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = pretend()
    with caplog.at_level(logging.INFO, logger="prunevid_qwen"):
        for _ in range(3):
            enter()
        enter(tiny_model(family="qwen2_vl"))
        new_process(monkeypatch)
        enter()
    assert asked == [FAMILY, "qwen2_vl"]
    lines = [record for record in caplog.records if UNTESTED in record.getMessage() and "self-check" in record.msg]
    assert [record.levelno for record in lines] == [logging.INFO, logging.INFO]
    assert all(family in record.getMessage() for family, record in zip(asked, lines, strict=True))
    held = [json.loads(path.read_text()) for path in untested.iterdir()]
    assert sorted(one["key"]["family"] for one in held) == asked and all(one["passed"] for one in held)


def test_what_changes_the_answer_changes_the_key(monkeypatch: pytest.MonkeyPatch, pretend: Pretend) -> None:
    asked = pretend()
    enter()
    changes = {
        "torch": lambda: monkeypatch.setattr(torch, "__version__", "2.99.0"),
        "transformers": lambda: monkeypatch.setattr(seams, "transformers_release", lambda: "5.98.0"),
        "code": lambda: monkeypatch.setattr(canary, "code_fingerprint", lambda: "another"),
        "attention": lambda: monkeypatch.setattr(canary, "attentions", lambda: ("eager",)),
    }
    for number, change in enumerate(changes.values(), start=2):
        change()
        new_process(monkeypatch)
        enter()
        assert len(asked) == number


def test_the_code_fingerprint_reads_what_pruning_uses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verdicts, "PACKAGE", tmp_path)
    seen = []
    for name, text in [("run.py", "1"), ("run.py", "2"), ("cli/app.py", "3"), ("stage1_merge/rlt.py", "4")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(verdicts.code_fingerprint.__wrapped__())
    assert len(set(seen)) == 3 and seen[1] == seen[2]


@pytest.mark.parametrize("release", ["5.99.0.dev0", "5.99.0+local"])
def test_what_moves_under_one_name_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, release: str
) -> None:
    asked = pretend()
    monkeypatch.setattr(seams, "transformers_release", lambda: release)
    for _ in range(2):
        new_process(monkeypatch)
        enter()
    assert len(asked) == 2 and not untested.exists()


def test_a_failure_is_raised_again_and_checked_again_by_the_next_process(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path
) -> None:
    asked = pretend(ok=False, error=KeyError("moved"))
    for _ in range(2):
        with pytest.raises(SetupError, match="as pretended") as raised:
            enter()
        assert isinstance(raised.value.__cause__, KeyError)
    assert len(asked) == 1 and not untested.exists()
    new_process(monkeypatch)
    mended = pretend()
    enter()
    assert len(mended) == 1


@pytest.mark.parametrize(
    "held", ["", "{", "[1]", '"passed"', '{"passed": true}', '{"passed": false, "key": {}}', b"\xff\xfe"]
)
def test_a_broken_file_is_as_none(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, held: str | bytes
) -> None:
    asked = pretend()
    enter()
    (path,) = untested.iterdir()
    whole = path.read_bytes()
    path.write_bytes(held if isinstance(held, bytes) else held.encode())
    new_process(monkeypatch)
    enter()
    assert len(asked) == 2 and path.read_bytes() == whole and list(untested.iterdir()) == [path]


@pytest.mark.parametrize("where", ["a file", "no home", "replace"])
def test_a_folder_that_cannot_be_written_is_said_once(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    asked = pretend()
    if where == "a file":  # permissions do not stop root
        untested.parent.write_text("")
    elif where == "replace":
        monkeypatch.setattr(verdicts.os, "replace", refuse)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", refuse_home)
    with caplog.at_level(logging.INFO, logger="prunevid_qwen"):
        enter()
        enter(tiny_model(family="qwen2_vl"))
        monkeypatch.setattr(canary, "_known", {})
        enter()
    assert len(asked) == 3
    said = [record for record in caplog.records if record.levelno == logging.WARNING and "XDG" in record.msg]
    assert len(said) == 1
    if where == "replace":
        assert list(untested.iterdir()) == []


def refuse(*_given: Any) -> None:
    raise PermissionError("read-only")


def refuse_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    home = tmp_path / ".cache" / "prunevid_qwen"
    for value, wanted in ((str(tmp_path / "x"), tmp_path / "x" / "prunevid_qwen"), ("relative", home), ("", home)):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert verdicts.folder() == wanted


def test_not_inside_a_compiled_region(monkeypatch: pytest.MonkeyPatch, pretend: Pretend) -> None:
    asked = pretend()
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        enter()
        assert asked == []
    enter()
    assert asked == [FAMILY]


def test_two_threads_check_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go, asked = threading.Semaphore(0), threading.Event(), []
    lock = threading.Lock()

    class Watched:
        def __enter__(self) -> None:
            arrived.release()
            lock.acquire()

        def __exit__(self, *_error: Any) -> None:
            lock.release()

    def check(family: str, _attach: Any) -> SelfCheck:
        asked.append(family)
        assert go.wait(PATIENCE)
        return SelfCheck(family, UNTESTED, "", (Check("as pretended", True),))

    monkeypatch.setattr(canary, "_lock", Watched())
    monkeypatch.setattr(canary, "self_check", check)
    threads = [threading.Thread(target=canary.ensure_checked, args=(FAMILY, attached)) for _ in range(2)]
    for thread in threads:
        thread.start()
    both = arrived.acquire(timeout=PATIENCE) and arrived.acquire(timeout=PATIENCE)
    go.set()
    for thread in threads:
        thread.join()
    assert both and asked == [FAMILY]
