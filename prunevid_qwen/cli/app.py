"""The tree of commands, and running one: exit codes, errors as a sentence or as JSON, signals. Loads no torch."""

from __future__ import annotations

import functools
import json
import logging
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from prunevid_qwen.cli import (
    ask,
    bench,
    browser,
    catalogue,
    chat,
    doctor,
    evaluate,
    lmms,
    prompt_cost,
    reproduce,
    server,
    show,
    train,
    tune,
    tune_budget,
)
from prunevid_qwen.cli.command import SETTINGS, SectionedGroup, command, group, help_if_alone
from prunevid_qwen.cli.output import SIGNALLED
from prunevid_qwen.errors import ConfigError, PruneVidError
from prunevid_qwen.processes.interruption import interruptible, signal_of
from prunevid_qwen.version import __version__

USAGE = 2
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's class, wherever this release of typer keeps its click

# Spellings of 0.1 that still work, with a hint, until the release after 0.2.
OLD_COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("train-glimpse",): ("train", "glimpse"),
    ("train-glimpse-plus",): ("train", "glimpse-plus"),
}
"""Words of a command that has another name now."""
OLD_OPTIONS: dict[tuple[str, ...], dict[str, str]] = {
    ("eval", "run"): {"--config": "--configs", "--compare": "--configs", "--dataset": "NAME"},
    ("eval", "export"): {"--file": "--out"},
    ("eval", "visual-cot"): {"--config": "--configs", "--check": "--dry_run"},
    ("bench", "speed"): {"--preset": "--configs", "--attention": "--attn_implementation"},
    ("train", "glimpse"): {"--check": "--dry_run"},
}
"""Options of a command, by its present words, that have another name now; NAME is its first word without dashes."""
_PAGE = "--app"
"""Of the demo: the page instead."""

app = typer.Typer(
    name="prunevid",
    help="Video language models answer with a fraction of the visual tokens (PruneVid and other methods).",
    cls=SectionedGroup,
    context_settings=SETTINGS,
)
demo_app = typer.Typer(context_settings=SETTINGS, add_completion=False)


@app.callback(invoke_without_command=True)
def _prunevid(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"prunevid_qwen {__version__}")
        raise typer.Exit()
    help_if_alone(context)


command(app, ask.ask, demo=False)
for each, name in ((app, "demo"), (demo_app, "demo.py")):
    command(each, ask.ask, name, ask.OF_DEMO, demo=True)
configs = group(app, "config", "Show, compare and save configs: presets, files, and options over them.")
evaluation = group(app, "eval", "Evaluate on data sets: scores with and without pruning.", evaluate.DATASETS)
measure = group(app, "bench", "Measure: accuracy of every method at equal cost, and speed.")
tuning = group(app, "tune", "Measure values of options on your model and your videos, without labels.")
published = group(app, "reproduce", "Run a published table anew: its figures, as theirs, beside ours.")
training = group(app, "train", "Train GlimpsePrune's predictor, or GlimpsePrune+.")
_LOG = {evaluate.check: logging.CRITICAL, train.glimpse: logging.WARNING, train.glimpse_plus: logging.WARNING}
for within, works in (
    (
        app,
        (
            chat.chat,
            browser.app,
            server.serve,
            show.show,
            ask.batch,
            catalogue.methods,
            catalogue.models,
            catalogue.new_method,
            prompt_cost.estimate,
            doctor.doctor,
            train.convert_glimpse,
        ),
    ),
    (configs, (catalogue.show, catalogue.diff, catalogue.save)),
    (evaluation, (evaluate.run, evaluate.tables, evaluate.export, evaluate.check, evaluate.visual_cot, lmms.lmms)),
    (measure, (bench.accuracy, bench.speed)),
    (tuning, (tune.vision, tune_budget.budget)),
    (training, (train.glimpse, train.glimpse_plus)),
):
    for work in works:
        command(within, work, log=_LOG.get(work, logging.ERROR))
for name, text in reproduce.TABLES.items():
    explained = functools.partial(reproduce.explained, name)
    command(published, reproduce.reproduce, name, text, explained, published=name)


def run() -> NoReturn:
    """Entry point of the console script ``prunevid``."""
    sys.exit(main())


