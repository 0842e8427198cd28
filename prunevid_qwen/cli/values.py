"""Texts of a command line as the types of the options that they are for, and what ``--help`` says of these types."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from prunevid_qwen.errors import ConfigError, quoted

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}
_KINDS = {bool: "true|false", int: "INT", float: "FLOAT", str: "NAME", type(None): "none"}


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def read_value(name: str, text: Any, kind: Any) -> Any:
    """Read a text as one of the types of an option; what is no text is returned as it is.

    Args:
        name: of the option, for the message.
        text: as typed. Members of a tuple or list have commas between.
        kind: bool, int, float, str, None, a Literal, a tuple or list of these, or a union of all.

    Raises:
        ConfigError: it is none of these.
    """
    if not isinstance(text, str):
        return text
    kinds = kinds_of(kind)
    plain = [each for each in kinds if each in _WORDS]
    rows = [each for each in kinds if get_origin(each) in (tuple, list)]
    words = {str(word): word for each in kinds if get_origin(each) is Literal for word in get_args(each)}
    if type(None) in plain and text.lower() == "none":
        return None
    if text in words:
        return words[text]
    if rows and ("," in text or set(plain) <= {type(None)}):
        made = [read_value(name, each.strip(), get_args(rows[0])[0]) for each in text.split(",") if each.strip()]
        return made if get_origin(rows[0]) is list else tuple(made)
    if bool in plain and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    for number in (int, float):
        if number in plain:
            try:
                return number(text)
            except ValueError:
                continue
    if str in plain:
        return text
    wanted = " or ".join([*words, *(_WORDS[each] for each in _WORDS if each in plain)])
    raise ConfigError(f"{name} is {wanted or 'nothing that a command line can say'}, got {quoted(text)}")


def names_in_text(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


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


def sentence(text: str) -> str:
    """Return a docstring's words as help: a capital first, no backquotes."""
    return text[:1].upper() + text[1:].replace("``", "").replace("`", "")


def field_help(cls: type) -> dict[str, str]:
    """Return the sentence that a class docstring's ``Args:`` section says of each name."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2]
    said: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name, said[entry[1]] = entry[1], entry[2]
        elif line.startswith(" " * 8) and name:
            said[name] += " " + line.strip()
        elif line.strip():
            break
    return said
