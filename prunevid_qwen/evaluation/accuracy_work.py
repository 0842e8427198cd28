"""What one process of the accuracy benchmark does: fit cells to budgets, ask about a video under all of them."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.evaluation.accuracy_answers import BLANK
from prunevid_qwen.evaluation.asking import Questioner
from prunevid_qwen.evaluation.calibrate import Calibration, Cell
from prunevid_qwen.evaluation.methods import Method, uses_chance
from prunevid_qwen.evaluation.scenes import CALIBRATION_VIDEOS, CONDITIONS, ShapesVideo
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.processes.interruption import leave_signals_to_parent


@dataclass(frozen=True)
class Asking:
    """How every video is asked about.

    Args:
        model: "bundled" or the folder of an exported model that knows moving shapes.
        questions: about each video, at most: simple scenes hold fewer facts.
        random_seeds: how often a method that draws by chance is asked.
        through_files: read real mp4 files instead of the drawn frames.
        calibration_videos: of each kind, 1 to 48.
    """

    model: str = "bundled"
    questions: int = 12
    random_seeds: int = 2
    through_files: bool = False
    calibration_videos: int = CALIBRATION_VIDEOS

    def seeds(self, config: PruneVidConfig) -> list[int | None]:
        """Return the random seeds under which ``config`` is asked; [None] where nothing is drawn."""
        return list(range(self.random_seeds)) if uses_chance(config) else [None]

    def lines_of(self, video: ShapesVideo, cells: Sequence[Cell]) -> int:
        """Count the lines that ``video`` has once it is done."""
        asks = sum(len(self.seeds(config_of(cell))) for cell in cells_for(video, cells))
        return asks * len(video.questions(self.questions))


def config_of(cell: Cell) -> PruneVidConfig:
    """Return the whole config of a cell."""
    return PruneVidConfig.from_record(cell.config)


def cells_for(video: ShapesVideo, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells under which ``video`` is asked about."""
    return [cell for cell in cells if cell.condition == video.condition.name and cell.status == "ok"]


class Worker:
    """Holds the model of one process.

    Args:
        asking: how videos are asked about.
    """

    def __init__(self, asking: Asking) -> None:
        from transformers.utils import logging as library_logging

        library_logging.disable_progress_bar()
        if multiprocessing.parent_process() is not None:  # a process of its own: the caller's says it once
            logging.getLogger("prunevid_qwen").setLevel(logging.ERROR)
        self.asking = asking
        self.model = PruneVidQwen25VL(asking.model, get_baseline_config(), device="cpu", dtype="float32")

    def calibrate(self, condition: str, methods: Sequence[Method], budgets: Sequence[float]) -> list[Cell]:
        """Fit every method to every budget on one kind of video."""
        calibration = Calibration(self.model, CONDITIONS[condition], self.asking.calibration_videos)
        return [cell for method in methods for cell in calibration.cells(method, budgets)]

    def ask(self, video: ShapesVideo, cells: Sequence[Cell]) -> str:
        """Ask about ``video`` under all its cells: the JSON lines, each ended by a newline."""
        questions = video.questions(self.asking.questions)
        shown = {
            blank: Questioner(self.model, replace(video, blank=blank), questions, self.asking.through_files)
            for blank in (False, True)
        }
        known: dict[tuple[bool, PruneVidConfig], list[dict[str, Any]]] = {}  # two budgets may come to one config
        out = []
        for cell in cells_for(video, cells):
            config = config_of(cell)
            for seed in self.asking.seeds(config):
                drawn = config if seed is None else config.replace(random_seed=seed)
                asked = cell.method == BLANK, drawn
                if asked not in known:
                    known[asked] = shown[asked[0]].lines(drawn)
                about = {"method": cell.method, "budget": cell.budget, "random_seed": seed}
                out += [json.dumps({**line, **about}) + "\n" for line in known[asked]]
        return "".join(out)


_worker: Worker | None = None  # of this process, where it is one of several


def start(asking: Asking) -> None:
    """Begin a worker process: one thread each, and signals are for the parent to answer."""
    global _worker
    leave_signals_to_parent(terminable=True)
    torch.set_num_threads(1)
    _worker = Worker(asking)


def calibrate_here(condition: str, methods: Sequence[Method], budgets: Sequence[float]) -> list[Cell]:
    """Do `Worker.calibrate` in a started process."""
    assert _worker is not None
    return _worker.calibrate(condition, methods, budgets)


def ask_here(video: ShapesVideo, cells: Sequence[Cell]) -> str:
    """Do `Worker.ask` in a started process."""
    assert _worker is not None
    return _worker.ask(video, cells)