@functools.cache
def _tree(commands: typer.Typer) -> Any:
    """Return click's commands of typer's, which take longer to make than most calls to run."""
    return typer.main.get_command(commands)


def main(arguments: Sequence[str] | None = None, program: str = "prunevid", commands: typer.Typer | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        arguments: the words after the program's name; None takes those of this process.
        program: "prunevid", with subcommands, or "demo.py", which is `prunevid demo` without naming it.
        commands: of a script of its own; None for those of ``program``.

    Returns:
        One of `EXIT_CODES`. What is none of these is a bug, and its traceback is not hidden.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    if program == "demo.py" and _PAGE in words:  # the one command of the script that is a command of its own
        program, words = "prunevid", ["demo", *words]
    try:
        tree = _tree(commands or (demo_app if program == "demo.py" else app))
        spelt = words if commands else respelt(words)
        try:
            call = tree.main(spelt, prog_name=program, standalone_mode=False)
        except typer.Abort as error:  # what Ctrl-C becomes while options are read
            raise KeyboardInterrupt from error
        with interruptible():
            return int((call() if callable(call) else call) or 0)  # --help and --version are done by now
    except KeyboardInterrupt as interruption:
        number = signal_of(interruption)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        exit_code = _report("Interrupted", f"interrupted{by}", SIGNALLED + number, as_json)
        if hasattr(interruption, "kept"):
            typer.echo(interruption.kept, err=True)
        return exit_code
    except PruneVidError as error:
        if "--verbose" in words:
            traceback.print_exc()
        # an error of Python's arguments in the spelling of options: device='cpu' is typed --device cpu
        message = re.sub(r"\b(device|model_path|glimpse_path)='([^'\s]+)'", r"--\1 \2", str(error))
        return _report(type(error).__name__, message, error.exit_code, as_json)
    except _UsageError as error:
        path = error.ctx.command_path if error.ctx else program
        return _report("UsageError", f"{error.format_message()}\nSee: {path} --help", USAGE, as_json)


def respelt(words: Sequence[str]) -> list[str]:
    """Return a command line in today's spelling, and say on stderr what to type instead of an old one.

    Raises:
        ConfigError: two spellings of one option stand there.
    """

    def hint(old: str, new: str) -> None:
        typer.echo(f"note: `{old}` is now `{new}`; the old spelling works until 0.3", err=True)

    rest = list(words)
    if rest[:1] == ["demo"] and _PAGE in rest:
        return ["app", *(word for word in rest[1:] if word != _PAGE)]
    for old, new in OLD_COMMANDS.items():
        if tuple(rest[: len(old)]) == old:
            hint(" ".join(old), " ".join(new))
            rest[: len(old)] = new
    command = next((each for each in OLD_OPTIONS if tuple(rest[: len(each)]) == each), ())
    renamed, seen = OLD_OPTIONS.get(command, {}), dict[str, str]()
    rest, made, first = rest[len(command) :], [], []
    while rest and rest[0] != "--":
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        name = option.replace("-", "_").replace("__", "--", 1)
        today = renamed.get(name, name)
        if today in renamed.values() and seen.setdefault(today, name) != name:
            raise ConfigError(f"{seen[today]} and {name} say the same thing twice: pass {today} alone")
        if name not in renamed:
            made.append(word)
            continue
        hint(name, today)
        if today.startswith("--"):
            made.append(f"{today}{equals}{value}")
        elif equals or rest:
            first.append(value if equals else rest.pop(0))
    return [*command, *first, *made, *rest]


def run_script(work: Callable[..., None]) -> NoReturn:
    """Run a script's function, whose annotations are the options, as a program that ends as ``prunevid`` does."""

    @functools.wraps(work)
    def later(*given: Any, **options: Any) -> Any:  # after the options are read: there, a signal is the parser's
        return functools.partial(work, *given, **options)

    commands = typer.Typer(add_completion=False)
    commands.command()(later)
    sys.exit(main(program=sys.argv[0], commands=commands))


def _report(kind: str, message: str, exit_code: int, as_json: bool) -> int:
    typer.echo(f"error: {message}" if exit_code < SIGNALLED else f"\n{message}", err=True)
    if as_json:
        typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}))
    return exit_code
