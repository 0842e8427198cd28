"""The engine of one machine: one model in this process, media read ahead in worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.engine.answering import Answerer, Answering
from prunevid_qwen.evaluation.engine.process_pool import Plugins, end_pool, start_pool, submit
from prunevid_qwen.evaluation.engine.task import Line, Task
from prunevid_qwen.evaluation.engine.task_media import MediaReading, Read, read_media
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.video.data_uris import named
from prunevid_qwen.video.prefetch import Prefetch

Answer = Callable[[Task, Read], Iterable[Line]]

Engine = Callable[[Iterable[Task], Any, Answering], Generator[Line, None, None]]
"""Tasks, how their media are read (a `MediaReading`), who answers: gives the lines, in any order."""

_Reads = Generator[tuple[Task, Read], None, None]

_AHEAD = 2  # tasks of a worker, one of which waits, read: enough to hide reading, and little memory


def run_here(
    tasks: Iterable[Task], reading: MediaReading, answer: Answer, workers: int = 1, plugins: Plugins = ()
) -> Generator[Line, None, None]:
    """Answer tasks in order, reading the next ones meanwhile; each is taken no earlier than its media are read.

    A worker that dies (out of memory, a decoder's fault) is replaced and its task read again, alone; a task whose
    reading kills a second worker becomes an error of its questions.

    Args:
        answer: gives the lines of a task; runs in this process.
        workers: processes that read, or 0 for a thread of this one; lines do not depend on it.
        plugins: that processes load before they read.

    Raises:
        SetupError: processes that read do not start.
    """
    with (
        closing(_in_processes(tasks, reading, workers, plugins))
        if workers
        else Prefetch((task, read_media(reading, task.media)) for task in tasks) as reads
    ):
        for task, read in reads:
            yield from answer(task, read)


def here(workers: int) -> Engine:
    """Return the engine of this machine; a model is loaded once, for all its runs."""
    loaded: dict[str, PruneVidQwen25VL] = {}

    def run(tasks: Iterable[Task], reading: MediaReading, answering: Answering) -> Generator[Line, None, None]:
        key = repr((answering.model_path, sorted(answering.loading.items())))
        if key not in loaded:
            loaded.clear()  # two models may not fit
            loaded[key] = answering.load().model
        answerer = Answerer(loaded[key], answering.configs, answering.generation)
        return run_here(tasks, reading, answerer.answer, workers, answering.plugins)

    return run


def _in_processes(tasks: Iterable[Task], reading: MediaReading, workers: int, plugins: Plugins) -> _Reads:
    def begin(task: Task) -> tuple[Task, Future[Read]]:
        return task, submit(pool, read_media, reading, task.media)

    ahead: deque[tuple[Task, Future[Read]]] = deque()
    left = iter(tasks)
    pool = start_pool(workers, plugins)
    try:
        while True:
            for task in left:
                ahead.append(begin(task))
                if len(ahead) >= workers * _AHEAD:
                    break
            if not ahead:
                return
            task, future = ahead.popleft()
            try:
                read = future.result()
            except BrokenProcessPool:  # all that is ahead is lost with it, and nobody knows whose fault it was
                read = _read_alone(task, reading, plugins)
                pool = start_pool(workers, plugins)
                ahead = deque(begin(each) for each, _ in ahead)
            yield task, read
    finally:
        end_pool(pool)


def _read_alone(task: Task, reading: MediaReading, plugins: Plugins) -> Read:
    pool, arrived = start_pool(1, plugins), False
    try:
        arrived = submit(pool, isinstance, reading, object).result()
        return submit(pool, read_media, reading, task.media).result()  # type: ignore[no-any-return]
    except BrokenProcessPool as broken:
        if not arrived:
            raise SetupError(
                "a process that reads media ended as it started, its own error is above: a script that runs this "
                'needs `if __name__ == "__main__":` around it; out of memory, fewer readers need less; '
                "--workers 0 reads in a thread of this process"
            ) from broken
        paths = ", ".join(named(media.path) for media in task.media)
        return Read((), f"reading {paths} killed its process twice: out of memory, or a fault of its decoder", 0.0)
    finally:
        end_pool(pool)
