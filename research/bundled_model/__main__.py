"""Train the bundled model and write it as a folder that transformers loads: ``python -m research.bundled_model``.

About three hours on two shared CPU cores. Ctrl-C saves; the same command goes on from there.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer

from prunevid_qwen.cli import run_script
from research.bundled_model.export import export_model
from research.bundled_model.schedule import PHASES, shortened
from research.bundled_model.train import train


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the learning curve.")] = Path("bundled_run"),
    model: Annotated[Path | None, typer.Option(help="Folder for the finished model; default OUT/model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the parameters, the videos and the questions.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps; the next call goes on.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes; the next call goes on.")] = None,
    share: Annotated[float, typer.Option(help="Share of every phase's steps, for a quick look.")] = 1.0,
    resume: Annotated[bool, typer.Option(help="Go on from OUT's checkpoint; --no-resume starts anew.")] = True,
    device: Annotated[str, typer.Option(help="Where the decoder is trained.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads of the training process; more only on idle cores.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that make videos beside it; 0 for none.")] = 1,
    weights: Annotated[Path | None, typer.Option(help="Begin with an exported model instead of nothing.")] = None,
    begin: Annotated[str | None, typer.Option(help="Name of the phase that --weights are given to.")] = None,
) -> None:
    """Train, then export if the last phase was finished."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    phases = PHASES if share == 1.0 else shortened(PHASES, share)

    def show(phase: str, step: int, total: int, figures: str) -> None:
        typer.echo(f"{phase} {step}/{total}  {figures}")

    try:
        trained, finished = train(out, phases, seed, resume, steps, minutes, device, workers, show, weights, begin)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on from {out / 'checkpoint.pt'}")
        raise
    if not finished:
        typer.echo(f"not finished; the same command goes on from {out / 'checkpoint.pt'}")
        return
    folder = export_model(trained, model or out / "model")
    typer.echo(f"wrote {folder}")


if __name__ == "__main__":
    run_script(main)
