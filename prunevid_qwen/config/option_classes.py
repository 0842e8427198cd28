"""Which options belong to which method: the built-in ones, and those that `register` enters. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from prunevid_qwen.config.methods import MERGERS, SELECTORS
from prunevid_qwen.config.plugins import load_announced
from prunevid_qwen.errors import ConfigError, quoted

STAGES = {"merger": 1, "selector": 2}
_CLASSES: dict[str, dict[str, type]] = {"merger": dict(MERGERS), "selector": dict(SELECTORS)}
_METHODS: dict[type, type] = {}  # what decides -> its options, for messages


def enter(part: str, name: str, options: type, method: type | None = None) -> None:
    """Enter the options class of a method.

    Args:
        part: "merger" or "selector".
        name: of the method.
        options: a frozen dataclass, all of whose fields have defaults; of this method alone.
        method: the class that decides by them.

    Raises:
        ValueError: the name has other options already, the class belongs to another method, or is no such dataclass.
    """
    parameters = getattr(options, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise ValueError(f"the options of {part} {quoted(name)} are a frozen dataclass, got {quoted(options)}")
    missing = dataclasses.MISSING
    for each in dataclasses.fields(options):
        if each.init and each.default is missing and each.default_factory is missing:
            raise ValueError(f"every option of {part} {quoted(name)} has a default, {each.name} has none")
    for other, known in _CLASSES[part].items():
        if (other == name) != (known is options):
            raise ValueError(
                f"{part} {quoted(other)} has the options {known.__qualname__}: give {quoted(name)} another name and a "
                "class of its own"
            )
    _CLASSES[part][name] = options
    if method is not None:
        _METHODS[method] = options


def classes_of(part: str) -> dict[str, type]:
    """Return the options of each method of a part, by its name."""
    return dict(_CLASSES[part])


def leave(part: str, name: str) -> None:
    """Take a method's options out again."""
    options = _CLASSES[part].pop(name, None)
    for method in [each for each, own in _METHODS.items() if own is options]:
        del _METHODS[method]


def options_class(part: str, name: Any) -> type:
    """Return the options class of the method that is registered as ``name``.

    Raises:
        ConfigError: no such method; the nearest name is offered.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{part} is the name of a stage {STAGES[part]} method or its options, got {quoted(name)}")
    known = _CLASSES[part]
    if name not in known:
        load_announced(name)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"no {part} is called {quoted(name)}.{hint} Known: {', '.join(sorted(known))}. One of your own has to be "
            "registered first: import its file, or pass --plugin FILE to prunevid ask"
        )
    return known[name]


def name_of(part: str, options: Any) -> str:
    """Return the name of the method that these options belong to.

    Raises:
        ConfigError: they are no registered method's.
    """
    for name, known in _CLASSES[part].items():
        if type(options) is known:
            return name
    raise ConfigError(
        f"{part} is the name or the options of a registered stage {STAGES[part]} method, got {quoted(options)}"
        f"{_instead(part, options)}"
    )


def _instead(part: str, given: Any) -> str:
    """Say what to pass where a class, a method itself or options of the other stage were given."""
    cls = given if isinstance(given, type) else type(given)
    options = _METHODS.get(cls, cls)
    for own, classes in _CLASSES.items():
        for name, known in classes.items():
            if known is options:
                there = "" if own == part else f", {own}={options.__name__}(...)"
                return f": pass {options.__name__}(...), the options of {own} {quoted(name)}{there}"
    return ""


def built_in(part: str, options: Any) -> bool:
    """Tell whether these options are of a method of this package."""
    return type(options) in (MERGERS if part == "merger" else SELECTORS).values()


def names_in(options: type | None) -> tuple[str, ...]:
    """Return the names of the options in a class; none for None."""
    return () if options is None else tuple(each.name for each in dataclasses.fields(options) if each.init)
