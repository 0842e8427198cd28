"""Train the second toy and write it as a folder that transformers loads: ``python -m research.bundled_qwen3vl``.

Ctrl-C saves; the same command goes on from there.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer

from prunevid_qwen.cli import run_script
from research.bundled_model.train import train
from research.bundled_qwen3vl.export import export_model
from research.bundled_qwen3vl.recipe import SecondToy
from research.bundled_qwen3vl.schedule import PHASES


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the learning curve.")] = Path("qwen3vl_run"),
    model: Annotated[Path | None, typer.Option(help="Folder for the finished model; default OUT/model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the parameters, the videos and the questions.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps; the next call goes on.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes; the next call goes on.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from OUT's checkpoint; --no-resume starts anew.")] = True,
    threads: Annotated[int, typer.Option(help="Torch threads of the training process; more only on idle cores.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that make videos beside it; 0 for none.")] = 1,
) -> None:
    """Train, then export if the last phase was finished."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)

    def show(phase: str, step: int, total: int, figures: str) -> None:
        typer.echo(f"{phase} {step}/{total}  {figures}")

    try:
        trained, finished = train(
            out, PHASES, seed, resume, steps, minutes, workers=workers, report=show, recipe=SecondToy()
        )
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on from {out / 'checkpoint.pt'}")
        raise
    if not finished:
        typer.echo(f"not finished; the same command goes on from {out / 'checkpoint.pt'}")
        return
    folder = export_model(trained, model or out / "model")
    typer.echo(f"written: {folder}; `prunevid ask --model_path {folder}` answers questions")


if __name__ == "__main__":
    run_script(main)
