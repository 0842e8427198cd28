"""Try every value of every option against two bases at equal cost: ``python -m research.choices_run --help``.

Writes run.json, answers.jsonl.xz, summary.json and choices.md under runs/, which git ignores; with ``--out
eval/results/choices``, which is committed, also the tables of docs/choices.md. A stopped run goes on where it was: give
the same command again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prunevid_qwen.bundled import BUNDLED, TOYS, source_of
from prunevid_qwen.cli import run_script
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.accuracy import pack_answers
from prunevid_qwen.evaluation.shapes.accuracy_summary import read_answers, read_run
from research import pages
from research.choices import CHOICES_SEED, CHOICES_VIDEOS, QUICK_VIDEOS, choices_run, list_variants
from research.choices_page import report
from research.choices_summary import summarise_choices
from research.shapes_run import RESULTS, RUNS, answer, write_summary


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few videos, to see that it runs; says little.")] = False,
    videos: Annotated[int | None, typer.Option(min=1, help="How many. May grow in a later run.")] = None,
    first_seed: Annotated[int, typer.Option(help="The first video's; later ones count on from it.")] = CHOICES_SEED,
    out: Annotated[
        Path | None, typer.Option(help="Default: runs/choices. eval/results/choices also rewrites docs/choices.md.")
    ] = None,
    model_path: Annotated[str, typer.Option(help=f"{', '.join(TOYS)}, or the folder of an exported model.")] = BUNDLED,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what the folder holds.")] = False,
) -> None:
    """Ask, then write the figures and the tables."""
    folder = out or RUNS / ("choices_quick" if quick else "choices")
    layers = _layers(Path(source_of(model_path)))
    count = videos or (QUICK_VIDEOS if quick else CHOICES_VIDEOS)
    run = choices_run(layers, count, first_seed, model_path, quick)
    answer(folder, run, workers, restart, "research.choices_run")
    summary = summarise_choices(read_answers(folder), read_run(folder), list_variants(layers))
    path = write_summary(folder, summary)
    (folder / "choices.md").write_text(report(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    typer.echo(f"tables: {folder / 'choices.md'}\nsummary: {path}")
    pack_answers(folder)
    if folder.resolve() == RESULTS / "choices" and not quick:
        pages.write("docs/choices.md")
        typer.echo("tables of docs/choices.md rewritten: read its conclusions again")


def _layers(folder: Path) -> int:
    """Decoder layers of an exported model."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"no config.json in {folder}: give 'bundled' or the folder of an exported model")
    config = json.loads(path.read_text(encoding="utf-8"))
    return int(config.get("text_config", config)["num_hidden_layers"])


if __name__ == "__main__":  # worker processes import this file too
    run_script(main)
