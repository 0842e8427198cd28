"""What runs of the moving_shapes benchmark share here: answering with progress, a resume, a summary beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.output import Bars
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun

ROOT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = ROOT / "runs", ROOT / "eval" / "results"


def command_of(module: str) -> str:
    """Return what was typed to run a module of this folder."""
    return " ".join([f"python -m {module}", *sys.argv[1:]])


def answer(folder: Path, run: AccuracyRun, workers: int | None, restart: bool, module: str) -> None:
    """Ask everything that ``folder`` does not hold yet.

    Raises:
        KeyboardInterrupt: the run was stopped; how to go on has been said.
    """
    try:
        with Bars() as bars:
            accuracy_run(folder, run, workers, restart, bars.tell, command_of(module))
    except KeyboardInterrupt:
        typer.echo("stopped: the same command goes on where it was", err=True)
        raise


def write_summary(folder: Path, summary: dict[str, Any]) -> Path:
    """Write ``summary.json``: the same figures, the same bytes."""
    path = folder / "summary.json"
    path.write_text(json_text(summary, sort_keys=True, ascii_alone=True), encoding="utf-8")
    return path
