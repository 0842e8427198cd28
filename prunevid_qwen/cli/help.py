"""``--help`` in panels, each option on a line of its own: typer's columns cut long names short at 80 columns."""

from __future__ import annotations

import sys
from typing import Any

import typer
import typer.core
from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table

from prunevid_qwen.cli.exit_codes import EXIT_CODES
from prunevid_qwen.cli.full_names import (
    FULL_NAMES,
    full_names_of_each,
    method_panels,
    offered,
    take_full_names,
    typed_of,
)

_TYPED, _ALL = "prunevid_qwen.typed", "prunevid_qwen.all"  # kept with the context, for the help
_NoSuchOption: Any = sys.modules[typer.BadParameter.__module__].NoSuchOption  # click's, wherever typer keeps its click
WIDEST = 100
_DEFAULT_PANEL = "Options"
_FULL_PANEL = "Options of one method, by full name, such as --selector.layers 3"
_ALL_WORDS = ("--help-all", "--help_all")


class PanelledCommand(typer.core.TyperCommand):
    """A command whose help names every option in full, at any width."""

    rest: frozenset[str] = frozenset()
    """Parameters that ``--help`` leaves out and ``--help-all`` shows."""
    explained: Any = ""
    """Behind the options, in rich's markup: what files look like, examples; or a function that returns it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; full names (``--selector.layers 2``) go to the one option that takes them all."""
        asks_all = any(word in _ALL_WORDS for word in args) or ("--help" in args and "--all" in args)
        if asks_all:
            ctx.meta[_ALL] = True
            args = ["--help", *(word for word in args if word not in (*_ALL_WORDS, "--help", "--all"))]
        if not any(each.name == FULL_NAMES for each in self.params):
            return super().parse_args(ctx, args)
        ctx.meta[_TYPED] = typed = typed_of(args, {str(each.name) for each in self.params})
        args, found = take_full_names(args)
        args = [*(word for name, value in found.items() for word in (f"--{FULL_NAMES}", f"{name}={value}")), *args]
        try:
            return super().parse_args(ctx, args)
        except _NoSuchOption as error:
            full, exact = offered(error.option_name, typed)
            error.possibilities = full if exact else [*full, *(error.possibilities or ())]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; the formatter, which knows plain text alone, is left empty."""
        console = Console(highlight=False)
        console.width = min(console.width, WIDEST)
        words = [each for each in self.params if each.param_type_name == "argument" and not getattr(each, "hidden", 0)]
        places = "".join(f" {each.metavar}" if each.required else f" [{each.metavar}]" for each in words)
        console.print(
            f"\n[bold]Usage:[/bold] {escape(ctx.command_path)}{escape(places)} [yellow]\\[OPTIONS][/yellow]\n"
        )
        console.print(Padding(escape(self.help or ""), (0, 0, 1, 0)))
        methods = method_panels(ctx.meta[_TYPED]) if _TYPED in ctx.meta else {}  # first: they may load plug-ins
        for title, entries in self._panels(ctx).items():
            console.print(Panel(Group(*entries), title=title, title_align="left", border_style="dim"))
        for title, options in methods.items():
            entries = [each for name, kind, text in options for each in _entry(name, kind, text)]
            console.print(Panel(Group(*entries), title=escape(title), title_align="left", border_style="dim"))
        left_out = sum(each.name in self.rest for each in self.params)
        if left_out and not ctx.meta.get(_ALL):
            console.print(f"{left_out} more options: {escape(ctx.command_path)} --help-all\n")
        explained = self.explained
        console.print(explained() if callable(explained) else explained)
        console.print("[bold]Exit codes[/bold]")
        codes = Table.grid(padding=(0, 2))
        for code, meaning in EXIT_CODES.items():
            codes.add_row(f"  {code}", escape(meaning))
        console.print(codes)
        console.print()

    def _panels(self, ctx: Any) -> dict[str, list[Any]]:
        panels: dict[str, list[Any]] = {}
        for option in self.get_params(ctx):
            if getattr(option, "hidden", False) or (option.name in self.rest and not ctx.meta.get(_ALL)):
                continue
            entries = panels.setdefault(getattr(option, "rich_help_panel", None) or _DEFAULT_PANEL, [])
            names = ", ".join(sorted(option.opts, key=len))
            if option.param_type_name == "argument":
                names = str(option.metavar)
            if getattr(option, "secondary_opts", None):
                names += " / " + ", ".join(option.secondary_opts)
            kind = None if option.param_type_name == "argument" else option.metavar
            entries += _entry(names, kind, getattr(option, "help", None) or "")
        if any(each.name == FULL_NAMES for each in self.params) and ctx.meta.get(_ALL):
            panels[_FULL_PANEL] = [*map(escape, full_names_of_each())]
        return panels


def _entry(names: str, kind: str | None, text: str) -> tuple[Any, Any]:
    shown = f" [yellow]{escape(kind)}[/yellow]" if kind else ""
    return f"[bold cyan]{escape(names)}[/bold cyan]{shown}", Padding(escape(text), (0, 0, 0, 4))
