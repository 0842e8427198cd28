"""The tree of commands. Nothing runs here, and nothing here loads torch."""

from __future__ import annotations

from typing import Annotated

import typer

from prunevid_qwen.cli.ask import register_ask
from prunevid_qwen.cli.batch import register_batch
from prunevid_qwen.cli.bench import register_bench
from prunevid_qwen.cli.config import register_config
from prunevid_qwen.cli.convert_glimpse import register_convert_glimpse
from prunevid_qwen.cli.eval_check import register_check
from prunevid_qwen.cli.eval_run import register_run
from prunevid_qwen.cli.eval_visual_cot import register_visual_cot
from prunevid_qwen.cli.methods import register_methods
from prunevid_qwen.cli.reproduce import register_reproduce
from prunevid_qwen.cli.train import register_glimpse
from prunevid_qwen.cli.train_plus import register_glimpse_plus
from prunevid_qwen.version import __version__

# Underscores are the spelling (they are the names in Python and in JSON); dashes are accepted everywhere.
_SETTINGS = {
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "help_option_names": ["--help", "-h"],
}


def _group(name: str, text: str) -> typer.Typer:
    """Give the command line a group of commands, whose help is shown where none of them is named."""
    group = typer.Typer(context_settings=_SETTINGS, add_completion=False, rich_markup_mode="rich")

    @group.callback(invoke_without_command=True)
    def alone(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    app.add_typer(group, name=name, help=text)
    return group


app = typer.Typer(
    name="prunevid",
    help="Video language models answer with a fraction of the visual tokens (PruneVid and other methods).",
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
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


register_ask(app, "ask")
register_ask(app, "demo")
register_ask(demo_app, "demo.py")
register_batch(app)
register_methods(app)
register_config(_group("config", "Show, compare and save configs: presets, files, and options over them."))
evaluate = _group("eval", "Evaluate on data sets: scores with and without pruning.")
register_run(evaluate)
register_check(evaluate)
register_visual_cot(evaluate)
register_bench(_group("bench", "Measure: accuracy of every method at equal cost, and speed."))
register_reproduce(_group("reproduce", "Run a published table anew: its figures, as theirs, beside ours."))
train = _group("train", "Train GlimpsePrune's predictor, or GlimpsePrune+.")
register_glimpse(train)
register_glimpse_plus(train)
register_convert_glimpse(app)
