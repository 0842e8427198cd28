"""One function a command: its parameters are options, groups of options are one each; its help names all in full."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import logging
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable
from typing import Any

import typer
import typer.core

from prunevid_qwen.cli.option import group_of
from prunevid_qwen.cli.output import EXIT_CODES, Done, FileReporting, Reporting, outline, write
from prunevid_qwen.cli.pruning_options import (
    FULL_NAMES,
    full_names_of_each,
    method_panels,
    offered,
    spelt_out,
    typed_of,
)

_click: Any = sys.modules[typer.BadParameter.__module__]  # its exceptions, wherever this release of typer keeps them
_ALL_WORDS = ("--help-all", "--help_all")
SETTINGS = {
    "token_normalize_func": lambda token: token.replace("-", "_"),  # which are accepted everywhere
    "help_option_names": ["--help", "-h"],
    "max_content_width": 100,
}


def command(
    app: typer.Typer,
    work: Callable[..., Done],
    name: str = "",
    text: str | None = None,
    explained: Callable[[], str] | None = None,
    log: int = logging.ERROR,
    **fixed: Any,
) -> None:
    """Register a function as a command.

    Args:
        app: of commands.
        work: the function; its parameters are the options.
        name: what is typed, where that is not the function's name.
        text: the help: a paragraph, then what stands behind the options; None for the function's docstring.
        explained: returns what stands behind the options, where that takes time.
        log: the least level that is shown without ``--verbose``.
        fixed: parameters that are no options, with their values.
    """
    own = group_of(work)

    def entry(**given: Any) -> Callable[[], int]:
        return functools.partial(carry_out, work, {**own.made(given), **fixed}, log)

    entry.__signature__ = inspect.Signature([each.for_typer() for each in own.options])  # type: ignore[attr-defined]
    said, _, behind = inspect.cleandoc(text or work.__doc__ or "").partition("\n\n")
    about: dict[str, Any] = {"rest": {each.name for each in own.options if each.rest}}
    about |= {"explained": staticmethod(explained or (lambda: behind))}
    cls = type("Command", (SectionedCommand,), about)
    app.command(name or work.__name__.replace("_", "-"), help=said, cls=cls)(entry)


def group(app: typer.Typer, name: str, text: str, of_run: Collection[str] = ()) -> typer.Typer:
    """Add a group of commands; ``of_run`` are words that are none of them, and are meant for its command ``run``."""
    cls = type("Group", (SectionedGroup,), {"of_run": of_run})
    made = typer.Typer(cls=cls, context_settings=SETTINGS, add_completion=False)
    made.callback(invoke_without_command=True)(help_if_alone)
    app.add_typer(made, name=name, help=text)
    return made


def help_if_alone(context: typer.Context) -> None:
    """Print the help of a group of which no command was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def carry_out(work: Callable[..., Done], given: dict[str, Any], log: int) -> int:
    """Do a command's work, report it, and return the exit code: logging, stdout and JSON are nobody else's."""
    output = next(each for each in given.values() if isinstance(each, Reporting))
    logging.basicConfig(level=logging.INFO if output.verbose else log, format="%(name)s: %(message)s")
    with contextlib.redirect_stdout(sys.stderr):  # libraries that print spoil neither a pipe nor the one object
        result = work(**given)
    told = json.dumps(result.told, ensure_ascii=False, indent=2, default=str)
    if isinstance(output, FileReporting) and output.out is not None:
        write(output.out, f"{told}\n")
    text = outline(result.told) if result.text is None else result.text
    if (output.as_json and result.told) or (text and not output.as_json):
        typer.echo(told if output.as_json else text)
    return result.exit_code


