"""``prunevid bench accuracy``: what is asked for, checked without torch; then the run, its progress and its report."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.cli.bench_speed import register_speed
from prunevid_qwen.cli.help import EXIT_CODES, PanelledCommand
from prunevid_qwen.errors import ConfigError, quoted

_EPILOG = """\
[bold]Examples[/bold]
  prunevid bench accuracy --quick                   a few minutes on two cores
  ... --out runs/mine --methods "prunevid,stage 1 + random,pool"
  ... --out runs/other --first_seed 1003500000      other videos
  ... --against eval/results/moving_shapes          is it better than what is committed, or noise?

A stopped run goes on where it was: give the same command again.
The config that reaches each budget stands in the folder's run.json.
"""
_WHAT, _HOW = "What is asked", "How it runs"


@dataclass(frozen=True)
class AccuracyRequest:
    """One call of ``prunevid bench accuracy``; None takes the default of the full or of the quick run.

    Args:
        out: folder of the results.
        quick: a small run.
        methods, conditions: names; () is all.
        budgets: layer-averaged shares of the tokens.
        videos, questions, random_seeds: how many.
        first_seed: the first video's.
        model_path: "bundled" or a folder.
        through_files: read mp4 files.
        workers: processes.
        restart: throw away what the folder holds.
        pack: leave the answers as ``answers.jsonl.xz``.
        against: folder of a run to compare with; None compares with nothing.
        command: what was typed.
    """

    out: Path
    quick: bool = False
    methods: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    budgets: tuple[float, ...] | None = None
    videos: int | None = None
    questions: int | None = None
    random_seeds: int | None = None
    first_seed: int | None = None
    model_path: str = "bundled"
    through_files: bool = False
    workers: int | None = None
    restart: bool = False
    pack: bool = False
    against: Path | None = None
    command: str = ""

    def run(self) -> int:
        """Ask, show how far it is, write the report and say where; return the exit code.

        Raises:
            KeyboardInterrupt: the run was stopped; how to go on has been said.
        """
        from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run, pack_answers
        from prunevid_qwen.evaluation.shapes.answers import read_answers
        from prunevid_qwen.evaluation.shapes.page import write_report

        if self.against is not None:
            read_answers(self.against)  # complains now, not after an hour of asking
        asked = self._asked()

        with Bars() as bars:
            try:
                accuracy_run(self.out, asked, self.workers, self.restart, bars.tell, self.command)
            except KeyboardInterrupt:
                typer.echo(f"what was measured is in {self.out}: the same command goes on where it was", err=True)
                raise
        plots = importlib.util.find_spec("matplotlib") is not None
        if not plots:
            typer.echo(
                "no plots: matplotlib is not installed (pip install 'prunevid_qwen[bench]'). What was measured is "
                "kept: the same command draws it later, and measures nothing again",
                err=True,
            )
        with bars.console.status("Writing the report"):
            report = write_report(self.out, plots)
        typer.echo(f"report: {report}\nsummary: {self.out / 'summary.json'}")
        if self.against is not None:
            from prunevid_qwen.evaluation.shapes.comparison import compare_folders

            comparison = compare_folders(self.out, self.against)
            (self.out / "comparison.md").write_text(comparison, encoding="utf-8")
            typer.echo(comparison)
        if self.pack:
            with bars.console.status("Packing the answers"):
                typer.echo(f"answers: {pack_answers(self.out)}")
        return 0

    def _asked(self) -> Any:
        from prunevid_qwen.evaluation.shapes.accuracy import QUICK, AccuracyRun
        from prunevid_qwen.evaluation.shapes.methods import methods_called
        from prunevid_qwen.evaluation.shapes.workers import Asking

        start: dict[str, Any] = dict(QUICK) if self.quick else {}
        asking: dict[str, Any] = {**start.pop("asking", {}), "model": self.model_path}
        asking["through_files"] = self.through_files
        given = {"budgets": self.budgets, "videos": self.videos, "first_seed": self.first_seed}
        start |= {name: value for name, value in given.items() if value is not None}
        of_each = {"questions": self.questions, "random_seeds": self.random_seeds}
        asking |= {name: value for name, value in of_each.items() if value is not None}
        return AccuracyRun(
            tuple(methods_called(list(self.methods))), conditions=self.conditions, asking=Asking(**asking), **start
        )


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def accuracy(
    out: Annotated[Path, _option("out", "Folder of the results. Default: runs/moving_shapes.", "FOLDER", _HOW)] = Path(
        "runs/moving_shapes"
    ),
    quick: Annotated[
        bool, _option("quick", "A few minutes: fewer videos and budgets, one random seed.", None, _HOW)
    ] = False,
    methods: Annotated[
        str, _option("methods", "Names as in the report, with commas between. Default: all.", "NAMES", _WHAT)
    ] = "",
    conditions: Annotated[
        str, _option("conditions", "plain, long, clutter, shake. Default: all.", "NAMES", _WHAT)
    ] = "",
    budgets: Annotated[
        str, _option("budgets", "Shares of the tokens, averaged over layers, such as 0.16,0.1.", "SHARES", _WHAT)
    ] = "",
    videos: Annotated[int | None, _option("videos", "How many. May grow in a later run.", "INT", _WHAT, min=1)] = None,
    questions: Annotated[
        int | None, _option("questions", "About each video, at most. Default: 12.", "INT", _WHAT, min=1)
    ] = None,
    random_seeds: Annotated[
        int | None, _option("random_seeds", "Draws of what is random. Default: 2.", "INT", _WHAT, min=1)
    ] = None,
    first_seed: Annotated[
        int | None, _option("first_seed", "The first video's; later ones count on from it.", "INT", _WHAT)
    ] = None,
    model_path: Annotated[
        str, _option("model_path", "bundled, or the folder of another model of moving shapes.", "FOLDER", _WHAT)
    ] = "bundled",
    through_files: Annotated[
        bool, _option("through_files", "Write real mp4 files and read them, instead of tensors.", None, _WHAT)
    ] = False,
    workers: Annotated[
        int | None, _option("workers", "Processes. Default: one for each core.", "INT", _HOW, min=1)
    ] = None,
    restart: Annotated[bool, _option("restart", "Throw away what the folder holds.", None, _HOW)] = False,
    pack: Annotated[
        bool, _option("pack", "Leave the answers as answers.jsonl.xz, a seventieth of the size.", None, _HOW)
    ] = False,
    against: Annotated[
        Path | None, _option("against", "Say what is better or worse than this run, or noise.", "FOLDER", _HOW)
    ] = None,
) -> AccuracyRequest:
    """Say what is asked for; nothing runs here."""
    return AccuracyRequest(
        out=out,
        quick=quick,
        methods=_names(methods),
        conditions=_names(conditions),
        budgets=tuple(_share(text) for text in _names(budgets)) or None,
        videos=videos,
        questions=questions,
        random_seeds=random_seeds,
        first_seed=first_seed,
        model_path=model_path,
        through_files=through_files,
        workers=workers,
        restart=restart,
        pack=pack,
        against=against,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def register_bench(app: typer.Typer, settings: dict[str, Any]) -> None:
    """Give the command line ``bench`` and its commands."""
    bench = typer.Typer(context_settings=settings, no_args_is_help=True)
    text = "Draw accuracy against tokens for every method, on questions about generated videos with known answers."
    bench.command("accuracy", help=text, epilog=_EPILOG + EXIT_CODES, cls=PanelledCommand)(accuracy)
    register_speed(bench)
    app.add_typer(bench, name="bench", help="Measure: accuracy of every method at equal cost, and speed.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"budgets are shares in (0, 1) with commas between, such as 0.16,0.1; got {quoted(text)}"
        ) from None
