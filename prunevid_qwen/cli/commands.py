"""The tree of commands. Nothing runs here, and nothing here loads torch."""

from __future__ import annotations

import functools
import logging
from typing import Annotated

import typer

from prunevid_qwen.cli import (
    ask,
    batch,
    bench,
    config,
    convert_glimpse,
    eval_check,
    eval_run,
    eval_visual_cot,
    methods,
    reproduce,
    train,
)
from prunevid_qwen.cli.command import PanelledGroup, command
from prunevid_qwen.version import __version__

# Underscores are the spelling (they are the names in Python and in JSON); dashes are accepted everywhere.
_SETTINGS = {
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "help_option_names": ["--help", "-h"],
}


def _help_if_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _group(name: str, text: str, **meant: str) -> typer.Typer:
    """Give the command line a group of commands, whose help is shown where none of them is named.

    Args:
        name: what is typed.
        text: its help.
        meant: words that are none of its commands, and what to type instead.
    """
    cls = type("Group", (PanelledGroup,), {"meant": meant})
    group = typer.Typer(cls=cls, context_settings=_SETTINGS, add_completion=False)
    group.callback(invoke_without_command=True)(_help_if_alone)
    app.add_typer(group, name=name, help=text)
    return group


app = typer.Typer(
    name="prunevid",
    help="Video language models answer with a fraction of the visual tokens (PruneVid and other methods).",
    cls=PanelledGroup,
    context_settings=_SETTINGS,
    rich_markup_mode="rich",
)
demo_app = typer.Typer(context_settings=_SETTINGS, add_completion=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def _prunevid(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"prunevid_qwen {__version__}")
        raise typer.Exit()
    _help_if_alone(context)


command(app, "ask", ask.ask, ask.EXAMPLES, demo=False)
for each, name in ((app, "demo"), (demo_app, "demo.py")):
    command(each, name, ask.ask, ask.OF_DEMO, text=ask.DEMO, demo=True)
command(app, "batch", batch.batch, batch.EXPLAINED)
command(app, "methods", methods.methods, methods.EXAMPLES)
command(app, "new-method", methods.new_method, methods.OF_NEW)
configs = _group("config", "Show, compare and save configs: presets, files, and options over them.")
command(configs, "show", config.show, config.OF_SHOW)
command(configs, "diff", config.diff, config.OF_DIFF)
command(configs, "save", config.save, config.OF_SAVE)
evaluate = _group(
    "eval",
    "Evaluate on data sets: scores with and without pruning.",
    **{each: f"prunevid eval run {each}" for each in eval_run.DATASETS},
)
command(evaluate, "run", eval_run.run, eval_run.OF_RUN)
command(evaluate, "tables", eval_run.tables, eval_run.OF_TABLES)
command(evaluate, "export", eval_run.export, eval_run.OF_EXPORT)
command(evaluate, "check", eval_check.check, eval_check.EXPLAINED, log=logging.CRITICAL)
command(evaluate, "visual-cot", eval_visual_cot.visual_cot, eval_visual_cot.EXAMPLES)
measure = _group("bench", "Measure: accuracy of every method at equal cost, and speed.")
command(measure, "accuracy", bench.accuracy, bench.OF_ACCURACY)
command(measure, "speed", bench.speed, bench.OF_SPEED)
published = _group("reproduce", "Run a published table anew: its figures, as theirs, beside ours.")
for name, text in reproduce.TABLES.items():
    command(
        published, name, reproduce.reproduce, functools.partial(reproduce.explained, name), text=text, published=name
    )
training = _group("train", "Train GlimpsePrune's predictor, or GlimpsePrune+.")
command(training, "glimpse", train.glimpse, train.OF_GLIMPSE, log=logging.WARNING)
command(training, "glimpse-plus", train.glimpse_plus, train.OF_PLUS, log=logging.WARNING)
command(app, "convert-glimpse", convert_glimpse.convert_glimpse, convert_glimpse.EXAMPLES)