class SectionedCommand(typer.core.TyperCommand):
    """A command whose help names every option in full, by section."""

    rest: Collection[str] = ()
    """Parameters that ``--help`` leaves out and ``--help-all`` shows."""
    explained: Callable[[], str]
    """Returns what stands behind the options: what files look like, examples."""
    everything, typed = False, typed_of(())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; full names (``--selector.layers 2``) go to the one option that takes them all."""
        self.everything = any(word in _ALL_WORDS for word in args) or ("--help" in args and "--all" in args)
        if self.everything:
            args = ["--help", *(word for word in args if word not in (*_ALL_WORDS, "--help", "--all"))]
        prunes = any(each.name == FULL_NAMES for each in self.params)
        self.typed = typed_of(args if prunes else ())  # a command without plug-ins loads none
        if prunes:
            args, full = spelt_out(args)
            args = [*(word for name, value in full.items() for word in (f"--{FULL_NAMES}", f"{name}={value}")), *args]
        try:
            return super().parse_args(ctx, args)
        except _click.NoSuchOption as error:
            error.possibilities = [*(offered(error.option_name, self.typed) if prunes else ()), *_close(error)]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        panels: dict[str, list[tuple[str, str]]] = {}
        methods = method_panels(self.typed)  # before anything is written: they may fail
        seen = [each for each in self.get_params(ctx) if not getattr(each, "hidden", False)]
        for each in seen:
            if self.everything or each.name not in self.rest:
                panels.setdefault(getattr(each, "rich_help_panel", None) or "Options", []).append(_entry(each))
        words = [each for each in seen if each.param_type_name == "argument"]
        places = "".join(f" {each.metavar}" if each.required else f" [{each.metavar}]" for each in words)
        _begin(formatter, f"{ctx.command_path}{places}", self.help)
        for title, entries in {**panels, **methods}.items():
            _section(formatter, title, entries)
        text = self.explained()
        left_out = sum(each.name in self.rest for each in seen)
        if left_out and not self.everything:
            text = f"{left_out} more options: {ctx.command_path} --help-all\n\n{text}"
        elif any(each.name == FULL_NAMES for each in self.params):
            names = "\n".join(f"  {line}" for line in full_names_of_each())
            text = f"Options of one method, by full name, such as --selector.layers 3:\n{names}\n\n{text}"
        for line in ("", *text.splitlines()):
            formatter.write(textwrap.fill(line, formatter.width, subsequent_indent=" " * 6) + "\n")
        _section(formatter, "Exit codes", [(str(code), meaning) for code, meaning in EXIT_CODES.items()])


class SectionedGroup(typer.core.TyperGroup):
    """A group of commands: help in the same layout, and for a word that it does not know what may be meant."""

    of_run: Collection[str] = ()
    """Words that are none of its commands, and are meant for its command ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; of an option that one of the commands has, that command is offered."""
        try:
            return super().parse_args(ctx, args)
        except _click.NoSuchOption as error:
            having = [name for name, each in self.commands.items() for p in each.params if error.option_name in p.opts]
            error.possibilities = _close(error)
            error.message += f". Did you mean `{ctx.command_path} {having[0]}`?" if having else ""
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; where there is none of that name, say which there are."""
        try:
            return super().resolve_command(ctx, args)
        except _click.UsageError as error:
            meant = f"{ctx.command_path} run {args[0].lower()}" if args[0].lower() in self.of_run else ""
            if "ask" in self.commands and "." in args[0]:  # a file
                meant = f"{ctx.command_path} ask"
            if meant or "Did you mean" not in error.message:
                error.message += f" Did you mean `{meant}`?" if meant else f" There are {', '.join(self.commands)}."
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _begin(formatter, f"{ctx.command_path} COMMAND", self.help)
        _section(formatter, "Options", map(_entry, self.get_params(ctx)))
        _section(formatter, "Commands", [(name, own.help or "") for name, own in self.commands.items()])


def _close(error: Any) -> list[str]:
    """Return the options that an unknown one may stand for; --help is close to whatever is short, dashes included."""
    asked, bare = error.option_name.strip("-"), {each.strip("-"): each for each in error.possibilities or ()}
    near = difflib.get_close_matches(asked, bare, len(bare) or 1)
    return [each for name, each in bare.items() if name.startswith(asked) or name in near]


def _begin(formatter: Any, usage: str, text: str | None) -> None:
    formatter.write_usage(usage, "[OPTIONS]")
    formatter.write_paragraph()
    formatter.write_text(text or "")


def _section(formatter: Any, title: str, entries: Iterable[tuple[str, str]]) -> None:
    with formatter.section(title):
        formatter.write_dl(list(entries), col_max=24)


def _entry(option: Any) -> tuple[str, str]:
    names = ", ".join(sorted(option.opts, key=len)) if option.param_type_name == "option" else ""
    off = " / " + ", ".join(option.secondary_opts) if option.secondary_opts else ""
    return " ".join(filter(None, (names + off, option.metavar))), getattr(option, "help", None) or ""
