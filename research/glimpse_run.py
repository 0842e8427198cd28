"""The glimpse beside attention, controls and true boxes on moving shapes: ``python -m research.glimpse_run --help``.

Writes run.json, answers.jsonl.xz, summary.json and plots under runs/, which git ignores; what is committed was written
with ``--out eval/results/glimpse``. A stopped run goes on where it was: give the same command again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunevid_qwen.cli import run_script
from prunevid_qwen.evaluation.shapes.accuracy import pack_answers
from prunevid_qwen.evaluation.shapes.accuracy_summary import read_answers, read_run
from prunevid_qwen.stage2_select.glimpse import GlimpseVIP
from research.glimpse import QUICK_VIDEOS, VIDEOS, glimpse_run, summarise_glimpse
from research.glimpse_plots import draw_glimpse
from research.shapes_run import RUNS, answer, write_summary


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few videos, to see that it runs; says little.")] = False,
    videos: Annotated[int | None, typer.Option(min=1, help="How many. May grow in a later run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: runs/glimpse.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what the folder holds.")] = False,
) -> None:
    """Ask about the bundled model's videos with its bundled predictor, then write figures and plots."""
    folder = out or RUNS / ("glimpse_quick" if quick else "glimpse")
    layer = GlimpseVIP.from_pretrained("bundled").facts.reduce_layer
    run = glimpse_run(layer, videos or (QUICK_VIDEOS if quick else VIDEOS))
    answer(folder, run, workers, restart, "research.glimpse_run")
    summary = summarise_glimpse(read_answers(folder), read_run(folder))
    typer.echo(f"summary: {write_summary(folder, summary)}")
    for path in draw_glimpse(summary, folder):
        typer.echo(f"plot: {path}")
    pack_answers(folder)


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
