"""``prunevid eval tables`` and ``prunevid eval export``: stored answers to tables and files. Neither model nor GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.help import PanelledCommand

_TABLES = """\
[bold]Examples[/bold]
  prunevid eval tables runs/mvbench
  ... --json > figures.json

Writes report.md, summary.csv and summary.json beside the answers: the same
bytes for the same answers, however many processes gave them.
"""
_EXPORT = """\
[bold]Examples[/bold]
  prunevid eval export runs/videomme --config paper       for the authors'
                                                          eval_your_results.py
  prunevid eval export runs/egoschema --file answers.csv  .json for the server,
                                                          .csv for Kaggle
"""


@dataclass(frozen=True)
class TablesRequest:
    """One call of ``prunevid eval tables``."""

    folder: Path
    as_json: bool = False
    verbose: bool = False

    def run(self) -> int:
        """Write the tables and show the main ones."""
        summary = show_tables(self.folder, self.as_json)
        if self.as_json:
            typer.echo(json.dumps(summary, ensure_ascii=False))
        return 0


@dataclass(frozen=True)
class ExportRequest:
    """One call of ``prunevid eval export``; the arguments are those of `write_export`."""

    folder: Path
    config: str | None = None
    file: Path | None = None
    partial: bool = False
    verbose: bool = False

    def run(self) -> int:
        """Write the file."""
        from prunevid_qwen.evaluation.tasks.benchmark_tables import write_export

        typer.echo(str(write_export(self.folder, self.config, self.file, self.partial)))
        return 0


def _tables(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON object on stdout.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tracebacks of errors.")] = False,
) -> TablesRequest:
    return TablesRequest(folder, as_json, verbose)


def _export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a run.")],
    config: Annotated[
        str | None, typer.Option("--config", help="Whose answers. Default: the only one.", metavar="NAME")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Where to. Default: beside the answers.", metavar="FILE")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="EgoSchema: leave out questions without an answer.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tracebacks of errors.")] = False,
) -> ExportRequest:
    return ExportRequest(folder, config, file, partial, verbose)


def register_tables(target: typer.Typer) -> None:
    """Give ``eval`` its commands ``tables`` and ``export``."""
    text = "Score the stored answers of a run and write its tables: no model, no videos."
    target.command("tables", help=text, epilog=_TABLES, cls=PanelledCommand)(_tables)
    text = "Write the answers of a run in the format that Video-MME's or EgoSchema's authors score."
    target.command("export", help=text, epilog=_EXPORT, cls=PanelledCommand)(_export)


def show_tables(folder: Path, quiet: bool = False) -> dict[str, Any]:
    """Write a run's tables; print the warnings and the table of all questions unless ``quiet``."""
    from prunevid_qwen.evaluation.protocol.tables import warnings_of
    from prunevid_qwen.evaluation.tasks.benchmark_tables import REPORT, write_tables

    summary = write_tables(folder)
    if not quiet:
        page = (folder / REPORT).read_text(encoding="utf-8")
        for title in ("## All questions", "## Tokens"):
            section = page.partition(title)[2].partition("\n## ")[0]
            typer.echo("\n".join(line for line in section.splitlines() if line.startswith("|")) + "\n")
        for warning in warnings_of(summary):
            typer.echo(f"note: {warning}")
        typer.echo(f"report: {folder / REPORT}")
    return summary
