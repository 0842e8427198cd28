"""A call of ``prunevid train-glimpse``: the check, the training, its progress. Loads torch only when it runs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.training_bars import TrainingBars
from prunevid_qwen.errors import MediaError
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe


@dataclass(frozen=True)
class TrainGlimpseRequest:
    """One call of ``prunevid train-glimpse``.

    Args:
        recipe: all that decides what comes out.
        out: folder of the run.
        check_only: look at the data and train nothing.
        check: look at the data before training.
        restart: throw away what the folder holds.
        device: "cpu", or None for what accelerate finds.
        threads: of torch, or None for its own choice.
        as_json, verbose: how to report.
        command: what was typed.
    """

    recipe: GlimpseRecipe
    out: Path
    check_only: bool = False
    check: bool = True
    restart: bool = False
    device: str | None = None
    threads: int | None = None
    as_json: bool = False
    verbose: bool = False
    command: str = ""

    def run(self) -> int:
        """Check or train; return the exit code.

        Raises:
            KeyboardInterrupt: the run was stopped; it has said how to go on.
        """
        logging.basicConfig(level=logging.INFO if self.verbose else logging.WARNING, format="%(name)s: %(message)s")
        quiet = contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()
        with quiet:
            told = self._checked() if self.check_only else self._trained()
        if self.as_json and told:
            typer.echo(json.dumps(told, ensure_ascii=False))
        return MediaError.exit_code if told.get("problems") else 0

    def _checked(self) -> dict[str, Any]:
        from prunevid_qwen.training.glimpse.opened import IGNORED, look_at, open_recipe

        with TrainingBars() as bars:
            reports = look_at(open_recipe(self.recipe), lambda what, done, total: bars.tell(what, done, total, {}))
        for name, report in reports.items():
            for line in report.lines():
                typer.echo(f"{name}: {line}")
        bad = {name: report.total - len(report.skip_bad(IGNORED)) for name, report in reports.items()}
        return {
            "records": {name: report.total for name, report in reports.items()},
            "flaws": {name: report.counts for name, report in reports.items()},
            "problems": sum(bad.values()),
        }

    def _trained(self) -> dict[str, Any]:
        """Train, draw and say what came out; {} in all processes but the main one."""
        import torch
        from accelerate import PartialState
        from transformers.utils import logging as library

        from prunevid_qwen.evaluation.store import surroundings
        from prunevid_qwen.training.glimpse.train import train

        if not self.verbose:
            library.set_verbosity_error()
            library.disable_progress_bar()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            with TrainingBars() as bars:
                record = train(
                    self.recipe,
                    self.out,
                    restart=self.restart,
                    check=self.check,
                    device=self.device,
                    about={"command": self.command, **surroundings()},
                    tell=bars.tell,
                )
        except KeyboardInterrupt:
            if PartialState().is_main_process:
                self._draw()
                typer.echo(f"stopped; the same command goes on from {self.out}", err=True)
            raise
        if not PartialState().is_main_process:
            return {}
        self._draw()
        if not self.as_json:
            self._say(record)
        return record

    def _say(self, record: dict[str, Any]) -> None:
        for name, lines in (("training", record["training"]), ("held out", record["evaluation"])):
            for line in lines:
                names = ("lm", "dice", "bce", "precision", "recall", "f1", "iou", "kept")
                typer.echo(f"{name}, step {line['step']}: " + ", ".join(f"{each} {line[each]:.3f}" for each in names))
        model = self.out / "model"
        typer.echo(f"predictor: {model}\ntry it: prunevid ask ... --selector glimpse --glimpse_path {model}")

    def _draw(self) -> None:
        from prunevid_qwen.training.glimpse.run_folder import CURVE, EVALUATION, RunFolder

        folder = RunFolder(self.out)
        if not folder.lines(CURVE):
            return
        if importlib.util.find_spec("matplotlib") is None:
            said = (
                "no curve.svg: matplotlib is not installed (pip install 'prunevid_qwen[bench]'); curve.jsonl has it all"
            )
            typer.echo(said, err=True)
            return
        from prunevid_qwen.training.glimpse.curve_plot import draw_curve

        draw_curve(folder.lines(CURVE), folder.lines(EVALUATION), self.out / "curve.svg")
