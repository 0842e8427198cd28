"""The glimpse beside attention, controls and true boxes on moving shapes: ``python eval/glimpse.py --help``.

Writes run.json, answers.jsonl.xz, summary.json and plots under runs/, which git ignores; what is committed was written
with ``--out eval/results/glimpse``. A stopped run goes on where it was: give the same command again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import run_script
from prunevid_qwen.cli.bench import Bars
from prunevid_qwen.evaluation.glimpse_accuracy import QUICK_VIDEOS, VIDEOS, glimpse_run, write_glimpse_summary
from prunevid_qwen.evaluation.glimpse_plots import draw_glimpse
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run, pack_answers
from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

RUNS = Path(__file__).resolve().parents[1] / "runs"


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
    try:
        with Bars() as bars:
            accuracy_run(folder, run, workers, restart, bars.tell, " ".join(["python eval/glimpse.py", *sys.argv[1:]]))
    except KeyboardInterrupt:
        typer.echo("stopped: the same command goes on where it was", err=True)
        raise
    summary = write_glimpse_summary(folder)
    for path in draw_glimpse(json.loads(summary.read_text(encoding="utf-8")), folder):
        typer.echo(f"plot: {path}")
    pack_answers(folder)
    typer.echo(f"summary: {summary}")


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
