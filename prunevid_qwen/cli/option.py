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
_OF_ORIGIN = {tuple: "N,N,...", list: "N,N,...", Mapping: "OPTION=VALUE"}


@dataclass(frozen=True)
class Option:
    """An option before typer sees it."""

    text: str
    kind: str | None = None  # what stands for its value in the help; None for a switch
    panel: str = "Options"  # its section of the help
    spelling: str | None = None  # behind the dashes, where that is not the parameter's name
    short: str | None = None  # a letter, -m
    rest: bool = False  # left out of --help and shown by --help-all
    least: float | None = None
    word: bool = False  # of the command line, without dashes
    hidden: bool = False
    name: str = ""  # of the parameter, as are its type and default
    type: Any = str | None
    default: Any = None
    documented: bool = False  # of a dataclass of another room: may be a switch to turn off, or a text of any type

    @property
    def typed(self) -> Any:
        """The type that typer reads: a text where `read` makes the value of it."""
        if any(get_origin(each) is Mapping for each in kinds_of(self.type)):
            return list[str] | None
        if get_origin(self.type) is tuple or (self.documented and self.type is not bool):
            return str | None
        return bool | None if self.documented else self.type

    def for_typer(self) -> inspect.Parameter:
        """Return it as a keyword parameter of the function that typer calls."""
        how: dict[str, Any] = {"metavar": self.kind, "help": self.text, "hidden": self.hidden, "show_default": False}
        if self.word:
            info: Any = typer.Argument(**how)
        else:
            off = f"/--no_{self.name}" if self.typed == bool | None else ""
            names = (f"--{self.spelling or self.name}{off}", *([self.short] if self.short else []))
            info = typer.Option(*names, rich_help_panel=self.panel, min=self.least, **how)
        default = None if self.typed != self.type else self.default
        default = inspect.Parameter.empty if default is dataclasses.MISSING else default
        kind: Any = Annotated[self.typed, info]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)

    def read(self, value: Any) -> Any:
        """Return the parameter's value, of what typer read; members of a tuple were typed with commas between."""
        if self.typed == self.type:
            return value
        return self.default if value is None else read_value(f"--{self.spelling or self.name}", value, self.type)


def opt(default: Any, text: str, kind: str | None = None, panel: str = "Options", **more: Any) -> Any:
    """Return the default of a parameter or of a dataclass's field that is an option; ``...`` where it has to be given.

    Args:
        default: its value where it is not given.
        text, kind, panel, more: as in `Option`.
    """
    given: dict[str, Any] = {} if default is ... else {"default": default}
    return field(**given, metadata={_SAID: Option(text, kind, panel, **more)})


def word(default: Any, kind: str, text: str, **more: Any) -> Any:
    """Return the default of a parameter that is a word without ``--``."""
    return opt(default, text, kind, word=True, **more)


class Group(NamedTuple):
    """Options that are one parameter of a command, and what makes it of their values by name."""

    options: Sequence[Option]
    made: Callable[[Mapping[str, Any]], Any]


def group_of(name: str, kind: Any, default: Any) -> Group | None:
    """Return what a parameter brings: the one option that its default says, or the group that its type is.

    Args:
        name, kind: of the parameter; a kind may be a dataclass of options, or annotated with a `Group`.
        default: made by `opt` or `word`, else the parameter is no option and None is returned.
    """
    if isinstance(default, dataclasses.Field) and _SAID in default.metadata:
        one = dataclasses.replace(default.metadata[_SAID], name=name, type=kind, default=default.default)
        return Group([one], lambda given: one.read(given[name]))
    if get_origin(kind) is Annotated:
        return next((each for each in get_args(kind)[1:] if isinstance(each, Group)), None)
    if not dataclasses.is_dataclass(kind):
        return None
    cls: Any = kind
    return parts_of(cls, {each.name: each for each in dataclasses.fields(cls)}, lambda made: cls(**made))


def parts_of(of: Any, defaults: Mapping[str, Any], made: Callable[[dict[str, Any]], Any]) -> Group:
    """Return the group of all options of a function's parameters, or of a dataclass's fields.

    Args:
        of: the function or dataclass.
        defaults: of its parameters.
        made: called with the arguments by name.
    """
    hints = get_type_hints(of, include_extras=True)
    found = {name: group_of(name, hints[name], default) for name, default in defaults.items()}
    groups = {name: group for name, group in found.items() if group}
    options = [option for group in groups.values() for option in group.options]
    return Group(options, lambda given: made({name: group.made(given) for name, group in groups.items()}))


def explained(
    cls: type,
    choices: Mapping[str, Sequence[str]] | None = None,
    panel: str = "Options",
    defaults: bool = True,
    typed_as: Callable[[str, Any], Any] = lambda name, kind: kind,
) -> Iterator[Option]:
    """Return an option for each field that a dataclass's constructor takes; the docstring's ``Args:`` are the help.

    Args:
        cls: the dataclass, of another room.
        choices: words of fields that take one of several.
        panel: of all of them.
        defaults: say the fields' defaults in the help.
        typed_as: name and type of a field -> the type that its text is read as.
    """
    said, hints = field_help(cls), get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if not each.init:
            continue
        kind = typed_as(each.name, hints.get(each.name, str))
        text = said.get(each.name, "")
        text = re.sub(r"\b(\w+)=None\b", r"\1=none", text[:1].upper() + text[1:].replace("`", ""))
        option = Option(text, None, panel, rest=True, name=each.name, type=kind, documented=True)
        if option.typed == list[str] | None:
            text += " Repeat it for several options; a new kind begins from nothing."
        elif defaults:
            value = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            text += f" Default: {shown(value)}."
        yield dataclasses.replace(option, text=text, kind=kind_of(kind, (choices or {}).get(each.name, ())))


def documented(cls: type, panel: str, without: Collection[str] = (), **more: Any) -> Group:
    """Return the fields of a dataclass of another room as options; their values are a dict of those that were given.

    Args:
        cls, panel, more: as in `explained`. A dict is typed as OPTION=VALUE any number of times, and left as typed.
        without: fields that are no option.
    """
    options = [each for each in explained(cls, panel=panel, **more) if each.name not in without]
    options = [dataclasses.replace(each, kind=None) if each.type is bool else each for each in options]
    return Group(
        options,
        lambda given: {e.name: e.read(given[e.name]) for e in options if given.get(e.name) not in (None, [])},
    )


def kind_of(kind: Any, choices: Sequence[str] = ()) -> str:
    """Return what ``--help`` shows for the value of an option of this type."""
    words = dict.fromkeys(choices)
    for each in () if choices else kinds_of(kind):
        members = get_args(each) if get_origin(each) is Literal else ()
        words |= dict.fromkeys(
            map(str, members) if members else [_OF_ORIGIN.get(get_origin(each)) or _KINDS.get(each, "VALUE")]
        )
    return "|".join(words)


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
