"""``prunevid doctor``: what this machine has of what pruning needs, and a fix for each fault."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
from typing import TYPE_CHECKING

from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, FileReporting
from prunevid_qwen.cli.pruning_options import PLUGIN
from prunevid_qwen.errors import SetupError

if TYPE_CHECKING:
    from prunevid_qwen.doctor import Examination

_INDENT = 11  # of a sentence, behind the word for its state


def doctor(
    *,
    all_families: bool = opt(False, "Check pruning on every family of models, not on three.", spelling="all"),
    plugin: list[str] | None = PLUGIN,
    output: FileReporting,
) -> Done:
    """Look for what is broken on this machine, and say how to mend it; nothing is downloaded or changed.

    Each line has one of four words:
      ok        it works
      absent    optional, and not installed
      warning   the default use works; something beside it does not
      FAULT     it breaks the default use (exit code 3)

    Examples:
      prunevid doctor
      prunevid doctor --all              the self-check of every family of models
      prunevid doctor --plugin mine.py   also whether a method of yours loads
      prunevid doctor --json             for a bug report
    """
    from rich.console import Console

    from prunevid_qwen.doctor import examine

    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as stack:
        tell = None
        if console.is_terminal and not output.quiet:
            status = stack.enter_context(console.status("Looking ..."))
            tell = lambda name: status.update(f"Looking at: {name} ...")  # noqa: E731
        found = examine(all_families, plugin or (), tell)
    width = min(shutil.get_terminal_size().columns, 120)
    return Done(found.told(), lines_of(found, width), 0 if found.ok else SetupError.exit_code)


def lines_of(found: Examination, width: int) -> str:
    """Return the report for people, in lines of at most ``width`` characters where words allow it."""
    lines, group = [], ""
    for each in found.findings:
        if each.group != group:
            lines += ["", each.group] if group else [each.group]
            group = each.group
        word = each.state.upper() if each in found.faults else each.state
        lines += _wrapped(f"  {word:<9}{each.name}: {each.said}", width)
        if each.fix:
            lines += _wrapped(f"{' ' * _INDENT}-> {each.fix}", width)
    count = found.told()["counts"]
    faults, warnings, absent = (
        f"{n} {word}{'s' * (n != 1)}"
        for n, word in ((count["fault"], "fault"), (count["warning"], "warning"), (count["absent"], "optional thing"))
    )
    said = f"{faults}: the default use is broken" if found.faults else "nothing breaks the default use"
    said += f"; {warnings}; {absent} not installed; {found.seconds:.1f} s"
    return "\n".join([*lines, "", *textwrap.wrap(said, width)])


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=" " * _INDENT, break_long_words=False, break_on_hyphens=False)
