"""One function a command: its parameters are options, groups of options are one each; its help names all in full.

The help is in panels, each option on a line of its own: typer's columns cut long names short at 80 columns.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
import typer.core
from rich.console import Console
from rich.console import Group as Lines
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table

from prunevid_qwen.cli.option import Group, Parameter, dataclass_group, parameter
from prunevid_qwen.cli.options import FULL_NAMES, full_names_of_each, method_panels, offered, spelt_out, typed_of
from prunevid_qwen.cli.output import EXIT_CODES, Call, Done, Reporting

_TYPED, _ALL = "prunevid_qwen.typed", "prunevid_qwen.all"  # kept with the context, for the help
_NoSuchOption: Any = sys.modules[typer.BadParameter.__module__].NoSuchOption  # click's, wherever typer keeps its click
_UsageError: Any = sys.modules[typer.BadParameter.__module__].UsageError
_WIDEST = 100
_FULL_PANEL = "Options of one method, by full name, such as --selector.layers 3"
_ALL_WORDS = ("--help-all", "--help_all")


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
        explained: behind the options, in rich's markup: what files look like, then examples; or what returns it.
        log: the least level that is shown without ``--verbose``.
        text: the help, where it is not the first paragraph of the function's docstring.
        fixed: parameters that are no options, with their values.
    """
    groups: dict[str, Group] = {}
    options: list[Parameter] = []
    hints = get_type_hints(work, include_extras=True)
    for each in inspect.signature(work).parameters.values():
        group = _group(hints[each.name])
        if group is not None:
            groups[each.name] = group
        options += group.options if group else parameter(each.name, hints[each.name], each.default)

    def entry(**given: Any) -> Call:
        made = {
            name: group.made({option.name: given.pop(option.name) for option in group.options})
            for name, group in groups.items()
        }
        output = next(each for each in made.values() if isinstance(each, Reporting))
        return Call(work, {**given, **made, **fixed}, output, log)

    entry.__signature__ = inspect.Signature([each.for_typer() for each in options])  # type: ignore[attr-defined]
    said = text or inspect.cleandoc(work.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    rest = frozenset(each.name for each in options if each.said.rest)
    behind = staticmethod(explained) if callable(explained) else explained
    app.command(name, help=said, cls=type("Command", (PanelledCommand,), {"rest": rest, "explained": behind}))(entry)


def _group(annotation: Any) -> Group | None:
    if get_origin(annotation) is Annotated:
        return next((each for each in get_args(annotation)[1:] if isinstance(each, Group)), None)
    return dataclass_group(annotation) if dataclasses.is_dataclass(annotation) else None  # type: ignore[arg-type]


class PanelledCommand(typer.core.TyperCommand):
    """A command whose help names every option in full, at any width."""

    rest: frozenset[str] = frozenset()
    """Parameters that ``--help`` leaves out and ``--help-all`` shows."""
    explained: Any = ""
    """Behind the options, in rich's markup: what files look like, examples; or a function that returns it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; full names (``--selector.layers 2``) go to the one option that takes them all."""
        if any(word in _ALL_WORDS for word in args) or ("--help" in args and "--all" in args):
            ctx.meta[_ALL] = True
            args = ["--help", *(word for word in args if word not in (*_ALL_WORDS, "--help", "--all"))]
        if not self._takes_full_names():
            try:
                return super().parse_args(ctx, args)
            except _NoSuchOption as error:
                error.possibilities = _close(error)
                raise
        ctx.meta[_TYPED] = typed = typed_of(args, {str(each.name) for each in self.params})
        args, found = spelt_out(args)
        args = [*(word for name, value in found.items() for word in (f"--{FULL_NAMES}", f"{name}={value}")), *args]
        try:
            return super().parse_args(ctx, args)
        except _NoSuchOption as error:
            full, exact = offered(error.option_name, typed)
            error.possibilities = full if exact else [*full, *_close(error)]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; the formatter, which knows plain text alone, is left empty."""
        methods = (
            method_panels(ctx.meta[_TYPED]) if _TYPED in ctx.meta else {}
        )  # first: they may fail, or load plug-ins
        words = [each for each in self.params if each.param_type_name == "argument" and not getattr(each, "hidden", 0)]
        places = "".join(f" {each.metavar}" if each.required else f" [{each.metavar}]" for each in words)
        console = _begun(ctx, places, self.help)
        panels = self._panels(ctx)
        for title, options in methods.items():
            panels[escape(title)] = [line for option in options for line in _entry(*option)]
        _print_panels(console, panels)
        left_out = sum(each.name in self.rest for each in self.params)
        if left_out and not ctx.meta.get(_ALL):
            console.print(f"{left_out} more options: {escape(ctx.command_path)} --help-all\n")
        console.print(self.explained() if callable(self.explained) else self.explained)
        console.print("[bold]Exit codes[/bold]")
        codes = Table.grid(padding=(0, 2))
        for code, meaning in EXIT_CODES.items():
            codes.add_row(f"  {code}", escape(meaning))
        console.print(codes)
        console.print()

    def _takes_full_names(self) -> bool:
        return any(each.name == FULL_NAMES for each in self.params)

    def _panels(self, ctx: Any) -> dict[str, list[Any]]:
        panels: dict[str, list[Any]] = {}
        for option in self.get_params(ctx):
            if getattr(option, "hidden", False) or (option.name in self.rest and not ctx.meta.get(_ALL)):
                continue
            panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).extend(_entry_of(option))
        if self._takes_full_names() and ctx.meta.get(_ALL):
            panels[_FULL_PANEL] = [*map(escape, full_names_of_each())]
        return panels


class PanelledGroup(typer.core.TyperGroup):
    """A group of commands: help in the same layout, and for a word that it does not know what may be meant."""

    meant: Mapping[str, str] = {}
    """Words that are none of its commands -> what to type instead."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; of an option that one of the commands has, that command is offered."""
        try:
            return super().parse_args(ctx, args)
        except _NoSuchOption as error:
            having = [
                name for name, each in self.commands.items() if any(error.option_name in p.opts for p in each.params)
            ]
            error.possibilities = _close(error)
            if having:
                error.message += f". Did you mean `{ctx.command_path} {having[0]}`?"
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; where there is none of that name, say which there are."""
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            meant = self.meant.get(args[0].lower())
            if "ask" in self.commands and "." in args[0]:  # a file
                meant = f"{ctx.command_path} ask"
            if meant is not None:
                error.message += f" Did you mean `{meant}`?"
            elif "Did you mean" not in error.message:
                error.message += f" There are {', '.join(self.commands)}."
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; the formatter, which knows plain text alone, is left empty."""
        options = [each for option in self.get_params(ctx) for each in _entry_of(option)]
        commands = [each for name, own in self.commands.items() for each in _entry(name, None, own.help or "")]
        _print_panels(_begun(ctx, " COMMAND", self.help), {"Options": options, "Commands": commands})


def _close(error: Any) -> list[str]:
    """Return the options that an unknown one may stand for; --help is close to whatever is short, dashes included."""
    asked = error.option_name.strip("-")
    return [
        each
        for each in error.possibilities or ()
        if each.strip("-").startswith(asked) or difflib.get_close_matches(asked, [each.strip("-")])
    ]


def _begun(ctx: Any, places: str, text: str | None) -> Console:
    """Print the head of a help, and return what the rest is printed on."""
    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    console.print(f"\n[bold]Usage:[/bold] {escape(ctx.command_path)}{escape(places)} [yellow]\\[OPTIONS][/yellow]\n")
    console.print(Padding(escape(text or ""), (0, 0, 1, 0)))
    return console


def _print_panels(console: Console, panels: Mapping[str, Sequence[Any]]) -> None:
    for title, entries in panels.items():
        console.print(Panel(Lines(*entries), title=title, title_align="left", border_style="dim"))


def _entry_of(option: Any) -> tuple[Any, Any]:
    names, kind = ", ".join(sorted(option.opts, key=len)), option.metavar
    if option.param_type_name == "argument":
        names, kind = str(option.metavar), None
    if option.secondary_opts:
        names += " / " + ", ".join(option.secondary_opts)
    return _entry(names, kind, getattr(option, "help", None) or "")


def _entry(names: str, kind: str | None, text: str) -> tuple[Any, Any]:
    shown = f" [yellow]{escape(kind)}[/yellow]" if kind else ""
    return f"[bold cyan]{escape(names)}[/bold cyan]{shown}", Padding(escape(text), (0, 0, 0, 4))
