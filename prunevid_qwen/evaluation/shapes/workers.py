"""What one process of the benchmark does, and how the work is spread over several.

A result never depends on their number: each job is done in one process, by one thread.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.engine.process_pool import end_pool, start_pool, submit
from prunevid_qwen.evaluation.shapes.budgets import Calibration, Cell
from prunevid_qwen.evaluation.shapes.methods import BLANK, AccuracyRun, Method, uses_chance
from prunevid_qwen.evaluation.shapes.questioner import Questioner
from prunevid_qwen.evaluation.shapes.videos import CONDITIONS, ShapesVideo
from prunevid_qwen.model import PruneVidQwen25VL


def _cells_of(video: ShapesVideo, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.condition == video.condition.name and cell.status == "ok"]


def lines_of(run: AccuracyRun, video: ShapesVideo, cells: Sequence[Cell]) -> int:
    """Count the lines that ``video`` has once it is done."""
    asks = sum(len(_seeds(run, cell.whole_config)) for cell in _cells_of(video, cells))
    return asks * len(video.questions(run.questions))


def _seeds(run: AccuracyRun, config: PruneVidConfig) -> list[int | None]:
    """The random seeds under which a config is asked; [None] where nothing is drawn."""
    return list(range(run.random_seeds)) if uses_chance(config) else [None]


class Worker:
    """Holds the model of one process."""

    def __init__(self, run: AccuracyRun) -> None:
        from transformers.utils import logging as library_logging

        library_logging.disable_progress_bar()
        if multiprocessing.parent_process() is not None:  # a process of its own: the caller's says it once
            logging.getLogger("prunevid_qwen").setLevel(logging.ERROR)
        self.run = run
        self.model = PruneVidQwen25VL(run.model, get_baseline_config(), device="cpu", dtype="float32")
        self._calibration: tuple[str, Calibration] | None = None

    def calibrate(self, condition: str, method: Method) -> list[Cell]:
        """Fit a method to every budget on one kind of video."""
        if self._calibration is None or self._calibration[0] != condition:  # jobs of one condition follow each other
            found = Calibration(self.model, CONDITIONS[condition], self.run.calibration_videos)
            self._calibration = condition, found
        return self._calibration[1].cells(method, self.run.budgets)

    def ask(self, video: ShapesVideo, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Ask about ``video`` under the cells of its condition that are reached: its lines."""
        self._calibration = None  # is over: the memory of its videos is free
        questions = video.questions(self.run.questions)
        shown = {
            blank: Questioner(self.model, replace(video, blank=blank), questions, self.run.through_files)
            for blank in (False, True)
        }
        known: dict[tuple[bool, PruneVidConfig], list[dict[str, Any]]] = {}  # two budgets may come to one config
        out = []
        for cell in _cells_of(video, cells):
            config = cell.whole_config
            for seed in _seeds(self.run, config):
                drawn = config if seed is None else config.replace(random_seed=seed)
                asked = cell.method == BLANK, drawn
                if asked not in known:
                    known[asked] = shown[asked[0]].lines(drawn)
                about = {"method": cell.method, "budget": cell.budget, "random_seed": seed}
                out += [{**line, **about} for line in known[asked]]
        return out


Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Does something with a worker and the words of each job, in any order: ``each(Worker.ask, [(video, cells), ...])``."""


@contextmanager
def workers(run: AccuracyRun, count: int) -> Iterator[Each]:
    """Start ``count`` processes of one thread each; one means this process. Leaving the block ends them at once.

    Yields: what does jobs, and gives each result as it is ready.

    Raises:
        SetupError: a process was ended from outside.
    """
    if count == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            worker = Worker(run)
            yield lambda do, jobs: (do(worker, *job) for job in jobs)
        finally:
            torch.set_num_threads(threads)
        return
    pool = start_pool(count, run.plugins)

    def each(do: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        futures = [submit(pool, _here, run, do, job) for job in jobs]
        return (future.result() for future in as_completed(futures))

    try:
        yield each
    except BrokenProcessPool as error:
        raise SetupError(
            "a worker process was ended from outside, perhaps for want of memory: run the same command again, it goes "
            "on where it was; --workers 1 needs the least"
        ) from error
    finally:
        end_pool(pool)


_workers: list[Worker] = []  # of a process of its own: the model is loaded with the first job


def _here(run: AccuracyRun, do: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    if not _workers:
        _workers.append(Worker(run))
    return do(_workers[0], *job)
