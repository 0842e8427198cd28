"""What the parameters of a command say of themselves: an option, a word, or a group of options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import typer

from prunevid_qwen.config.option_help import field_help
from prunevid_qwen.config.typed import kind_of_option, kinds_of, read_value
from prunevid_qwen.errors import ConfigError, quoted

_SAID = "option"
_KINDS: dict[Any, str] = {
    bool: "true|false", int: "INT", float: "FLOAT", str: "NAME", type(None): "none", tuple: "N,N,...", list: "N,N,...",
    Mapping: "OPTION=VALUE",
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """An option before typer sees it."""

    text: str
    kind: str | None = None  # what stands for its value in the help, or the words a|b that it is; None for a switch
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

    def read(self, given: Mapping[str, Any]) -> Any:
        """Return the parameter's value, of what typer read by name; members of a tuple have commas between."""
        value, option = given[self.name], f"--{self.spelling or self.name}"
        if self.typed != self.type:
            value = self.default if value is None else read_value(option, value, self.type)
        words = (self.kind or "").split("|")
        if len(words) > 1 and words == [each.lower() for each in words] and not self.documented:
            for each in value if isinstance(value, tuple) else (value,):
                if each not in (*words, self.default):
                    raise ConfigError(f"{option} is one of {', '.join(words)}; got {quoted(each)}")
        return value


def opt(default: Any, text: str, kind: str | None = None, panel: str = "Options", **more: Any) -> Any:
    """Return the default of a parameter or dataclass's field that is an `Option`; ``...`` where it has to be given."""
    given: dict[str, Any] = {} if default is ... else {"default": default}
    return field(**given, metadata={_SAID: Option(text, kind, panel, **more)})


def word(default: Any, kind: str, text: str, **more: Any) -> Any:
    """Return the default of a parameter that is a word without ``--``."""
    return opt(default, text, kind, word=True, **more)


class Group(NamedTuple):
    """Options that are one parameter of a command, and what makes it of their values by name."""

    options: Sequence[Option]
    made: Callable[[Mapping[str, Any]], Any]


def group_of(work: Any, made: Callable[..., Any] = dict) -> Group:
    """Return the options of a function's parameters, or of a dataclass's fields.

    Args:
        work: the function or dataclass. A parameter whose default is made by `opt` or `word` is an option; one whose
            type is a dataclass, or annotated with a `Group`, brings all of that; no other is one.
        made: called with the arguments by name.
    """
    hints, found = get_type_hints(work, include_extras=True), dict[str, Group]()
    fields = {each.name: each for each in dataclasses.fields(work)} if dataclasses.is_dataclass(work) else {}
    for name, each in inspect.signature(work).parameters.items():
        kind, default = hints[name], fields.get(name, each.default)
        if isinstance(default, dataclasses.Field) and _SAID in default.metadata:
            one = dataclasses.replace(default.metadata[_SAID], name=name, type=kind, default=default.default)
            found[name] = Group([one], one.read)
        elif get_origin(kind) is Annotated:
            found[name] = next(each for each in get_args(kind) if isinstance(each, Group))
        elif dataclasses.is_dataclass(kind):
            found[name] = group_of(kind, kind)  # type: ignore[arg-type]
    options = [option for group in found.values() for option in group.options]
    return Group(options, lambda given: made(**{name: group.made(given) for name, group in found.items()}))


def documented(
    cls: type,
    panel: str,
    without: Collection[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    defaults: bool = True,
) -> Group:
    """Return the fields of a dataclass of another room as options; their values are a dict of those that were given.

    Args:
        cls: the dataclass; its docstring's ``Args:`` are the help. A mapping is typed as OPTION=VALUE any number of
            times, and left as typed.
        panel: of all of them.
        without: fields that are no option.
        choices: words of fields that take one of several.
        defaults: say the fields' defaults in the help.
    """
    said, hints, options = field_help(cls), get_type_hints(cls), []
    for each in dataclasses.fields(cls):
        if not each.init or each.name in without:
            continue
        text = said.get(each.name, "")
        text = re.sub(r"\b(\w+)=None\b", r"\1=none", text[:1].upper() + text[1:].replace("`", ""))
        kind = kind_of_option(each.name, hints.get(each.name, str))
        option = Option(text, None, panel, rest=True, name=each.name, type=kind, documented=True)
        if option.typed == list[str] | None:
            text += " Repeat it for several options; a new kind begins from nothing."
        elif defaults:
            value = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            text += f" Default: {shown(value)}."
        words = None if kind is bool else kind_of(kind, (choices or {}).get(each.name, ()))
        options.append(dataclasses.replace(option, text=text.strip(), kind=words))
    return Group(options, lambda given: {e.name: e.read(given) for e in options if given.get(e.name) not in (None, [])})


def kind_of(kind: Any, choices: Sequence[str] = ()) -> str:
    """Return what ``--help`` shows for the value of an option of this type."""
    words = list(choices)
    for each in () if choices else kinds_of(kind):
        literal = get_origin(each) is Literal
        words += map(str, get_args(each)) if literal else [_KINDS.get(get_origin(each) or each, "VALUE")]
    return "|".join(dict.fromkeys(words))


def shown(value: Any) -> str:
    """Return a default as it would be typed."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(shown, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
