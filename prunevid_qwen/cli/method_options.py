"""The options of the methods that a command line names, found before it is read: for its help, and for wrong names."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prunevid_qwen.cli.full_names import kind_of_option
from prunevid_qwen.config import CHOICES, get_config
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_classes import STAGES, classes_of, names_in, options_class
from prunevid_qwen.config.plugins import load_plugin

_KINDS = {bool: "true|false", int: "INT", float: "FLOAT", str: "TEXT", type(None): "none"}


def typed_of(words: Sequence[str], options: Collection[str]) -> dict[str, list[str]]:
    """Return the values that were typed of the options that say which methods there are.

    Args:
        words: of the command line: ``--selector NAME`` or ``--selector=NAME``.
        options: those that the command has. One without ``plugin`` loads none, whatever was typed.
    """
    typed: dict[str, list[str]] = {name: [] for name in ("plugin", "config", *STAGES)}
    for word, after in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        name = option[2:].replace("-", "_")
        if option.startswith("--") and name in typed and name in options and (equals or after):
            typed[name].append(value if equals else after)
    return typed


def named_methods(typed: Mapping[str, list[str]]) -> dict[str, tuple[str, type]]:
    """Return name and options class of each method that was typed, by "merger" and "selector".

    Plug-ins that were typed are loaded: only for a command line that nobody is going to carry out.

    Args:
        typed: see `typed_of`.

    Raises:
        ConfigError, SetupError: there is no such plug-in or method, or the plug-in fails.
    """
    for source in typed["plugin"]:
        load_plugin(source)
    named = {part: typed[part][-1:] for part in STAGES}
    return {part: (name, options_class(part, name)) for part, given in named.items() for name in given}


def offered(option: str, typed: Mapping[str, list[str]]) -> tuple[list[str], bool]:
    """Say which full names may be meant by an option that a command does not have.

    Args:
        option: as typed, ``--distance``.
        typed: see `typed_of`.

    Returns:
        The full names, and whether they are of that very name. Options of methods that were not chosen stand behind
        what would choose them.

    Raises:
        ConfigError, SetupError: as `named_methods`, or there is no such config.
    """
    asked = option.lstrip("-").replace("-", "_")
    named = named_methods(typed)
    config = get_config((typed["config"] or ["paper"])[-1])
    classes: dict[str, type | None] = {}
    for part in STAGES:
        own = getattr(config, part)
        classes[part] = named[part][1] if part in named else None if own is None else type(own)
    classes["reading"] = Reading
    full = [f"--{part}.{name}" for part, cls in classes.items() for name in names_in(cls)]
    exact = [each for each in full if each.endswith(f".{asked}")] or [
        f"--{part} {name} --{part}.{asked}"
        for part in STAGES
        for name, cls in classes_of(part).items()
        if asked in names_in(cls)
    ]
    if exact:
        return exact, True
    if "." in asked:
        return difflib.get_close_matches(f"--{asked}", full, n=1), False
    close = difflib.get_close_matches(asked, [each.rpartition(".")[2] for each in full], n=1)
    return [each for each in full if each.rpartition(".")[2] in close], False


def method_panels(typed: Mapping[str, list[str]], said: Any) -> dict[str, list[tuple[str, str, str]]]:
    """Return the options of each method that was typed: (full name, kind of value, help), by a title.

    Args:
        typed: see `typed_of`.
        said: given a class, returns what its docstring says of each option, by name.
    """
    return {
        f"Options of {part} {name}": [_entry(part, each, cls, said(cls)) for each in _fields(cls)]
        for part, (name, cls) in named_methods(typed).items()
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
    return "|".join(_word(each) for each in kinds)


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return "N,N,..." if get_origin(kind) in (tuple, list) else _KINDS.get(kind, "VALUE")
