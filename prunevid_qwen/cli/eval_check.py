"""``prunevid eval check``: what a benchmark's folder lacks, before any model is loaded. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.eval_run import DATASETS, PART
from prunevid_qwen.cli.old_spellings import hint
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import Done, FileReporting
from prunevid_qwen.errors import ConfigError, MediaError

EXPLAINED = f"""\
[bold]Examples[/bold]
  prunevid eval check mvbench --data ~/data/MVBench
  prunevid eval check videomme --data ~/data/Video-MME --subtitles
  prunevid eval check egoschema --data ~/data/EgoSchema --part full --decode
  ... --out missing.json        every file, with the questions that need it

[bold]Data sets[/bold]
  {", ".join(DATASETS)}.
  Nothing is ever downloaded; questions are also looked for in the cache of
  `datasets`.
"""
_MOST = 200  # lines; --json has all


def check(
    *,
    dataset: str = word(..., "NAME", "Of the data set: see below."),
    folder: Path | None = word(None, "DIR", "As --data.", hidden=True),
    data: Path | None = opt(None, "The folder it was downloaded to.", "DIR"),
    part: str | None = opt(None, PART, "NAME"),
    subtitles: bool = opt(False, "Read the subtitles too (videomme, longvideobench)."),
    decode: bool = opt(
        False,
        "Read every video to its end and decode its first and last frame: finds what is broken inside, and takes as "
        "long as reading all bytes takes. Without it, files are opened, and their length is compared with what their "
        "header promises.",
    ),
    output: FileReporting,
) -> Done:
    """Say what a benchmark's folder lacks, and what in it cannot be read, before any model is loaded."""
    if folder is not None and data is None:
        output.note(hint("`eval check NAME DIR`", "`eval check NAME --data DIR`"))
    place = data or folder
    if place is None or (data and folder):
        raise ConfigError(f"name the data set's folder once: prunevid eval check {dataset} --data DIR")
    from prunevid_qwen.evaluation.datasets import check as checked
    from prunevid_qwen.evaluation.datasets import read_dataset
    from prunevid_qwen.evaluation.protocol.harness_scorers import columns_of

    columns_of(dataset)  # a misspelt scorer is refused here as `eval run` refuses it
    with output.bars() as bars:
        report = checked(read_dataset(dataset, place, part, subtitles), decode, bars.tell)
    return Done(report.to_dict(), lambda: _show(report), 0 if report.complete else MediaError.exit_code)


def _show(report: Any) -> None:
    data = report.dataset
    typer.echo(f"{data.title} ({data.part}) in {data.folder}: {len(data.records)} questions, {report.media} media")
    typer.echo(f"questions: {_first_of(data.annotations)}")
    for problem in report.problems[:_MOST]:
        asked = f" (for {_first_of(problem.records)})" if problem.records else ""
        typer.echo(f"{problem.kind}: {problem.path}: {problem.why.removeprefix(problem.path).lstrip(': ')}{asked}")
    if len(report.problems) > _MOST:
        typer.echo(f"... {len(report.problems) - _MOST} more; --json lists them all")
    for note in report.notes:
        typer.echo(f"note: {note}")
    short = [f"{name} {good} of {all_}" for name, (good, all_) in report.by_group.items() if good < all_]
    typer.echo(
        f"{report.askable} of {len(data.records)} questions can be asked" + (f" ({', '.join(short)})" if short else "")
    )
    if report.complete:
        typer.echo("complete: nothing is missing, unreadable or damaged")
    for step in report.next_steps:
        typer.echo(f"next: {step}")


def _first_of(names: Sequence[Any]) -> str:
    return f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
