"""The same work in this process or spread over several: whichever is done first comes first."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation import accuracy_work
from prunevid_qwen.evaluation.accuracy_work import Asking, Worker
from prunevid_qwen.evaluation.calibrate import Cell
from prunevid_qwen.evaluation.methods import Method
from prunevid_qwen.evaluation.scenes import ShapesVideo
from prunevid_qwen.processes.interruption import starting_processes


class Workers(Protocol):
    """Processes that fit cells and ask about videos; results come as they are ready."""

    def calibrate(
        self, conditions: Sequence[str], methods: Sequence[Method], budgets: Sequence[float]
    ) -> Iterator[list[Cell]]:
        """Fit every method on every kind of video."""
        ...

    def ask(self, videos: Sequence[ShapesVideo], cells: Sequence[Cell]) -> Iterator[str]:
        """Ask about every video: its lines."""
        ...


@contextmanager
def workers(asking: Asking, count: int) -> Iterator[Workers]:
    """Start ``count`` processes of one thread each; one means this process. Leaving the block ends them at once.

    A result never depends on ``count``: every video is asked about in one process, by one thread.

    Raises:
        SetupError: a process was ended from outside.
    """
    if count == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield _ThisProcess(asking)
        finally:
            torch.set_num_threads(threads)
        return
    others = set(multiprocessing.active_children())
    # spawned: a fork of a process with torch's threads in it can hang
    with starting_processes():
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), accuracy_work.start, (asking,))
    try:
        yield _Processes(pool)
    except BrokenProcessPool as error:
        raise SetupError(
            "a worker process was ended from outside, perhaps for want of memory: run the same command again, it goes "
            "on where it was; --workers 1 needs the least"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # one that still starts would hold SIGTERM back


class _ThisProcess:
    def __init__(self, asking: Asking) -> None:
        self.worker = Worker(asking)

    def calibrate(
        self, conditions: Sequence[str], methods: Sequence[Method], budgets: Sequence[float]
    ) -> Iterator[list[Cell]]:
        for condition in conditions:
            yield self.worker.calibrate(condition, methods, budgets)

    def ask(self, videos: Sequence[ShapesVideo], cells: Sequence[Cell]) -> Iterator[str]:
        for video in videos:
            yield self.worker.ask(video, cells)


class _Processes:
    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def calibrate(
        self, conditions: Sequence[str], methods: Sequence[Method], budgets: Sequence[float]
    ) -> Iterator[list[Cell]]:
        return self._each(accuracy_work.calibrate_here, [(name, methods, budgets) for name in conditions])

    def ask(self, videos: Sequence[ShapesVideo], cells: Sequence[Cell]) -> Iterator[str]:
        own = [(video, accuracy_work.cells_for(video, cells)) for video in videos]
        return self._each(accuracy_work.ask_here, own)

    def _each(self, do: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        with starting_processes():
            futures = [self.pool.submit(do, *job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
