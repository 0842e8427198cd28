"""What the parameters of a command say of themselves: an option, a word, or a group of options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, get_type_hints, runtime_checkable

import typer

from prunevid_qwen.cli.values import field_help, kind_of, sentence, shown
from prunevid_qwen.config.typed import read_value

_SAID = "option"


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

    def spelt(self, name: str) -> Any:
        """Return it as typer wants it, for the parameter ``name``."""
        common: dict[str, Any] = {"metavar": self.kind, "help": self.text, "hidden": self.hidden, "show_default": False}
        if self.word:
            return typer.Argument(**common)
        spelling = f"--{self.name or name}" + (f"/--{self.off}" if self.off else "")
        names = (spelling, self.short) if self.short else (spelling,)
        return typer.Option(*names, rich_help_panel=self.panel, min=self.least, **common)


def opt(default: Any, text: str, kind: str | None = None, panel: str | None = None, **more: Any) -> Any:
    """Return the default of a parameter or of a dataclass's field that is an option; ``...`` where it has to be given.

    Args:
        default: its value where it is not given.
        text, kind, panel, more: as in `Opt`.
    """
    given: dict[str, Any] = {} if default is ... else {"default": default}
    return dataclasses.field(**given, metadata={_SAID: Opt(text, kind, panel, **more)})


def word(default: Any, kind: str, text: str, **more: Any) -> Any:
    """Return the default of a parameter that is a word without ``--``."""
    return opt(default, text, kind, word=True, **more)


@dataclass(frozen=True)
class Parameter:
    """An option before typer sees it."""

    name: str
    type: Any
    default: Any
    said: Opt

    def for_typer(self) -> inspect.Parameter:
        """Return it as a keyword parameter of the function that typer calls."""
        empty = inspect.Parameter.empty
        default = empty if self.default is dataclasses.MISSING else self.default
        kind, how = self.type, self.said.spelt(self.name)
        annotation: Any = Annotated[kind, how]  # type: ignore[valid-type]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def from_field(name: str, kind: Any, given: Any) -> Parameter | None:
    """Return the option that a default made by `opt` stands for; None of another default."""
    said = given.metadata.get(_SAID) if isinstance(given, dataclasses.Field) else None
    return None if said is None else Parameter(name, kind, given.default, said)


@runtime_checkable
class Group(Protocol):
    """Options that are one parameter of a command."""

    def parameters(self) -> Iterable[Parameter]:
        """Return the options."""
        ...

    def made(self, given: Mapping[str, Any]) -> Any:
        """Return the command's parameter, from the values by name."""
        ...


@dataclass(frozen=True)
class DataclassOptions:
    """The fields of a dataclass as options."""

    cls: type

    def parameters(self) -> Iterable[Parameter]:
        """Return an option for each field that is one."""
        hints = get_type_hints(self.cls)
        found = (from_field(each.name, hints[each.name], each) for each in dataclasses.fields(self.cls))
        return [each for each in found if each is not None]

    def made(self, given: Mapping[str, Any]) -> Any:
        """Return the dataclass."""
        return self.cls(**given)


@dataclass(frozen=True)
class Documented:
    """The fields of a dataclass of another room as options; its docstring's ``Args:`` is their help.

    Args:
        cls: the dataclass.
        panel: of all of them.
        without: fields that are no option.
        choices: words of fields that take one of several.
        pairs: fields that are dicts, typed as OPTION=VALUE any number of times.
        defaults: say the fields' defaults in the help.
    """

    cls: type
    panel: str
    without: Collection[str] = ()
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pairs: Collection[str] = ()
    defaults: bool = False

    def parameters(self) -> Iterable[Parameter]:
        """Return an option for each field."""
        said, hints = field_help(self.cls), get_type_hints(self.cls)
        for each in dataclasses.fields(self.cls):
            if each.name in self.without:
                continue
            text, hint = sentence(said[each.name]), hints[each.name]
            kind: Any = str | None
            metavar: str | None = kind_of(hint, self.choices.get(each.name, ()))
            off = None
            if each.name in self.pairs:
                text, metavar = f"{text} Repeat it for several options; a new kind begins from nothing.", "OPTION=VALUE"
                kind = list[str] | None
            elif hint is bool:
                metavar, kind, off = None, bool | None, f"no_{each.name}"
            elif self.defaults:
                text += f" Default: {shown(each.default)}."
            yield Parameter(each.name, kind, None, Opt(text, metavar, self.panel, rest=True, off=off))

    def made(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that were given, as the types of their fields; pairs as they were typed."""
        hints = get_type_hints(self.cls)
        return {
            name: value if name in self.pairs else read_value(name, value, hints[name])
            for name, value in given.items()
            if value not in (None, [])
        }
