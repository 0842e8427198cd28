"""Full names of options on a command line: ``--selector.layers 2``, for whichever methods there are."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import get_type_hints

from prunevid_qwen.cli.values import field_help, kind_of, sentence, shown
from prunevid_qwen.config import CHOICES, get_config
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_classes import STAGES, classes_of, names_in, options_class
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.config.typed import PARTS, kind_of_option
from prunevid_qwen.errors import ConfigError

FULL_NAMES = "full_names"
"""The hidden option, taken any number of times, that carries each full name and its value to a command."""


def take_full_names(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Part ``--PART.NAME VALUE`` and ``--PART.NAME=VALUE`` from the other words of a command line.

    Raises:
        ConfigError: one has no value.
    """
    others: list[str] = []
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*others, word, *rest], found
        option, equals, value = word.partition("=")
        part, dot, name = option.removeprefix("--").partition(".")
        if not option.startswith("--") or not dot or part not in PARTS:
            others.append(word)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{option} needs a value, such as {option} 2")
            value = rest.pop(0)
        found[f"{part}.{name.replace('-', '_')}"] = value
    return others, found


def full_names_of_each() -> list[str]:
    """Return a line for each registered method, and for reading: which options it has."""
    lines = [
        f"{part} {method}: {', '.join(names_in(cls))}"
        for part in ("merger", "selector")
        for method, cls in classes_of(part).items()
    ]
    return [*lines, f"reading: {', '.join(names_in(Reading))}"]


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


def method_panels(typed: Mapping[str, list[str]]) -> dict[str, list[tuple[str, str, str]]]:
    """Return the options of each method that was typed: (full name, kind of value, help), by a title."""
    panels = {}
    for part, (name, cls) in named_methods(typed).items():
        said, hints, entries = field_help(cls), get_type_hints(cls), []
        for each in dataclasses.fields(cls):
            if not each.init:
                continue
            default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            text = f"{sentence(said.get(each.name, ''))} Default: {shown(default)}.".strip()
            choices = CHOICES.get(each.name, ()) if issubclass(cls, MethodOptions) else ()
            kind = kind_of(kind_of_option(each.name, hints.get(each.name, str)), choices)
            entries.append((f"--{part}.{each.name}", kind, text))
        panels[f"Options of {part} {name}"] = entries
    return panels
