"""The engine of one machine: one model in this process, media read ahead in worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import Answerer, Answering
from prunevid_qwen.evaluation.engine.processes import Plugins, end_pool, start_pool, submit
from prunevid_qwen.evaluation.engine.reading import Read, Reading, read_media
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.video.data_uris import named
from prunevid_qwen.video.prefetch import Prefetch

Answer = Callable[[Task, Read], Iterable[Line]]

Engine = Callable[[Iterable[Task], Any, Answering], Generator[Line, None, None]]
"""Tasks, how their media are read (a `Reading`), who answers: gives the lines, in any order."""

AHEAD = 1
"""Tasks that wait, read, for each worker: enough to hide reading, and little memory."""

_Reads = Generator[tuple[Task, Read], None, None]


def run_here(
    tasks: Iterable[Task], reading: Reading, answer: Answer, workers: int = 1, plugins: Plugins = ()
) -> Generator[Line, None, None]:
    """Answer tasks in order, reading the next ones meanwhile.

    Lines do not depend on ``workers``. A worker that dies (out of memory, a decoder's fault) is replaced and its task
    read again, alone; a task whose reading kills a second worker becomes an error of its questions.

    Args:
        tasks: in the order in which they are answered; taken one by one, no earlier than their media are read.
        reading: how media are read.
        answer: gives the lines of a task; runs in this process.
        workers: processes that read, or 0 for a thread of this one.
        plugins: that processes load before they read.

    Raises:
        SetupError: processes that read do not start.
    """
    reads = _in_thread(tasks, reading) if workers == 0 else _in_processes(tasks, _Readers(reading, workers, plugins))
    with closing(reads):
        for task, read in reads:
            yield from answer(task, read)


def here(workers: int) -> Engine:
    """Return the engine of this machine; a model is loaded once, for all runs that it is given.

    Args:
        workers: as in `run_here`.
    """
    loaded: dict[str, PruneVidQwen25VL] = {}

    def run(tasks: Iterable[Task], reading: Reading, answering: Answering) -> Generator[Line, None, None]:
        key = repr((answering.model_path, sorted(answering.loading.items())))
        if key not in loaded:
            loaded.clear()  # two models may not fit
            loaded[key] = answering.load().model
        answerer = Answerer(loaded[key], answering.configs, answering.generation)
        return run_here(tasks, reading, answerer.answer, workers, answering.plugins)

    return run


def _in_thread(tasks: Iterable[Task], reading: Reading) -> _Reads:
    with Prefetch((task, read_media(reading, task.media)) for task in tasks) as reads:
        yield from reads


def _in_processes(tasks: Iterable[Task], readers: _Readers) -> _Reads:
    ahead: deque[tuple[Task, Future[Read]]] = deque()
    left = iter(tasks)
    with closing(readers):
        while True:
            for task in left:
                ahead.append((task, readers.submit(task)))
                if len(ahead) >= readers.workers * (1 + AHEAD):
                    break
            if not ahead:
                return
            task, future = ahead.popleft()
            try:
                read = future.result()
            except BrokenProcessPool:  # all that is ahead is lost with it, and nobody knows whose fault it was
                read = readers.alone(task)
                ahead = deque((each, readers.submit(each)) for each, _ in ahead)
            yield task, read


class _Readers:
    """A pool of reading processes that can be made anew."""

    def __init__(self, reading: Reading, workers: int, plugins: Plugins) -> None:
        self.workers = workers
        self._start = lambda count: start_pool(count, _begin, reading, plugins=plugins)
        self._pool = self._start(workers)

    def close(self) -> None:
        end_pool(self._pool)

    def submit(self, task: Task) -> Future[Read]:
        return submit(self._pool, _read_here, task.media)

    def alone(self, task: Task) -> Read:
        """Read one task with nobody beside it, then start the pool again.

        Raises:
            SetupError: a process ends before it has anything to read.
        """
        pool, started = self._start(1), False
        try:
            started = submit(pool, _started).result()
            return submit(pool, _read_here, task.media).result()  # type: ignore[no-any-return]
        except BrokenProcessPool as broken:
            if not started:
                raise SetupError(
                    "a process that reads media ended as it started, its own error is above: a script that runs this "
                    'needs `if __name__ == "__main__":` around it; out of memory, fewer readers need less; '
                    "--workers 0 reads in a thread of this process"
                ) from broken
            paths = ", ".join(named(media.path) for media in task.media)
            return Read((), f"reading {paths} killed its process twice: out of memory, or a fault of its decoder", 0.0)
        finally:
            end_pool(pool)
            self._pool = self._start(self.workers)


_reading: Reading | None = None  # of this process, where it is a reader


def _begin(reading: Reading) -> None:
    global _reading
    _reading = reading


def _started() -> bool:
    return _reading is not None


def _read_here(media: tuple[Media, ...]) -> Read:
    assert _reading is not None
    return read_media(_reading, media)
