"""Checks that several options share, and how a wrong name is answered."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from prunevid_qwen.errors import ConfigError, UnknownOption, quoted

if TYPE_CHECKING:
    from prunevid_qwen.config.options import PruneVidConfig

_Options = TypeVar("_Options", bound=type)

THRESHOLD_SELECTORS = ("glimpse", "oracle")
"""Selectors that give each token a probability, and keep by ``keep_threshold`` as many as there are above it."""

_PAPER_KEEP_RATIO = 0.4

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


def unknown(what: str, got: object, allowed: Iterable[str]) -> str:
    """Say what is ``allowed`` instead of ``got``: the nearest of them first, then all."""
    allowed = tuple(allowed)
    close = [_SAME[str(got)]] if _SAME.get(str(got)) in allowed else difflib.get_close_matches(str(got), allowed, n=1)
    hint = f" did you mean {close[0]!r}?" if close else ""
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


def check_threshold(config: PruneVidConfig) -> None:
    """Raise `ConfigError` where two budgets of stage 2 contradict each other, or a threshold is out of range."""
    threshold, selector = config.keep_threshold, config.selector
    if threshold is not None and (not is_number(threshold) or not 0 <= threshold < 1):
        raise ConfigError(f"keep_threshold is a probability in [0, 1), or None; got {quoted(threshold)}")
    if not config.enable_stage2:  # nothing reads them
        return
    if selector not in THRESHOLD_SELECTORS:
        if config.max_keep_ratio is not None:
            raise ConfigError(
                f"max_keep_ratio caps what a threshold keeps ({', '.join(THRESHOLD_SELECTORS)}); selector {selector!r} "
                f"keeps a fixed share: pass keep_ratio={config.max_keep_ratio:g}"
            )
    elif config.keep_ratio == 1 and config.max_keep_ratio not in (None, 1):
        raise ConfigError("keep_ratio=1 keeps everything, and max_keep_ratio caps nothing: drop one")
    elif threshold is None:
        if config.max_keep_ratio is not None:
            raise ConfigError("keep_threshold=None keeps exactly keep_ratio, and max_keep_ratio caps nothing: drop one")
    elif config.keep_ratio not in (1, _PAPER_KEEP_RATIO):  # 1 keeps everything under every selector
        raise ConfigError(
            f"selector {selector!r} keeps the tokens above keep_threshold={threshold:g} and would not read "
            f"keep_ratio={config.keep_ratio:g}: pass max_keep_ratio={config.keep_ratio:g} to keep that share at most, "
            "or keep_threshold=None beside it to keep exactly that share"
        )
