"""The options of the methods that a command line names, found before it is read: for its help, and for wrong names."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from prunevid_qwen.cli.full_names import kind_of_option
from prunevid_qwen.config import CHOICES, get_config
from prunevid_qwen.config.base import MethodOptions
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.config.table import STAGES, known_names, names_in, options_class

_KINDS = {bool: "true|false", int: "INT", float: "FLOAT", str: "TEXT", type(None): "none"}


def values_of(name: str, words: Sequence[str]) -> list[str]:
    """Return each value that ``--name VALUE`` or ``--name=VALUE`` has among the words, in order."""
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("--") and option[2:].replace("-", "_") == name and (equals or after):
            found.append(value if equals else after)
    return found


def named_methods(words: Sequence[str]) -> dict[str, tuple[str, type]]:
    """Return name and options class of each method that the words name, by "merger" and "selector".

    Plug-ins that they name are loaded: only for words that nobody is going to carry out.

    Raises:
        ConfigError, SetupError: there is no such plug-in or method, or the plug-in fails.
    """
    for source in values_of("plugin", words):
        load_plugin(source)
    named = {part: values_of(part, words)[-1:] for part in STAGES}
    return {part: (name, options_class(part, name)) for part, given in named.items() for name in given}


def offered(option: str, words: Sequence[str]) -> tuple[list[str], bool]:
    """Say which full names may be meant by an option that a command does not have.

    Args:
        option: as typed, ``--distance``.
        words: of the command line.

    Returns:
        The full names, and whether they are of that very name. Options of methods that the words do not choose stand
        behind what would choose them.

    Raises:
        ConfigError, SetupError: as `named_methods`, or there is no such config.
    """
    asked = option.lstrip("-").replace("-", "_")
    named = named_methods(words)
    config = get_config((values_of("config", words) or ["paper"])[-1])
    classes: dict[str, type | None] = {}
    for part in STAGES:
        own = getattr(config, part)
        classes[part] = named[part][1] if part in named else None if own is None else type(own)
    full = [f"--{part}.{name}" for part, cls in classes.items() for name in names_in(cls)]
    exact = [each for each in full if each.endswith(f".{asked}")] or [
        f"--{part} {name} --{part}.{asked}"
        for part in STAGES
        for name in known_names(part)
        if asked in names_in(options_class(part, name))
    ]
    if exact:
        return exact, True
    if "." in asked:
        return difflib.get_close_matches(f"--{asked}", full, n=1), False
    close = difflib.get_close_matches(asked, [each.rpartition(".")[2] for each in full], n=1)
    return [each for each in full if each.rpartition(".")[2] in close], False


def method_panels(words: Sequence[str], said: Any) -> dict[str, list[tuple[str, str, str]]]:
    """Return the options of each method that the words name: (full name, kind of value, help), by a title.

    Args:
        words: of the command line.
        said: given a class, returns what its docstring says of each option, by name.
    """
    return {
        f"Options of {part} {name}": [_entry(part, each, cls, said(cls)) for each in _fields(cls)]
        for part, (name, cls) in named_methods(words).items()
    }


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [each for each in dataclasses.fields(cls) if each.init]


def _entry(part: str, each: dataclasses.Field[Any], cls: type, said: dict[str, str]) -> tuple[str, str, str]:
    text = said.get(each.name, "").replace("``", "")
    default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
    whole = f"{text[:1].upper()}{text[1:]} Default: {_shown(default)}."
    return f"--{part}.{each.name}", _metavar(each.name, cls), whole.strip()


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(_shown(each) for each in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _metavar(name: str, cls: type) -> str:
    if issubclass(cls, MethodOptions) and name in CHOICES:
        return "|".join(CHOICES[name])
    kind = kind_of_option(name, get_type_hints(cls).get(name, str))
    kinds = get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    return "|".join("N,N,..." if get_origin(each) is tuple else _KINDS.get(each, "VALUE") for each in kinds)
