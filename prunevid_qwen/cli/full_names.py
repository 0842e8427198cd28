"""Full names of options on a command line: ``--selector.layers 2``, for whichever methods there are."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import Layers
from prunevid_qwen.config.option_classes import classes_of, names_in, options_class
from prunevid_qwen.errors import ConfigError, quoted

FULL_NAMES = "full_names"
"""The hidden option, taken any number of times, that carries each full name and its value to a command."""
PARTS = ("merger", "selector", "reading")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}


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


def typed_values(base: PruneVidConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the texts of full names as the types that the options of the chosen methods have.

    Args:
        base: the config that they are put onto.
        given: all options that were given: "merger" and "selector" among them say whose options they are.

    Raises:
        ConfigError: a text is none of the types, or the option's type is none that a text can say.
    """
    return {name: _typed(name, text, _kind_of(name, base, given)) for name, text in given.items() if "." in name}


def _kind_of(name: str, base: PruneVidConfig, given: Mapping[str, Any]) -> Any:
    part, _, field = name.partition(".")
    if part == "reading":
        return get_type_hints(Reading).get(field, str)
    chosen = given.get(part)
    own = getattr(base, part)
    cls = options_class(part, chosen) if chosen is not None else None if own is None else type(own)
    # what it lacks is refused by the config
    return str if cls is None else kind_of_option(field, get_type_hints(cls).get(field, str))


def kind_of_option(name: str, kind: Any) -> Any:
    """Return the type that a command line reads an option as: its own; ``layers`` take shares whatever they say."""
    if name != "layers":
        return kind
    kinds = get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    alone = any(each in (int, float) for each in kinds)  # not only as a tuple
    return Layers if alone else tuple[int | float, ...] | None


def _typed(name: str, text: Any, kind: Any) -> Any:
    if not isinstance(text, str):
        return text
    kinds = get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    plain = [each for each in kinds if each in _WORDS]
    rows = [each for each in kinds if get_origin(each) in (tuple, list)]
    words = {str(word): word for each in kinds if get_origin(each) is Literal for word in get_args(each)}
    if type(None) in plain and text.lower() == "none":
        return None
    if text in words:
        return words[text]
    if rows and ("," in text or set(plain) <= {type(None)}):
        made = [_typed(name, each.strip(), get_args(rows[0])[0]) for each in text.split(",") if each.strip()]
        return made if get_origin(rows[0]) is list else tuple(made)
    if bool in plain and text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
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
