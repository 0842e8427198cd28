"""What the parameters of a command say of themselves: an option, a word, or a group of options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import typer

from prunevid_qwen.config.typed import kinds_of, read_value

_SAID = "option"
_KINDS = {bool: "true|false", int: "INT", float: "FLOAT", str: "NAME", type(None): "none"}


@dataclass(frozen=True)
class Opt:
    """How an option is spelt and explained.

    Args:
        text: its help.
        kind: what stands for its value in the help; None for a switch.
        panel: its panel in the help.
        name: its spelling, where that is not the parameter's name.
        short: a letter, ``-m``.
        rest: left out of ``--help`` and shown by ``--help-all``.
        least: the smallest number that it takes.
        word: a word of the command line without ``--``.
        hidden: shown by no help.
        off: a second spelling, that turns a switch off.
    """

    text: str
    kind: str | None = None
    panel: str | None = None
    name: str | None = None
    short: str | None = None
    rest: bool = False
    least: float | None = None
    word: bool = False
    hidden: bool = False
    off: str | None = None


def opt(default: Any, text: str, kind: str | None = None, panel: str | None = None, **more: Any) -> Any:
    """Return the default of a parameter or of a dataclass's field that is an option; ``...`` where it has to be given.

    Args:
        default: its value where it is not given.
        text, kind, panel, more: as in `Opt`.
    """
    given: dict[str, Any] = {} if default is ... else {"default": default}
    return field(**given, metadata={_SAID: Opt(text, kind, panel, **more)})


def word(default: Any, kind: str, text: str, **more: Any) -> Any:
    """Return the default of a parameter that is a word without ``--``."""
    return opt(default, text, kind, word=True, **more)


class Parameter(NamedTuple):
    """An option before typer sees it."""

    name: str
    type: Any
    default: Any
    said: Opt

    def for_typer(self) -> inspect.Parameter:
        """Return it as a keyword parameter of the function that typer calls."""
        said = self.said
        how: dict[str, Any] = {"metavar": said.kind, "help": said.text, "hidden": said.hidden, "show_default": False}
        if said.word:
            info: Any = typer.Argument(**how)
        else:
            spelling = f"--{said.name or self.name}" + (f"/--{said.off}" if said.off else "")
            names = (spelling, said.short) if said.short else (spelling,)
            info = typer.Option(*names, rich_help_panel=said.panel, min=said.least, **how)
        default = inspect.Parameter.empty if self.default is dataclasses.MISSING else self.default
        kind: Any = Annotated[self.type, info]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def parameter(name: str, kind: Any, given: Any) -> list[Parameter]:
    """Return the option that a default made by `opt` stands for; none of another default."""
    said = given.metadata.get(_SAID) if isinstance(given, dataclasses.Field) else None
    return [] if said is None else [Parameter(name, kind, given.default, said)]


class Group(NamedTuple):
    """Options that are one parameter of a command, and what makes it of their values by name."""

    options: Sequence[Parameter]
    made: Callable[[dict[str, Any]], Any]


def dataclass_group(cls: type) -> Group:
    """Return the fields of a dataclass that are options."""
    hints = get_type_hints(cls)
    found = [each for own in dataclasses.fields(cls) for each in parameter(own.name, hints[own.name], own)]
    return Group(found, lambda given: cls(**given))


class Explained(NamedTuple):
    """A field of a dataclass of another room, for ``--help``: its type, and kind of value, help and default as text."""

    name: str
    type: Any
    kind: str
    text: str
    default: str


def explained(
    cls: type, choices: Mapping[str, Sequence[str]], typed_as: Any = lambda name, kind: kind
) -> Iterator[Explained]:
    """Return an `Explained` for each field that the constructor takes; the docstring's ``Args:`` are the help.

    Args:
        cls: the dataclass.
        choices: words of fields that take one of several.
        typed_as: name and type of a field -> the type that is shown.
    """
    said, hints = field_help(cls), get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if each.init:
            kind = typed_as(each.name, hints.get(each.name, str))
            shown_kind = kind_of(kind, choices.get(each.name, ()))
            default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            text = said.get(each.name, "")
            text = re.sub(r"\b(\w+)=None\b", r"\1=none", text[:1].upper() + text[1:].replace("`", ""))
            yield Explained(each.name, kind, shown_kind, text, f"Default: {shown(default)}.")


def documented(
    cls: type,
    panel: str,
    without: Collection[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    pairs: Collection[str] = (),
    defaults: bool = True,
) -> Group:
    """Return the fields of a dataclass of another room as options; their values are a dict of those that were given.

    Args:
        cls: the dataclass.
        panel: of all of them.
        without: fields that are no option.
        choices: words of fields that take one of several.
        pairs: fields that are dicts, typed as OPTION=VALUE any number of times, and left as they were typed.
        defaults: say the fields' defaults in the help.
    """
    options = []
    kinds: dict[str, Any] = {}
    for name, kind, shown_kind, text, default in explained(cls, choices or {}):
        if name in without:
            continue
        said = Opt(f"{text} {default}" if defaults else text, shown_kind, panel, rest=True)
        kinds[name] = kind
        typed: Any = str | None
        if name in pairs:
            repeated = f"{text} Repeat it for several options; a new kind begins from nothing."
            said, typed = Opt(repeated, "OPTION=VALUE", panel, rest=True), list[str] | None
        elif kind is bool:
            said, typed = dataclasses.replace(said, kind=None, off=f"no_{name}"), bool | None
        options.append(Parameter(name, typed, None, said))

    def made(given: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in given.items() if value not in (None, [])}
        return {name: value if name in pairs else read_value(name, value, kinds[name]) for name, value in found.items()}

    return Group(options, made)


def kind_of(kind: Any, choices: Sequence[str] = ()) -> str:
    """Return what ``--help`` shows for the value of an option of this type."""
    return "|".join(choices or dict.fromkeys(_shown_kind(each) for each in kinds_of(kind)))


def _shown_kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return "N,N,..." if get_origin(kind) in (tuple, list) else _KINDS.get(kind, "VALUE")


def shown(value: Any) -> str:
    """Return a default as it would be typed."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(shown, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def field_help(cls: type) -> dict[str, str]:
    """Return the sentence that a class docstring's ``Args:`` section, or its parents', says of each name."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        section = inspect.cleandoc(each.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in entries}
    return found
