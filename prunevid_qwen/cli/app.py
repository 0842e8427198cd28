"""Running a command: exit codes, errors as a sentence or as JSON, Ctrl-C and the other signals that end a run."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import typer

from prunevid_qwen.cli.commands import app, demo_app
from prunevid_qwen.cli.options import spell_out_booleans
from prunevid_qwen.cli.request import Request, RunsItself
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
        0 answered; 2 bad option; 3 environment; 4 media; 5 pruning not applied; 129, 130 or 143 ended by SIGHUP,
        SIGINT (Ctrl-C) or SIGTERM. What is none of these is a bug, and its traceback is not hidden.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int:
        command = typer.main.get_command(commands or (demo_app if program == "demo.py" else app))
        try:
            request = command.main(spell_out_booleans(words), prog_name=program, standalone_mode=False)
        except typer.Abort as error:  # what Ctrl-C becomes while options are read
            raise KeyboardInterrupt from error
        with interruptible():
            if isinstance(request, RunsItself):
                return request.run()
            if not isinstance(request, Request):  # --help and --version are done by now
                return int(request or 0)
            return _answer(request)

    return _exit_code(work, program, "--json" in words, "--verbose" in words)


def run_script(work: Callable[..., None], typed: bool = True) -> NoReturn:
    """Run a script's function as a program that ends as ``prunevid`` does: the same exit codes and signals.

    Args:
        work: the function, whose annotations are the options.
        typed: False for a function that takes no argument and reads its options itself.
    """
    if not typed:

        def interruptibly() -> int:
            with interruptible():
                work()
            return 0

        sys.exit(_exit_code(interruptibly, sys.argv[0], False, False))

    @functools.wraps(work)
    def later(*given: Any, **options: Any) -> Any:
        return _Script(functools.partial(work, *given, **options))

    commands = typer.Typer(add_completion=False)
    commands.command()(later)
    sys.exit(main(program=sys.argv[0], commands=commands))


class _Script:
    """A script's work, done after its options are read: there, a signal would be the option parser's."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def run(self) -> int:
        self._work()
        return 0


def _exit_code(work: Callable[[], int], program: str, as_json: bool, verbose: bool) -> int:
    """Do the work; what it raises becomes a message and an exit code."""
    try:
        return work()
    except KeyboardInterrupt as interruption:
        number = signal_of(interruption)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        return _report("Interrupted", f"interrupted{by}", SIGNALLED + number, as_json)
    except PruneVidError as error:
        if verbose:
            traceback.print_exc()
        return _report(type(error).__name__, str(error), error.exit_code, as_json)
    except _UsageError as error:
        path = error.ctx.command_path if error.ctx else program
        return _report("UsageError", f"{error.format_message()}\nSee: {path} --help", USAGE, as_json)


def _answer(request: Request) -> int:
    request.check()
    # Imported only now: everything above answers in tenths of a second, without torch.
    from prunevid_qwen.cli.answer import answer, compare, load
    from prunevid_qwen.cli.report import Report

    # What a person must know of a video stands in the receipt's warnings, which the report shows.
    logging.basicConfig(level=logging.INFO if request.verbose else logging.ERROR, format="%(name)s: %(message)s")
    report = Report(request)
    # Libraries that print must not spoil the one object that stdout carries under --json.
    quiet_stdout = contextlib.redirect_stdout(sys.stderr) if request.as_json else contextlib.nullcontext()
    with quiet_stdout, _noting(report.logged) if request.verbose else contextlib.nullcontext():
        with report.waiting("Loading the model"):
            model = load(request)
        if request.compare:
            with report.encoding() as progress, report.telling() as tell:
                outcome = compare(model, request, progress=progress, tell=tell)
        else:
            with report.encoding() as progress:
                outcome = answer(model, request, stream=report.streamer, progress=progress)
    report.show(outcome)
    return 0


@contextlib.contextmanager
def _noting(logged: set[str]) -> Iterator[None]:
    """Note the warnings that are logged inside the block, so that the report does not show them a second time."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.add(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("prunevid_qwen")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _report(kind: str, message: str, exit_code: int, as_json: bool) -> int:
    typer.echo(f"error: {message}" if exit_code < SIGNALLED else f"\n{message}", err=True)
    if as_json:
        typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}))
    return exit_code
