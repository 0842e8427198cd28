"""Try every value of every option against two bases at equal cost: ``python eval/choices.py --help``.

Writes run.json, answers.jsonl.xz, summary.json and choices.md under runs/, which git ignores; with ``--out
eval/results/choices``, which is committed, also the tables of docs/choices.md. A stopped run goes on where it was: give
the same command again.
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
from prunevid_qwen.evaluation.choices import CHOICES_SEED, CHOICES_VIDEOS, QUICK_VIDEOS, choices_run, list_variants
from prunevid_qwen.evaluation.choices_report import blocks, write_choices_report
from prunevid_qwen.evaluation.choices_summary import write_choices_summary
from prunevid_qwen.evaluation.marked_page import fill
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run, pack_answers
from prunevid_qwen.loading import bundled_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "eval" / "results" / "choices"
RUNS = ROOT / "runs"
PAGE = ROOT / "docs" / "choices.md"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few videos, to see that it runs; says little.")] = False,
    videos: Annotated[int | None, typer.Option(min=1, help="How many. May grow in a later run.")] = None,
    first_seed: Annotated[int, typer.Option(help="The first video's; later ones count on from it.")] = CHOICES_SEED,
    out: Annotated[
        Path | None, typer.Option(help="Default: runs/choices. eval/results/choices also rewrites docs/choices.md.")
    ] = None,
    model_path: Annotated[str, typer.Option(help="bundled, or the folder of an exported model.")] = "bundled",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what the folder holds.")] = False,
) -> None:
    """Ask, then write the figures and the tables."""
    folder = out or RUNS / ("choices_quick" if quick else "choices")
    layers = _layers(Path(bundled_model() if model_path == "bundled" else model_path))
    count = videos or (QUICK_VIDEOS if quick else CHOICES_VIDEOS)
    run = choices_run(layers, count, first_seed, model_path, quick)
    command = " ".join(["python eval/choices.py", *sys.argv[1:]])
    try:
        with Bars() as bars:
            accuracy_run(folder, run, workers, restart, bars.tell, command)
    except KeyboardInterrupt:
        typer.echo("stopped: the same command goes on where it was", err=True)
        raise
    summary = write_choices_summary(folder, list_variants(layers))
    typer.echo(f"tables: {write_choices_report(folder)}\nsummary: {summary}")
    pack_answers(folder)
    if folder.resolve() == RESULTS and not quick:
        page = fill(PAGE.read_text(encoding="utf-8"), blocks(json.loads(summary.read_text(encoding="utf-8"))))
        PAGE.write_text(page, encoding="utf-8")
        typer.echo(f"tables of {PAGE} rewritten: read its conclusions again")


def _layers(folder: Path) -> int:
    """Decoder layers of an exported model."""
    path = folder / "config.json"
    if not path.is_file():
        raise typer.BadParameter(f"no config.json in {folder}: give 'bundled' or the folder of an exported model")
    config = json.loads(path.read_text(encoding="utf-8"))
    return int(config.get("text_config", config)["num_hidden_layers"])


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
