"""Running a command: exit codes, errors as a sentence or as JSON, Ctrl-C and the other signals that end a run."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer

from prunevid_qwen.cli.commands import app, demo_app
from prunevid_qwen.cli.old_spellings import respelt
from prunevid_qwen.cli.output import Call, FileReporting, outline
from prunevid_qwen.errors import PruneVidError
from prunevid_qwen.processes.interruption import interruptible, signal_of

USAGE, SIGNALLED = 2, 128  # plus the signal's number, as shells have it
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's class, wherever this release of typer keeps its click


def run() -> NoReturn:
    """Entry point of the console script ``prunevid``."""
    sys.exit(main())


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
    try:
        command = typer.main.get_command(commands or (demo_app if program == "demo.py" else app))
        spelt = words if commands else respelt(words, functools.partial(typer.echo, err=True))
        try:
            call = command.main(spelt, prog_name=program, standalone_mode=False)
        except typer.Abort as error:  # what Ctrl-C becomes while options are read
            raise KeyboardInterrupt from error
        with interruptible():
            if isinstance(call, functools.partial):  # a script's
                call = call()
            return _run(call) if isinstance(call, Call) else int(call or 0)  # --help and --version are done by now
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
        return _report(type(error).__name__, _as_typed(str(error)), error.exit_code, as_json)
    except _UsageError as error:
        path = error.ctx.command_path if error.ctx else program
        return _report("UsageError", f"{error.format_message()}\nSee: {path} --help", USAGE, as_json)


def run_script(work: Callable[..., None]) -> NoReturn:
    """Run a script's function, whose annotations are the options, as a program that ends as ``prunevid`` does."""

    @functools.wraps(work)
    def later(*given: Any, **options: Any) -> Any:  # after the options are read: there, a signal is the parser's
        return functools.partial(work, *given, **options)

    commands = typer.Typer(add_completion=False)
    commands.command()(later)
    sys.exit(main(program=sys.argv[0], commands=commands))


def _run(call: Call) -> int:
    """Do a command's work, report it, and return the exit code: logging, stdout and JSON are nobody else's."""
    output = call.output
    logging.basicConfig(level=logging.INFO if output.verbose else call.log, format="%(name)s: %(message)s")
    with contextlib.redirect_stdout(sys.stderr):  # libraries that print spoil neither a pipe nor the one object
        result = call.work(**call.given)
    text = json.dumps(result.told, ensure_ascii=False, indent=2, default=str) + "\n"
    if isinstance(output, FileReporting) and output.out is not None:
        output.out.write_text(text, encoding="utf-8")
    if not output.as_json and result.show is not None:
        result.show()
    elif result.told:
        typer.echo(text if output.as_json else outline(result.told) + "\n", nl=False)
    return result.exit_code


def _as_typed(message: str) -> str:
    """Return an error of Python's arguments in the spelling of options: device='cpu' is typed --device cpu."""
    return re.sub(r"\b(device|model_path|glimpse_path)='([^'\s]+)'", r"--\1 \2", message)


def _report(kind: str, message: str, exit_code: int, as_json: bool) -> int:
    typer.echo(f"error: {message}" if exit_code < SIGNALLED else f"\n{message}", err=True)
    if as_json:
        typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}))
    return exit_code
