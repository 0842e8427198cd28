"""Run the benchmark: every question of every video under every method and budget, resumable at any moment.

A folder holds ``run.json`` (what was asked of what, and the configs, stored as they are fitted) and ``answers.jsonl``
(a line for each question, those of a video at once).
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.budgets import Cell
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_SEED, CONDITIONS
from prunevid_qwen.evaluation.shapes.workers import Each, Worker, lines_of, workers
from prunevid_qwen.evaluation.store import Lines, Progress, RunFolder, keep_lines, pack, read_lines, unpack

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

    Returns:
        The path of ``answers.jsonl``, which is complete now.

    Raises:
        ConfigError: the folder holds answers of a run with other options, model or versions.
        SetupError: a worker process was ended from outside.
        KeyboardInterrupt: the run was stopped; the same call goes on where it was.
    """
    if worker_count is not None and worker_count < 1:
        raise ConfigError(f"workers are at least 1, got {worker_count}")
    began, tell = time.monotonic(), progress or (lambda what, done, total: None)
    held, answers, videos = RunFolder(folder, FILES), folder / ANSWERS, run.list_videos()
    about = {
        "what": "questions about held-out moving shapes, under every method and budget",
        "command": " ".join(sys.argv) if command is None else command,
        "conditions": {name: asdict(CONDITIONS[name]) for name in run.conditions},
        "calibration_seeds": [CALIBRATION_SEED, CALIBRATION_SEED + run.calibration_videos - 1],
        "minutes": 0.0,
    }
    record = held.begin(run.to_dict(), about, restart, grows=("videos",))
    record["seeds"] = [videos[0].seed, videos[-1].seed]
    spent = record["minutes"]

    def write_record() -> None:
        record["minutes"] = round(spent + (time.monotonic() - began) / 60, 1)
        held.write_record(record)

    unpack(answers)
    with workers(run, min(worker_count or os.cpu_count() or 1, len(videos))) as each:
        for cells in _calibrated(each, run, [Cell(**cell) for cell in record.get("cells", [])], tell):
            record["cells"] = [asdict(cell) for cell in cells]
            write_record()
        cells = [Cell(**cell) for cell in record["cells"]]
        done = _whole_videos(answers, {video.name: lines_of(run, video, cells) for video in videos})
        left = [video for video in videos if video.name not in done]
        write_record()
        tell("asking", len(done), len(videos))
        with Lines(answers) as file:
            for number, lines in enumerate(each(Worker.ask, [(video, cells) for video in left]), 1):
                file.add(*lines)  # a video's lines at once
                tell("asking", len(done) + number, len(videos))
    write_record()
    return answers


def pack_answers(folder: Path) -> Path:
    """Replace ``answers.jsonl`` by ``answers.jsonl.xz``, a seventieth of the size, and return that."""
    unpack(folder / ANSWERS)
    # neighbours are alike: one method's answers to one question in a row of budgets
    return pack(folder / ANSWERS, lambda row: (row["condition"], row["seed"], row["question"]))


def _calibrated(each: Each, run: AccuracyRun, cells: list[Cell], tell: Progress) -> Iterator[list[Cell]]:
    """Fit what is not fitted yet; yields all cells after each method, in the order of conditions and methods."""
    jobs = [(condition, method.name) for condition in run.conditions for method in run.methods]
    done = {(cell.condition, cell.method) for cell in cells}
    methods = {method.name: method for method in run.methods}
    left = [(condition, methods[name]) for condition, name in jobs if (condition, name) not in done]
    if left:
        tell("calibrating", len(done), len(jobs))
    for number, found in enumerate(each(Worker.calibrate, left), 1):
        # jobs end in any order; the budgets of a method keep theirs
        cells = sorted([*cells, *found], key=lambda cell: jobs.index((cell.condition, cell.method)))
        yield cells
        tell("calibrating", len(done) + number, len(jobs))


def _whole_videos(path: Path, wanted: dict[tuple[str, int], int]) -> set[tuple[str, int]]:
    """Return which videos have all their lines, as many as wanted, and take the lines of others out of the file."""

    def name(line: dict[str, Any]) -> tuple[str, int]:
        return line.get("condition", ""), line.get("seed", -1)

    counts = Counter(map(name, read_lines(path)))
    done = {video for video, count in counts.items() if count == wanted.get(video)}
    keep_lines(path, lambda line: name(line) in done)
    return done
