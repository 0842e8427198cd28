"""Checks that several options share, and how a wrong name is answered."""

from __future__ import annotations

import difflib

from prunevid_qwen.errors import ConfigError


def is_number(value: object) -> bool:
    """Tell whether ``value`` is an int or a float; True and False are neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_share(name: str, value: object) -> None:
    """Raise `ConfigError` unless ``value`` is a number in (0, 1]; a percentage is offered as a share."""
    if not is_number(value):
        raise ConfigError(f"{name} is a number in (0, 1], got {type(value).__name__} {value!r}")
    assert isinstance(value, (int, float))
    if 0 < value <= 1:
        return
    meant = f"; did you mean {value / 100:g}?" if 2 <= value <= 100 else ""
    why = " (nothing would be left)" if value == 0 else ""
    raise ConfigError(f"{name} is a share in (0, 1], got {value!r}{why}{meant}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise `ConfigError` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is a whole number of at least {least}, got {value!r}")


def unknown(what: str, got: object, allowed: tuple[str, ...]) -> str:
    """Say what is ``allowed`` instead of ``got``, with the nearest of them as a hint."""
    close = difflib.get_close_matches(str(got), allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{what} {', '.join(allowed)}; got {got!r}{hint}"
