"""Run the benchmark: every question of every video under every method and budget, resumable at any moment.

A folder holds ``run.json`` (what was asked of what, and the configs, stored as they are fitted) and ``answers.jsonl``
(a line for each question, those of a video at once). A result never depends on the number of processes: each job is
done in one of them, by one thread.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.engine.process_pool import end_pool, start_pool, submit
from prunevid_qwen.evaluation.shapes.budgets import LEFT_OUT, Calibration, Cell
from prunevid_qwen.evaluation.shapes.equal_time import timed
from prunevid_qwen.evaluation.shapes.methods import BLANK, UNPRUNED, AccuracyRun, Method, uses_chance
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_SEED, Questioner, ShapesVideo
from prunevid_qwen.evaluation.store import Lines, Progress, RunFolder, keep_lines, pack, read_lines, unpack
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.moving_shapes.conditions import BY_NAME

_log = logging.getLogger(__name__)

ANSWERS = "answers.jsonl"
FILES = (ANSWERS, f"{ANSWERS}.xz", "summary.json", "report.md", "comparison.md")

QUICK: dict[str, Any] = {"videos": 16, "budgets": (0.25, 0.16, 0.10), "random_seeds": 1, "calibration_videos": 8}
"""What a quick run does otherwise: arguments of `AccuracyRun`."""


def accuracy_run(
    folder: Path,
    run: AccuracyRun,
    worker_count: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Path:
    """Ask everything that ``run`` says and that ``folder`` does not hold yet.

    Args:
        folder: of the results; made if missing.
        run: the methods, budgets and videos.
        worker_count: processes of one thread, at least 1; None takes one for each core. With more than one, a script
            needs the usual ``if __name__ == "__main__":``.
        restart: throw away what the folder holds.
        progress: told how far it is: "calibrating" by method and condition, "asking" by video.
        command: what a person typed, for the record; None is this process's.

    Returns: the path of ``answers.jsonl``, which is complete now.

    Raises:
        ConfigError: the folder holds answers of a run with other options, model or versions, or the model cannot be
            pruned by any of the methods.
        SetupError: a worker process was ended from outside.
        KeyboardInterrupt: the run was stopped; the same call goes on where it was.
    """
    if worker_count is not None and worker_count < 1:
        raise ConfigError(f"workers are at least 1, got {worker_count}")
    began, tell = time.monotonic(), progress or (lambda what, done, total: None)
    held, answers, videos = RunFolder(folder, FILES), folder / ANSWERS, run.list_videos()
    options = run.to_dict()  # refuses a model that is not there
    about = {
        "family": run.family,
        "what": "questions about held-out moving shapes, under every method and budget",
        "command": " ".join(sys.argv) if command is None else command,
        "conditions": {name: asdict(BY_NAME[name]) for name in run.conditions},
        "calibration_seeds": [CALIBRATION_SEED, CALIBRATION_SEED + run.calibration_videos - 1],
        "minutes": 0.0,
    }
    record = held.begin(options, about, restart, grows=("videos",))
    record["seeds"] = [videos[0].seed, videos[-1].seed]
    spent = record["minutes"]

    def write_record() -> None:
        record["minutes"] = round(spent + (time.monotonic() - began) / 60, 1)
        held.write_record(record)

    def results(
        what: str, done: int, total: int, do: Callable[..., Any], jobs: list[Any], most: int = len(videos)
    ) -> Generator[Any, None, None]:
        tell(what, done, total)
        with closing(each(run, min(worker_count or os.cpu_count() or 1, most), do, jobs)) as found:
            for number, result in enumerate(found, done + 1):
                yield result  # and when it is stored:
                tell(what, number, total)

    unpack(answers)
    cells: list[Cell] = record.get("cells", [])
    jobs = [(condition, method) for condition in run.conditions for method in run.methods]
    order = {(condition, method.name): number for number, (condition, method) in enumerate(jobs)}
    fitted = {(cell["condition"], cell["method"]) for cell in cells}
    if left := [(condition, method) for condition, method in jobs if (condition, method.name) not in fitted]:
        with closing(results("calibrating", len(fitted), len(jobs), calibrate, left)) as calibrated:
            for found in calibrated:
                # jobs end in any order; the budgets of a method keep theirs
                cells = sorted([*cells, *found], key=lambda cell: order[cell["condition"], cell["method"]])
                record["cells"] = cells
                write_record()
    _tell_left_out(cells)
    if run.by == "time":
        of = {kind: [cell for cell in cells if cell["condition"] == kind] for kind in run.conditions}
        waiting = [(k, own) for k, own in of.items() if any("seconds" not in c for c in own if c["status"] == "ok")]
        with closing(results("timing", len(of) - len(waiting), len(of), time_first_tokens, waiting, 1)) as measured:
            for found in measured:  # one process: nothing runs beside it
                of[found[0]["condition"]] = found
                record["cells"] = cells = sorted(
                    (cell for own in of.values() for cell in own),
                    key=lambda cell: order[cell["condition"], cell["method"]],
                )
                write_record()
    wanted = {video.name: len(_asks(run, video, cells)) * len(video.questions(run.questions)) for video in videos}
    done = whole_videos(answers, wanted)
    write_record()
    asks = [(video, cells) for video in videos if video.name not in done]
    with Lines(answers) as file, closing(results("asking", len(done), len(videos), ask, asks)) as asked:
        for lines in asked:
            file.add(*lines)  # a video's lines at once
    write_record()
    return answers


def pack_answers(folder: Path) -> Path:
    """Replace ``answers.jsonl`` by ``answers.jsonl.xz``, a seventieth of the size, and return that."""
    unpack(folder / ANSWERS)
    # neighbours are alike: one method's answers to one question in a row of budgets
    return pack(folder / ANSWERS, lambda row: (row["condition"], row["seed"], row["question"]))


def whole_videos(path: Path, wanted: dict[tuple[str, int], int]) -> set[tuple[str, int]]:
    """Return which videos have all their lines, as many as wanted, and take the lines of others out of the file."""

    def name(line: dict[str, Any]) -> tuple[str, int]:
        return line.get("condition", ""), line.get("seed", -1)

    counts = Counter(map(name, read_lines(path)))
    done = {video for video, count in counts.items() if count == wanted.get(video)}
    keep_lines(path, lambda line: name(line) in done)
    return done


def _tell_left_out(cells: Sequence[Cell]) -> None:
    """Warn of each method that the model cannot be pruned by; a `ConfigError` where that is all of them."""
    reasons = {cell["method"]: cell["why"] for cell in cells if cell["status"] == LEFT_OUT}
    for method, why in reasons.items():
        _log.warning("%s is left out: %s", method, why)
    if reasons and not {cell["method"] for cell in cells} - {UNPRUNED, BLANK, *reasons}:
        said = "; ".join(f"{method}: {why}" for method, why in reasons.items())
        raise ConfigError(f"this model cannot be pruned by any method that was asked for. {said}")


def _asks(run: AccuracyRun, video: ShapesVideo, cells: Sequence[Cell]) -> list[tuple[Cell, PruneVidConfig, int | None]]:
    """The cells that are reached on a kind of video, each under every random seed; None where nothing is drawn."""
    asks: list[tuple[Cell, PruneVidConfig, int | None]] = []
    for cell in cells:
        if cell["condition"] == video.condition.name and cell["status"] == "ok":
            config = PruneVidConfig.from_record(cell["config"])
            drawn = range(run.random_seeds) if uses_chance(config) else ()
            asks += [(cell, config.replace(random_seed=seed), seed) for seed in drawn] or [(cell, config, None)]
    return asks


def calibrate(run: AccuracyRun, condition: str, method: Method) -> list[Cell]:
    """Fit a method to every budget on one kind of video."""
    fitted_on = _calibration(run.model, condition, run.calibration_videos, run.through_files)
    return fitted_on.cells(method, run.budgets)


def time_first_tokens(run: AccuracyRun, condition: str, cells: Sequence[Cell]) -> list[Cell]:
    """Time the cells of one kind of video, by one question about a video that configs are fitted on."""
    _calibration.cache_clear()  # is over: the memory of its videos is free
    video = ShapesVideo(BY_NAME[condition], CALIBRATION_SEED)
    return timed(Questioner(_model(run.model), video, video.questions(1), run.through_files), cells)


def ask(run: AccuracyRun, video: ShapesVideo, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Ask about ``video`` under the cells of its condition that are reached: its lines."""
    _calibration.cache_clear()  # is over: the memory of its videos is free
    questions, model = video.questions(run.questions), _model(run.model)
    shown = [Questioner(model, replace(video, blank=grey), questions, run.through_files) for grey in (False, True)]
    known: dict[Any, list[dict[str, Any]]] = {}  # two budgets may come to one config
    out = []
    for cell, config, seed in _asks(run, video, cells):
        asked = cell["method"] == BLANK, config
        if asked not in known:
            known[asked] = shown[asked[0]].ask(config)
        about = {"method": cell["method"], "budget": cell["budget"], "random_seed": seed}
        out += [{**line, **about} for line in known[asked]]
    return out


