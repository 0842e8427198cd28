"""The engine of one machine: one model in this process, media read ahead in worker processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.engine.asking import Answerer, Answering
from prunevid_qwen.evaluation.engine.reading import Read, Reading, read_media
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.processes.interruption import leave_signals_to_parent, starting_processes
from prunevid_qwen.video.data_uris import named
from prunevid_qwen.video.prefetch import Prefetch

Answer = Callable[[Task, Read], Iterable[Line]]

Engine = Callable[[Iterable[Task], Any, Answering], Generator[Line, None, None]]
"""Tasks, how their media are read (a `Reading`), who answers: gives the lines, in any order."""

AHEAD = 1
"""Tasks that wait, read, for each worker: enough to hide reading, and little memory."""


def run_here(tasks: Iterable[Task], reading: Reading, answer: Answer, workers: int = 1) -> Generator[Line, None, None]:
    """Answer tasks in order, reading the next ones meanwhile.

    Lines do not depend on ``workers``. A worker that dies (out of memory, a decoder's fault) is replaced and its task
    read again, alone; a task whose reading kills a second worker becomes an error of its questions.

    Args:
        tasks: in the order in which they are answered; taken one by one, no earlier than their media are read.
        reading: how media are read.
        answer: gives the lines of a task; runs in this process.
        workers: processes that read, or 0 for a thread of this one.

    Raises:
        SetupError: processes that read do not start.
    """
    reads = _in_thread(tasks, reading) if workers == 0 else _in_processes(tasks, reading, workers)
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
        return run_here(tasks, reading, answerer.answer, workers)

    return run


def _in_thread(tasks: Iterable[Task], reading: Reading) -> Generator[tuple[Task, Read], None, None]:
    with Prefetch((task, read_media(reading, task.media)) for task in tasks) as reads:
        yield from reads


def _in_processes(tasks: Iterable[Task], reading: Reading, workers: int) -> Generator[tuple[Task, Read], None, None]:
    with _Readers(reading, workers) as readers:
        ahead: deque[tuple[Task, Future[Read]]] = deque()
        left = iter(tasks)
        while True:
            for task in left:
                ahead.append((task, readers.submit(task)))
                if len(ahead) >= workers * (1 + AHEAD):
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

    def __init__(self, reading: Reading, workers: int) -> None:
        self._reading, self._workers = reading, workers
        self._pool = self._start(workers)

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_error: object) -> None:
        _end(self._pool)

    def submit(self, task: Task) -> Future[Read]:
        try:
            with starting_processes():
                return self._pool.submit(_read_here, task.media)
        except BrokenProcessPool as broken:  # it broke since the last result was taken
            failed: Future[Read] = Future()
            failed.set_exception(broken)
            return failed

    def alone(self, task: Task) -> Read:
        """Read one task with nobody beside it, then start the pool again.

        Raises:
            SetupError: a process ends before it has anything to read.
        """
        pool, started = self._start(1), False
        try:
            with starting_processes():
                ready = pool.submit(_started)
            started = ready.result()
            return pool.submit(_read_here, task.media).result()
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
            _end(pool)
            self._pool = self._start(self._workers)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        # spawned: a fork of a process with torch's threads in it can hang
        with starting_processes():
            return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (self._reading,))


def _end(pool: ProcessPoolExecutor) -> None:
    """End a pool whatever its processes are at: reading a video takes minutes, and hangs where its decoder does."""
    processes = list((getattr(pool, "_processes", None) or {}).values())  # which `shutdown` forgets
    results = getattr(pool, "_result_queue", None)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()  # one that still starts would hold SIGTERM back
    if results is not None:
        results._writer.close()  # else whoever takes results waits for the rest of one that was cut off


_reading: Reading | None = None


def _begin(reading: Reading) -> None:
    """Make this process a reader: signals are its parent's business, and it does not outlive its parent."""
    global _reading
    import torch

    leave_signals_to_parent(terminable=True)
    torch.set_num_threads(1)
    _reading = reading


def _started() -> bool:
    return _reading is not None


def _read_here(media: tuple) -> Read:  # type: ignore[type-arg]
    assert _reading is not None
    return read_media(_reading, media)
