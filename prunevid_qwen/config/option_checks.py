"""Checks that several options share, and how a wrong name is answered."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from prunevid_qwen.errors import ConfigError, UnknownOption, quoted

_Options = TypeVar("_Options", bound=type)

_SAME = {"pruning_rate": "keep_ratio"}  # the share removed: `PruneVidConfig.from_dict` takes it, its constructor not


def is_number(value: object) -> bool:
    """Tell whether ``value`` is an int or a float; True and False are neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_share(name: str, value: object) -> None:
    """Raise `ConfigError` unless ``value`` is a number in (0, 1]; a percentage is offered as a share."""
    if not is_number(value):
        raise ConfigError(f"{name} is a number in (0, 1], got {type(value).__name__} {quoted(value)}")
    assert isinstance(value, (int, float))
    if 0 < value <= 1:
        return
    meant = f"; did you mean {value / 100:g}?" if 2 <= value <= 100 else ""
    why = " (nothing would be left)" if value == 0 else ""
    raise ConfigError(f"{name} is a share in (0, 1], got {quoted(value)}{why}{meant}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise `ConfigError` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is a whole number of at least {least}, got {quoted(value)}")


def nearest(got: object, allowed: Iterable[str]) -> str | None:
    """Return the one of ``allowed`` that ``got`` was probably meant to be; None where none is near."""
    allowed = tuple(allowed)
    if _SAME.get(str(got)) in allowed:
        return _SAME[str(got)]
    return next(iter(difflib.get_close_matches(str(got), allowed, n=1)), None)


def unknown(what: str, got: object, allowed: Iterable[str]) -> str:
    """Say what is ``allowed`` instead of ``got``: the nearest of them first, then all."""
    allowed = tuple(allowed)
    close = nearest(got, allowed)
    hint = "" if close is None else f" did you mean {close!r}?"
    return f"got {quoted(got, 80)};{hint} {what} {', '.join(allowed)}"


def check_names(what: str, given: Iterable[str], options: Any) -> None:
    """Raise `UnknownOption` for the first name that the dataclass ``options`` has no field for, as `unknown` says."""
    names = tuple(each.name for each in dataclasses.fields(options) if each.init)
    for name in given:
        if name not in names:
            raise UnknownOption(unknown(what, name, names))


def checked_names(what: str) -> Callable[[_Options], _Options]:
    """Decorate a dataclass of options: its constructor, and so `dataclasses.replace`, checks names by `check_names`."""

    def checked(cls: _Options) -> _Options:
        made = cls.__init__  # type: ignore[misc]

        @functools.wraps(made)
        def __init__(self: Any, *values: Any, **options: Any) -> None:
            check_names(what, options, cls)
            made(self, *values, **options)

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return checked
