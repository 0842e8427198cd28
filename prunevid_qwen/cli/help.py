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

from prunevid_qwen.cli.full_names import FULL_NAMES, full_names_of_each, take_full_names
from prunevid_qwen.cli.method_options import method_panels, offered, typed_of
from prunevid_qwen.cli.options import field_help

_TYPED = "prunevid_qwen.typed"  # what was typed of methods, kept with the context for the help
_NoSuchOption: Any = sys.modules[typer.BadParameter.__module__].NoSuchOption  # click's, wherever typer keeps its click
WIDEST = 100
_DEFAULT_PANEL = "Options"
_FULL_PANEL = "Options of one method, by full name, such as --selector.layers 3"
EXIT_CODES = """
[bold]Exit codes[/bold]
  0 done; 2 bad option; 3 environment (device, package, network); 4 media or data;
  5 pruning was asked for and not applied;
  130 ended by Ctrl-C, 129 by a closed terminal (SIGHUP), 143 by SIGTERM:
  what is stored stays whole, and the same command goes on
"""


class PanelledCommand(typer.core.TyperCommand):
    """A command whose help names every option in full, at any width."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; full names (``--selector.layers 2``) go to the one option that takes them all."""
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
        places = "".join(f" {each.metavar}" for each in self.params if each.param_type_name == "argument")
        console.print(f"\n[bold]Usage:[/bold] {escape(ctx.command_path)}{places} [yellow]\\[OPTIONS][/yellow]\n")
        console.print(Padding(escape(self.help or ""), (0, 0, 1, 0)))
        methods = self._of_methods(ctx)  # before the panels, which list those of plug-ins too
        for title, entries in self._panels(ctx).items():
            console.print(Panel(Group(*entries), title=title, title_align="left", border_style="dim"))
        for title, options in methods.items():
            entries = [each for name, kind, text in options for each in _entry(name, kind, text)]
            console.print(Panel(Group(*entries), title=escape(title), title_align="left", border_style="dim"))
        console.print(self.epilog or "")

    def _of_methods(self, ctx: Any) -> dict[str, list[tuple[str, str, str]]]:
        return method_panels(ctx.meta[_TYPED], field_help) if _TYPED in ctx.meta else {}

    def _panels(self, ctx: Any) -> dict[str, list[Any]]:
        panels: dict[str, list[Any]] = {}
        for option in self.get_params(ctx):
            if getattr(option, "hidden", False):
                continue
            entries = panels.setdefault(getattr(option, "rich_help_panel", None) or _DEFAULT_PANEL, [])
            names = ", ".join(option.opts)
            if getattr(option, "secondary_opts", None):
                names += " / " + ", ".join(option.secondary_opts)
            entries += _entry(names, option.metavar, getattr(option, "help", None) or "")
        if any(each.name == FULL_NAMES for each in self.params):
            panels[_FULL_PANEL] = [*map(escape, full_names_of_each())]
        return panels


def _entry(names: str, kind: str | None, text: str) -> tuple[Any, Any]:
    shown = f" [yellow]{escape(kind)}[/yellow]" if kind else ""
    return f"[bold cyan]{names}[/bold cyan]{shown}", Padding(escape(text), (0, 0, 0, 4))
