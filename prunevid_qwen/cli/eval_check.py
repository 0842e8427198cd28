"""``prunevid eval check``: what a benchmark's folder lacks, before any model is loaded. Loads no torch."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.errors import MediaError

_EPILOG = """\
[bold]Examples[/bold]
  prunevid eval check mvbench ~/data/MVBench
  prunevid eval check videomme ~/data/Video-MME --subtitles
  prunevid eval check egoschema ~/data/EgoSchema --part full --decode
  ... --json > missing.json     every file, with the questions that need it

[bold]Data sets[/bold]
  mvbench, videomme, egoschema, longvideobench, mlvu, vstar. Nothing is ever
  downloaded; questions are also looked for in the cache of `datasets`.

[bold]Exit codes[/bold]
  0 complete; 2 bad option, or no such data set in the folder;
  3 a package is missing; 4 something is missing, unreadable or damaged
"""
_MOST = 200  # lines; --json has all


@dataclass(frozen=True)
class CheckRequest:
    """One call of ``prunevid eval check``; the arguments are those of `read_dataset` and `check`."""

    dataset: str
    folder: Path
    part: str | None = None
    subtitles: bool = False
    decode: bool = False
    as_json: bool = False
    verbose: bool = False

    def run(self) -> int:
        """Check, report, and return the exit code."""
        from prunevid_qwen.evaluation.datasets import check, read_dataset

        logging.basicConfig(level=logging.INFO if self.verbose else logging.CRITICAL, format="%(name)s: %(message)s")
        dataset = read_dataset(self.dataset, self.folder, self.part, self.subtitles)
        with Bars() as bars:
            report = check(dataset, self.decode, bars.tell)
        if self.as_json:
            typer.echo(json.dumps(report.to_dict(), ensure_ascii=False))
        else:
            _show(report)
        return 0 if report.complete else MediaError.exit_code


def _check(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Its name: see below.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder it was downloaded to.")],
    part: Annotated[
        str | None,
        typer.Option(
            "--part", help="subset (default) or full of egoschema; val or test of longvideobench.", metavar="P"
        ),
    ] = None,
    subtitles: Annotated[
        bool, typer.Option("--subtitles", help="Read the subtitles too (videomme, longvideobench).")
    ] = False,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Read every video to its end and decode its first and last frame: finds what is broken inside, and "
            "takes as long as reading all bytes takes. Without it, files are opened, and their length is compared with "
            "what their header promises.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log; tracebacks of errors.")] = False,
) -> CheckRequest:
    return CheckRequest(dataset, folder, part, subtitles, decode, as_json, verbose)


def register_check(target: typer.Typer) -> None:
    """Give ``eval`` its command ``check``."""
    text = "Say what a benchmark's folder lacks, and what in it cannot be read, before any model is loaded."
    target.command("check", help=text, epilog=_EPILOG, cls=PanelledCommand)(_check)


def _show(report: Any) -> None:
    data = report.dataset
    typer.echo(f"{data.title} ({data.part}) in {data.folder}: {len(data.records)} questions, {report.media} media")
    files = data.annotations
    typer.echo(f"questions: {files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""))
    for problem in report.problems[:_MOST]:
        asked = f" ({_needed(problem.records)})" if problem.records else ""
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


def _needed(records: tuple[str, ...]) -> str:
    return f"for {records[0]}" + (f" and {len(records) - 1} more" if len(records) > 1 else "")
