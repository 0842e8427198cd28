"""A run killed at any place and begun again holds the same bytes as one that was never killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.engine import local
from prunevid_qwen.evaluation.engine.local import here
from prunevid_qwen.evaluation.engine.task_media import Read, ReadMedia
from prunevid_qwen.evaluation.protocol.protocol import protocol_for
from prunevid_qwen.evaluation.store import RECORD
from prunevid_qwen.evaluation.tasks.batch_questions import questions_for_folder
from prunevid_qwen.evaluation.tasks.benchmark_tables import write_tables
from prunevid_qwen.evaluation.tasks.runs import BatchRun, BenchmarkRun, answer_batch, answer_benchmark


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may hold it back."""


@contextmanager
def killed_at(patch: pytest.MonkeyPatch, step: int | None) -> Iterator[list[str]]:
    """Kill at the nth write to the disk, counted from 0: what is being written is torn, or not yet put in its place."""
    steps: list[str] = []
    sync, put = os.fsync, Path.replace

    def count(what: str) -> bool:
        steps.append(what)
        return len(steps) - 1 == step

    def syncing(number: int) -> None:
        if count("written"):
            os.ftruncate(number, os.fstat(number).st_size - 3)
            raise Killed
        sync(number)

    def putting(path: Path, target: Path) -> Path:
        if count(f"put {target.name}"):
            raise Killed
        return put(path, target)

    with patch.context() as inside:
        inside.setattr(os, "fsync", syncing)
        inside.setattr(Path, "replace", putting)
        yield steps


def stored(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".lock", ".new"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def benchmark(dozen: Path) -> Callable[[Path], None]:
    protocol = protocol_for("mvbench", "mvbench_videochat2", frames=8)
    configs = (("baseline", get_config("baseline")), ("paper", get_config("paper").replace(keep_ratio=0.1)))
    run = BenchmarkRun("mvbench", dozen, protocol, configs, limit=2)

    def go(folder: Path) -> None:
        answer_benchmark(folder, run, here(0))
        write_tables(folder)

    return go


@pytest.fixture
def batch(tmp_path: Path) -> Callable[[Path], None]:
    shown = tmp_path / "shown"
    shown.mkdir()
    for name in ("a.mp4", "b.png"):
        (shown / name).touch()
    run = BatchRun(tuple(questions_for_folder(shown, ["?", "What moves?"])), ("paper", get_config("paper")))

    def go(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        told = answer_batch(folder / "answers.jsonl", run, here(0), "cpu")
        assert told["answered"] == 4

    return go


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("benchmark", ["answers.jsonl", "report.md", RECORD, "summary.csv", "summary.json"]),
        ("batch", ["answers.jsonl", f"answers.jsonl.run/{RECORD}"]),
    ],
)
def test_a_run_killed_at_any_write_and_begun_again_holds_the_same_bytes(
    kind: str, files: list[str], request: pytest.FixtureRequest, tmp_path: Path, stub: None, monkeypatch: Any
) -> None:
    go = request.getfixturevalue(kind)
    shown = ReadMedia("video", np.zeros((8, 56, 84, 3), np.uint8), 1.0, tuple(range(8)), {"source": "v"})
    monkeypatch.setattr(local, "read_media", lambda _, media: Read((shown,) * len(media), None, 0.5))
    with killed_at(monkeypatch, None) as steps:
        go(tmp_path / "whole")
    whole = stored(tmp_path / "whole")
    assert sorted(whole) == files and whole["answers.jsonl"].count(b"\n") == 4
    assert len(steps) == 2 * (len(files) - 1) + 4 and steps[:2] == ["written", f"put {RECORD}"]
    for step, what in enumerate(steps):
        folder = tmp_path / str(step)
        with pytest.raises(Killed), killed_at(monkeypatch, step):
            go(folder)
        assert stored(folder) != whole
        go(folder)
        assert stored(folder) == whole, (step, what)
