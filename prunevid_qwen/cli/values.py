"""What ``--help`` says of an option: its kind of value, its default, and the sentence of its class's docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from prunevid_qwen.config.typed import kinds_of

_KINDS = {bool: "true|false", int: "INT", float: "FLOAT", str: "NAME", type(None): "none"}


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