@lru_cache(maxsize=1)
def _model(path: str) -> PruneVidQwen25VL:
    """The model of this process, loaded with its first job."""
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()
    if multiprocessing.parent_process() is not None:  # a process of its own: the caller's says it once
        logging.getLogger("prunevid_qwen").setLevel(logging.ERROR)
    return PruneVidQwen25VL(path, get_baseline_config(), device="cpu", dtype="float32")


@lru_cache(maxsize=1)  # jobs of one condition follow each other
def _calibration(path: str, condition: str, videos: int, through_files: bool) -> Calibration:
    return Calibration(_model(path), BY_NAME[condition], videos, through_files)


def each(run: AccuracyRun, workers: int, do: Callable[..., Any], jobs: Sequence[Any]) -> Generator[Any, None, None]:
    """Do something for a run with each job in ``workers`` processes of one thread; one means this process.

    Yields: each result as it is ready, in any order. Closing the iterator ends the processes at once.

    Raises:
        SetupError: a process was ended from outside.
    """
    if not jobs:
        return
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from (do(run, *job) for job in jobs)
        finally:
            torch.set_num_threads(threads)
        return
    pool = start_pool(workers, run.plugins)
    try:
        for future in as_completed([submit(pool, do, run, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise SetupError(
            "a worker process was ended from outside, perhaps for want of memory: run the same command again, it goes "
            "on where it was; --workers 1 needs the least"
        ) from error
    finally:
        end_pool(pool)
