"""Reading ahead in processes: what is left of a task, when it is read, and how readers end. No model answers here."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.task import Task, left_of
from prunevid_qwen.evaluation.engine.task_media import Read
from tests.patience import PATIENCE
from tests.stub_answers import StubQuestion


def task(path: str, names: tuple[str, ...]) -> Task:
    return Task((Media("video", path),), tuple((StubQuestion(f"{path}/{number}"), names) for number in range(3)))


def test_what_is_left_of_a_task() -> None:
    asked = task("v", ("a", "b"))
    (left,) = left_of([asked], {("a", "v/0"), ("b", "v/0"), ("a", "v/1")})
    assert [(question.id, names) for question, names in left.questions] == [("v/1", ("b",)), ("v/2", ("a", "b"))]
    assert left.answers == 3 and left_of([asked], {(c, f"v/{i}") for c in "ab" for i in range(3)}) == []


@pytest.mark.nightly
def test_tasks_are_taken_no_earlier_than_they_are_needed(tmp_path: Path) -> None:
    """Else the frames of a whole benchmark would wait in memory."""
    taken: list[int] = []

    def tasks() -> Iterable[Task]:
        for number in range(50):
            taken.append(number)
            yield task(str(number), ("paper",))

    unread: Any = Slow("", "")
    for place, _ in enumerate(run_here(tasks(), unread, lambda *_: [{"id": "x"}], 1)):
        assert len(taken) <= place + 2
    assert len(taken) == 50


@dataclass(frozen=True)
class Slow:
    """Never ends reading some media, and says through a named pipe when it begins; may die once before."""

    slow: str
    began: str
    died: str = ""

    def read(self, media: Media) -> Any:
        if self.died and not os.path.exists(self.died):
            Path(self.died).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if media.path == self.slow:
            Path(self.began).write_text(str(os.getpid()))
            signal.pause()
        return Read((), "unread", 0.0)


@pytest.mark.nightly
@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["in the pool", "alone"])
def test_leaving_does_not_wait_for_a_video_that_is_being_read(
    tmp_path: Path, alone: bool, as_in_a_terminal: None
) -> None:
    """Ctrl-C would otherwise last as long as the slowest video, and for ever where a decoder hangs."""
    began, died, pids = tmp_path / "began", str(tmp_path / "died") if alone else "", list[int]()
    os.mkfifo(began)
    slow: Any = Slow("a" if alone else "b", str(began), died)
    lines = run_here([task(path, ("paper",)) for path in "ab"], slow, lambda *_: [{"id": "x"}], 1)

    def leave() -> None:
        pids.append(int(began.read_text()))  # waits for the reader
        if alone:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    if alone:
        timer = threading.Thread(target=leave)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(lines)
        timer.join()
    else:
        next(lines)
        leave()
        lines.close()
    with contextlib.suppress(ProcessLookupError):
        watched = os.pidfd_open(pids[0])
        assert select.select([watched], [], [], PATIENCE)[0], "a reader goes on reading"


class Unloadable:
    """Travels, and does not arrive."""

    def __reduce__(self) -> Any:
        return _not_here, ()


def _not_here() -> None:
    raise ImportError("no such module in this process")


@pytest.mark.nightly
def test_readers_that_do_not_start_end_the_run_and_are_no_fault_of_a_video() -> None:
    unloadable: Any = Unloadable()
    with pytest.raises(SetupError, match=r"ended as it started.*--workers 0"):
        next(run_here([task("a", ("paper",))], unloadable, lambda *_: [{"id": "x"}], 1))
