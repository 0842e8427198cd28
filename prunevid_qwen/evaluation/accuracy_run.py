"""Run the accuracy benchmark: every question of every video under every method and budget, resumable at any moment.

A folder holds ``run.json`` (what was asked of what, and the fitted configs) and ``answers.jsonl`` (a line for each
question). A video's lines are written together, so a killed run loses the videos it was at and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_folder import (
    ANSWERS,
    MAY_GROW,
    empty_folder,
    read_record,
    surroundings,
    unpack_answers,
    whole_videos,
    write_record,
)
from prunevid_qwen.evaluation.accuracy_work import Asking
from prunevid_qwen.evaluation.calibrate import Cell
from prunevid_qwen.evaluation.methods import BUDGETS, Method, standard_methods
from prunevid_qwen.evaluation.scenes import (
    CALIBRATION_SEED,
    CALIBRATION_VIDEOS,
    CONDITIONS,
    FIRST_SEED,
    ShapesVideo,
    benchmark_videos,
)
from prunevid_qwen.evaluation.workers import Workers, workers
from prunevid_qwen.loading import bundled_model
from prunevid_qwen.receipt import versions

Progress = Callable[[str, int, int], None]
"""Told what is being done ("calibrating", "asking"), how much of it is done and how much there is."""

VIDEOS = 100

QUICK: dict[str, Any] = {
    "videos": 16,
    "budgets": (0.25, 0.16, 0.10),
    "asking": {"random_seeds": 1, "calibration_videos": 8},
}
"""What a quick run does otherwise: arguments of `AccuracyRun`, and of `Asking` under "asking"."""


@dataclass(frozen=True)
class AccuracyRun:
    """What a run asks.

    Args:
        methods: what is compared, each under its own name; the unpruned model is always asked.
        budgets: layer-averaged shares of the visual tokens, in (0, 1).
        conditions: names of kinds of video; () is all.
        videos: how many, at least 1, conditions taking turns. The one option that may grow when a run goes on.
        first_seed: the first video's.
        asking: how each video is asked about.

    Raises:
        ConfigError: an option out of its range or given twice, two methods of one name, or an unknown condition.
    """

    methods: tuple[Method, ...]
    budgets: tuple[float, ...] = BUDGETS
    conditions: tuple[str, ...] = ()
    videos: int = VIDEOS
    first_seed: int = FIRST_SEED
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for name, count in Counter(names).items():
            if count > 1:
                raise ConfigError(f"two methods are called {name!r}: give each a name of its own")
        for each, count in Counter((*self.budgets, *self.conditions)).items():
            if count > 1:
                raise ConfigError(f"{each} is given twice: its questions would be answered twice. Name it once")
        for budget in self.budgets:
            if not 0 < budget < 1:
                raise ConfigError(f"a budget is a share of the tokens in (0, 1), got {budget}")
        for name in ("questions", "random_seeds", "calibration_videos"):
            if getattr(self.asking, name) < 1:
                raise ConfigError(f"{name} is at least 1, got {getattr(self.asking, name)}")
        if self.asking.calibration_videos > CALIBRATION_VIDEOS:
            raise ConfigError(f"there are {CALIBRATION_VIDEOS} calibration videos of a kind")
        if "unpruned" not in names:
            object.__setattr__(self, "methods", (standard_methods()[0], *self.methods))
        if not self.conditions:
            object.__setattr__(self, "conditions", tuple(CONDITIONS))
        self.list_videos()

    def list_videos(self) -> list[ShapesVideo]:
        """List the videos in the order of their seeds."""
        return benchmark_videos(self.videos, self.first_seed, self.conditions)

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON: what two runs must share for their answers to belong together.

        Raises:
            ConfigError: there is no such model.
        """
        return {
            "methods": [
                {
                    "name": method.name,
                    "options": dict(method.options),
                    "levers": None if method.levers is None else list(method.levers),
                    "least_keep_ratio": method.least_keep_ratio,
                }
                for method in self.methods
            ],
            "budgets": list(self.budgets),
            "conditions": list(self.conditions),
            "first_seed": self.first_seed,
            MAY_GROW: self.videos,
            **asdict(self.asking),
            "model_sha256": _digest(self.asking.model),
        }


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
        run: what is asked.
        worker_count: processes of one thread, at least 1; None takes one for each core. With more than one, a script
            needs the usual ``if __name__ == "__main__":``.
        restart: throw away what the folder holds.
        progress: told how far it is.
        command: what a person typed, for the record; None is this process's.

    Returns:
        The path of ``answers.jsonl``, which is complete now.

    Raises:
        ConfigError: the folder holds answers of a run with other options, model or versions.
        SetupError: a worker process was ended from outside.
    """
    if worker_count is not None and worker_count < 1:
        raise ConfigError(f"workers are at least 1, got {worker_count}")
    began, tell = time.monotonic(), progress or (lambda what, done, total: None)
    options, videos = run.to_dict(), run.list_videos()  # complains before anything is thrown away
    folder.mkdir(parents=True, exist_ok=True)
    if restart:
        empty_folder(folder)
    record = read_record(folder, options) or _new_record(run, command)
    unpack_answers(folder)
    record["options"], record["seeds"] = options, [videos[0].seed, videos[-1].seed]
    with workers(run.asking, min(worker_count or os.cpu_count() or 1, len(videos))) as processes:
        if "cells" not in record:
            record["cells"] = _calibrate(processes, run, tell)
        write_record(folder, record)
        cells = [Cell(**cell) for cell in record["cells"]]
        done = whole_videos(folder, {video.name: run.asking.lines_of(video, cells) for video in videos})
        left = [video for video in videos if video.name not in done]
        tell("asking", len(done), len(videos))
        with (folder / ANSWERS).open("a", encoding="utf-8") as file:
            for number, lines in enumerate(processes.ask(left, cells), 1):
                file.write(lines)  # a video's lines at once
                file.flush()
                os.fsync(file.fileno())
                tell("asking", len(done) + number, len(videos))
    record["minutes"] = round(record["minutes"] + (time.monotonic() - began) / 60, 1)
    write_record(folder, record)
    return folder / ANSWERS


def _calibrate(processes: Workers, run: AccuracyRun, tell: Progress) -> list[dict[str, Any]]:
    tell("calibrating", 0, len(run.conditions))
    cells: list[Cell] = []
    for number, found in enumerate(processes.calibrate(run.conditions, run.methods, run.budgets), 1):
        cells += found
        tell("calibrating", number, len(run.conditions))
    # conditions came in any order; methods and budgets keep theirs
    return [cell.to_dict() for cell in sorted(cells, key=lambda cell: run.conditions.index(cell.condition))]


def _new_record(run: AccuracyRun, command: str | None) -> dict[str, Any]:
    calibrated = CALIBRATION_SEED + run.asking.calibration_videos - 1
    return {
        "what": "questions about held-out moving shapes, under every method and budget",
        "command": " ".join(sys.argv) if command is None else command,
        "conditions": {name: asdict(CONDITIONS[name]) for name in run.conditions},
        "calibration_seeds": [CALIBRATION_SEED, calibrated],
        "versions": versions(),
        **surroundings(),
        "minutes": 0.0,
    }


def _digest(model: str) -> str:
    """Fingerprint of a model's weights."""
    path = Path(bundled_model() if model == "bundled" else model) / "model.safetensors"
    if not path.is_file():
        raise ConfigError(f"no weights at {path}: the model is 'bundled' or the folder of an exported one")
    return hashlib.sha256(path.read_bytes()).hexdigest()
