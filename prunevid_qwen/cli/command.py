"""One function a command: its parameters are options, and groups of options are dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.cli.option import DataclassOptions, Group, Parameter, from_field
from prunevid_qwen.cli.output import Call, Done, Reporting


def command(
    app: typer.Typer,
    name: str,
    epilog: str | Callable[[], str] = "",
    short: str | None = None,
    log: int = logging.ERROR,
    text: str | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Done]], Callable[..., Done]]:
    """Register a function as a command; its docstring's first paragraph is the help.

    Args:
        app: of commands.
        name: what is typed.
        epilog: behind the options, in rich's markup: what files look like, then examples; or what returns it.
        short: in the list of commands, where that is not the help.
        log: the least level that is shown without ``--verbose``.
        text: the help, where it is not the docstring's.
        fixed: parameters that are no options, with their values.
    """

    def add(work: Callable[..., Done]) -> Callable[..., Done]:
        said = text or inspect.cleandoc(work.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        entry, rest = _entry(work, log, fixed or {})
        behind: Any = staticmethod(epilog) if callable(epilog) else epilog
        cls = type("Command", (PanelledCommand,), {"rest": rest, "explained": behind})
        app.command(name, help=said, short_help=short, cls=cls)(entry)
        return work

    return add


def _entry(work: Callable[..., Done], log: int, fixed: Mapping[str, Any]) -> tuple[Callable[..., Call], frozenset[str]]:
    """Return the function that typer calls, whose signature is the options, and the options of ``--help-all`` alone."""
    groups: dict[str, tuple[Group, tuple[str, ...]]] = {}
    options: list[Parameter] = []
    hints = get_type_hints(work, include_extras=True)
    for each in inspect.signature(work).parameters.values():
        group = _group(hints[each.name])
        if group is not None:
            own = list(group.parameters())
            groups[each.name] = (group, tuple(option.name for option in own))
            options += own
        elif (option := from_field(each.name, hints[each.name], each.default)) is not None:
            options.append(option)

    def entry(**given: Any) -> Call:
        made = {name: group.made({each: given.pop(each) for each in names}) for name, (group, names) in groups.items()}
        output = next((each for each in made.values() if isinstance(each, Reporting)), Reporting())
        return Call(work, {**given, **made, **fixed}, output, log)

    entry.__name__ = work.__name__
    entry.__signature__ = inspect.Signature([each.for_typer() for each in options])  # type: ignore[attr-defined]
    return entry, frozenset(each.name for each in options if each.said.rest)


def _group(annotation: Any) -> Group | None:
    if get_origin(annotation) is Annotated:
        return next((each for each in get_args(annotation)[1:] if isinstance(each, Group)), None)
    return DataclassOptions(annotation) if dataclasses.is_dataclass(annotation) else None  # type: ignore[arg-type]
