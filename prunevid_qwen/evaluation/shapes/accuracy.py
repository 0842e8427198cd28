"""Run the benchmark: every question of every video under every method and budget, resumable at any moment.

A folder holds ``run.json`` (what was asked of what, and the fitted configs) and ``answers.jsonl`` (a line for each
question). A video's lines are written together, so a killed run loses the videos it was at and nothing else; cells are
stored as they are fitted.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.budgets import Cell
from prunevid_qwen.evaluation.shapes.methods import BUDGETS, LEAST_KEEP_RATIO, UNPRUNED, Method, methods_called
from prunevid_qwen.evaluation.shapes.videos import (
    CALIBRATION_SEED,
    CALIBRATION_VIDEOS,
    CONDITIONS,
    FIRST_SEED,
    ShapesVideo,
    benchmark_videos,
)
from prunevid_qwen.evaluation.shapes.workers import Asking, Each, Worker, cells_for, workers
from prunevid_qwen.evaluation.store import Lines, RunFolder, keep_lines, pack, plugin_options, read_lines, unpack
from prunevid_qwen.evaluation.store.identity import Progress
from prunevid_qwen.loading import bundled_model

ANSWERS = "answers.jsonl"
FILES = (ANSWERS, f"{ANSWERS}.xz", "summary.json", "report.md", "comparison.md")

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
        plugins: files and modules that register methods; every process loads them, and their code is part of the run.

    Raises:
        ConfigError: an option out of its range or given twice, two methods of one name, or an unknown condition.
    """

    methods: tuple[Method, ...]
    budgets: tuple[float, ...] = BUDGETS
    conditions: tuple[str, ...] = ()
    videos: int = VIDEOS
    first_seed: int = FIRST_SEED
    asking: Asking = field(default_factory=Asking)
    plugins: tuple[str, ...] = ()

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
        if UNPRUNED not in names:
            object.__setattr__(self, "methods", (*methods_called([UNPRUNED]), *self.methods))
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
        model = Path(bundled_model() if self.asking.model == "bundled" else self.asking.model) / "model.safetensors"
        if not model.is_file():
            raise ConfigError(f"no weights at {model}: the model is 'bundled' or the folder of an exported one")
        return {
            "methods": [
                {
                    "name": method.name,
                    "options": dict(method.options),
                    "levers": None if method.levers is None else list(method.levers),
                    "least_keep_ratio": LEAST_KEEP_RATIO,
                }
                for method in self.methods
            ],
            "budgets": list(self.budgets),
            "conditions": list(self.conditions),
            "first_seed": self.first_seed,
            "videos": self.videos,
            **asdict(self.asking),
            "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            **plugin_options(self.plugins),
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
        "calibration_seeds": [CALIBRATION_SEED, CALIBRATION_SEED + run.asking.calibration_videos - 1],
        "minutes": 0.0,
    }
    record = held.begin(run.to_dict(), about, restart, grows=("videos",))
    record["seeds"] = [videos[0].seed, videos[-1].seed]
    spent = record["minutes"]

    def write_record() -> None:
        record["minutes"] = round(spent + (time.monotonic() - began) / 60, 1)
        held.write_record(record)

    unpack(answers)
    with workers(run.asking, min(worker_count or os.cpu_count() or 1, len(videos)), run.plugins) as each:
        for cells in _calibrated(each, run, [Cell(**cell) for cell in record.get("cells", [])], tell):
            record["cells"] = [asdict(cell) for cell in cells]
            write_record()
        cells = [Cell(**cell) for cell in record["cells"]]
        done = _whole_videos(answers, {video.name: run.asking.lines_of(video, cells) for video in videos})
        left = [video for video in videos if video.name not in done]
        write_record()
        tell("asking", len(done), len(videos))
        with Lines(answers) as file:
            for number, lines in enumerate(each(Worker.ask, [(v, cells_for(v, cells)) for v in left]), 1):
                file.add(*lines)  # a video's lines at once
                tell("asking", len(done) + number, len(videos))
    write_record()
    return answers


def pack_answers(folder: Path) -> Path:
    """Replace ``answers.jsonl`` by ``answers.jsonl.xz``, a seventieth of the size, and return that."""
    # neighbours are alike: one method's answers to one question in a row of budgets
    return pack(folder / ANSWERS, lambda row: (row["condition"], row["seed"], row["question"]))


def _calibrated(each: Each, run: AccuracyRun, cells: list[Cell], tell: Progress) -> Iterator[list[Cell]]:
    """Fit what is not fitted yet; yields all cells after each method, in the order of conditions and methods."""
    jobs = [(condition, method.name) for condition in run.conditions for method in run.methods]
    done = {(cell.condition, cell.method) for cell in cells}
    methods = {method.name: method for method in run.methods}
    left = [(condition, methods[name], run.budgets) for condition, name in jobs if (condition, name) not in done]
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
