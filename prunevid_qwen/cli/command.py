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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typer
import typer.core

from prunevid_qwen.cli.option import parts_of
from prunevid_qwen.cli.output import EXIT_CODES, Done, FileReporting, Reporting, outline
from prunevid_qwen.cli.pruning_options import (
    FULL_NAMES,
    full_names_of_each,
    method_panels,
    offered,
    spelt_out,
    typed_of,
)

_TYPED, _ALL = "prunevid_qwen.typed", "prunevid_qwen.all"  # kept with the context, for the help
_click: Any = sys.modules[typer.BadParameter.__module__]  # its exceptions, wherever this release of typer keeps them
_ALL_WORDS = ("--help-all", "--help_all")
SETTINGS = {
    "token_normalize_func": lambda token: token.replace("-", "_"),  # which are accepted everywhere
    "help_option_names": ["--help", "-h"],
    "max_content_width": 100,
}


def command(
    app: typer.Typer,
    name: str,
    work: Callable[..., Done],
    explained: str | Callable[[], str],
    log: int = logging.ERROR,
    text: str | None = None,
    **fixed: Any,
) -> None:
    """Register a function as a command.

    Args:
        app: of commands.
        name: what is typed.
        work: the function; its parameters are the options.
        explained: behind the options: what files look like, then examples; or what returns it.
        log: the least level that is shown without ``--verbose``.
        text: the help, where it is not the first paragraph of the function's docstring.
        fixed: parameters that are no options, with their values.
    """
    defaults = {name: each.default for name, each in inspect.signature(work).parameters.items()}
    own = parts_of(work, defaults, dict)

    def entry(**given: Any) -> Callable[[], int]:
        return functools.partial(carry_out, work, {**own.made(given), **fixed}, log)

    entry.__signature__ = inspect.Signature([each.for_typer() for each in own.options])  # type: ignore[attr-defined]
    said = text or inspect.cleandoc(work.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    rest = frozenset(each.name for each in own.options if each.rest)
    behind = staticmethod(explained) if callable(explained) else explained
    app.command(name, help=said, cls=type("Command", (SectionedCommand,), {"rest": rest, "explained": behind}))(entry)


def carry_out(work: Callable[..., Done], given: dict[str, Any], log: int) -> int:
    """Do a command's work, report it, and return the exit code: logging, stdout and JSON are nobody else's.

    Args:
        work: the command's function.
        given: its arguments, a `Reporting` among them.
        log: the least level of the log that is shown without ``--verbose``.
    """
    output = next(each for each in given.values() if isinstance(each, Reporting))
    logging.basicConfig(level=logging.INFO if output.verbose else log, format="%(name)s: %(message)s")
    with contextlib.redirect_stdout(sys.stderr):  # libraries that print spoil neither a pipe nor the one object
        result = work(**given)
    told = json.dumps(result.told, ensure_ascii=False, indent=2, default=str)
    if isinstance(output, FileReporting) and output.out is not None:
        output.out.write_text(f"{told}\n", encoding="utf-8")
    text = outline(result.told) if result.text is None else result.text
    if (output.as_json and result.told) or (text and not output.as_json):
        typer.echo(told if output.as_json else text)
    return result.exit_code


def group(app: typer.Typer, name: str, text: str, **meant: str) -> typer.Typer:
    """Give the command line a group of commands, whose help is shown where none of them is named.

    Args:
        app: the command line.
        name: what is typed.
        text: its help.
        meant: words that are none of its commands, and what to type instead.
    """
    made = typer.Typer(cls=type("Group", (SectionedGroup,), {"meant": meant}), context_settings=SETTINGS, add_completion=False)
    made.callback(invoke_without_command=True)(help_if_alone)
    app.add_typer(made, name=name, help=text)
    return made


def help_if_alone(context: typer.Context) -> None:
    """Print the help of a group of which no command was named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class SectionedCommand(typer.core.TyperCommand):
    """A command whose help names every option in full, by section."""

    rest: frozenset[str] = frozenset()
    """Parameters that ``--help`` leaves out and ``--help-all`` shows."""
    explained: Any = ""
    """Behind the options: what files look like, examples; or a function that returns it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; full names (``--selector.layers 2``) go to the one option that takes them all."""
        if any(word in _ALL_WORDS for word in args) or ("--help" in args and "--all" in args):
            ctx.meta[_ALL] = True
            args = ["--help", *(word for word in args if word not in (*_ALL_WORDS, "--help", "--all"))]
        names = {str(each.name) for each in self.params}
        ctx.meta[_TYPED] = typed = typed_of(args, names if FULL_NAMES in names else ())
        if FULL_NAMES in names:
            args, full = spelt_out(args)
            args = [*(word for name, value in full.items() for word in (f"--{FULL_NAMES}", f"{name}={value}")), *args]
        try:
            return super().parse_args(ctx, args)
        except _click.NoSuchOption as error:
            meant = offered(error.option_name, typed) if FULL_NAMES in names else []
            error.possibilities = [*meant, *_close(error)]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        methods = method_panels(ctx.meta[_TYPED])  # first: they may fail
        words = [each for each in self.params if each.param_type_name == "argument" and not getattr(each, "hidden", 0)]
        places = "".join(f" {each.metavar}" if each.required else f" [{each.metavar}]" for each in words)
        _begin(formatter, f"{ctx.command_path}{places}", self.help)
        panels: dict[str, list[tuple[str, str]]] = {}
        everything = ctx.meta.get(_ALL)
        for each in self.get_params(ctx):
            if not getattr(each, "hidden", False) and (everything or each.name not in self.rest):
                panels.setdefault(getattr(each, "rich_help_panel", None) or "Options", []).append(_entry(each))
        for title, entries in {**panels, **methods}.items():
            _section(formatter, title, entries)
        full = full_names_of_each() if everything and any(each.name == FULL_NAMES for each in self.params) else []
        if full:
            with formatter.section("Options of one method, by full name, such as --selector.layers 3"):
                for line in full:
                    formatter.write_text(line)
        left_out = sum(each.name in self.rest for each in self.params)
        if left_out and not everything:
            formatter.write(f"\n{left_out} more options: {ctx.command_path} --help-all\n")
        text = self.explained() if callable(self.explained) else self.explained
        for line in ("", *text.splitlines()):
            formatter.write(textwrap.fill(line, formatter.width, subsequent_indent=" " * 6) + "\n")
        _section(formatter, "Exit codes", [(str(code), meaning) for code, meaning in EXIT_CODES.items()])


class SectionedGroup(typer.core.TyperGroup):
    """A group of commands: help in the same layout, and for a word that it does not know what may be meant."""

    meant: Mapping[str, str] = {}
    """Words that are none of its commands -> what to type instead."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; of an option that one of the commands has, that command is offered."""
        try:
            return super().parse_args(ctx, args)
        except _click.NoSuchOption as error:
            having = [name for name, each in self.commands.items() for p in each.params if error.option_name in p.opts]
            error.possibilities = _close(error)
            if having:
                error.message += f". Did you mean `{ctx.command_path} {having[0]}`?"
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; where there is none of that name, say which there are."""
        try:
            return super().resolve_command(ctx, args)
        except _click.UsageError as error:
            meant = self.meant.get(args[0].lower())
            if "ask" in self.commands and "." in args[0]:  # a file
                meant = f"{ctx.command_path} ask"
            if meant is not None:
                error.message += f" Did you mean `{meant}`?"
            elif "Did you mean" not in error.message:
                error.message += f" There are {', '.join(self.commands)}."
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _begin(formatter, f"{ctx.command_path} COMMAND", self.help)
        _section(formatter, "Options", map(_entry, self.get_params(ctx)))
        _section(formatter, "Commands", [(name, own.help or "") for name, own in self.commands.items()])


def _close(error: Any) -> list[str]:
    """Return the options that an unknown one may stand for; --help is close to whatever is short, dashes included."""
    asked = error.option_name.strip("-")
    return [
        each
        for each in error.possibilities or ()
        if each.strip("-").startswith(asked) or difflib.get_close_matches(asked, [each.strip("-")])
    ]


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
