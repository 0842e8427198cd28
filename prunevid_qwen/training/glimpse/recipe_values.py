"""Values of a recipe: brought into their type, kept in their range, and read from YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from prunevid_qwen.config.option_checks import is_number
from prunevid_qwen.errors import ConfigError, quoted

_SAID = {int: "a whole number", str: "a text", bool: "true or false"}


def typed(name: str, value: Any, hint: Any) -> Any:
    """Return a value in the type of its field; YAML reads 1e-4 as a text, and lists where tuples are meant.

    Args:
        name: of the field.
        value: as given.
        hint: int, float, str, bool, ``tuple[..., ...]`` of one of them, ``Mapping[str, Any]``, or one of these or None.

    Raises:
        ConfigError: it is of another type.
    """
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name} is a list, got {quoted(value)}")
        return tuple(typed(name, part, get_args(hint)[0]) for part in value)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is a mapping of options to values, got {quoted(value)}")
        return plain(value)
    if get_args(hint):  # X | None
        return None if value is None else typed(name, value, get_args(hint)[0])
    if hint is float:
        return _number(name, value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{name} is {_SAID[hint]}, got {quoted(value)}")
    return value


def plain(value: Any) -> Any:
    """Return mappings as dicts and sequences as lists, all the way down."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def check_number(name: str, value: float, least: float | None = 0, below: float = math.inf) -> None:
    """Raise `ConfigError` unless ``least`` <= value < ``below``; a ``least`` of None takes what is above 0."""
    said = (
        "above 0" if least is None else f"of at least {least:g}" if below == math.inf else f"in [{least:g}, {below:g})"
    )
    if not (value > 0 if least is None else value >= least) or not value < below:
        raise ConfigError(f"{name} is a number {said}, got {quoted(value)}")


def read_yaml(text: str, where: str) -> Any:
    """Read a value that is written in YAML.

    Raises:
        ConfigError: it is no YAML; ``where`` is named.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{where} is not YAML: {said:.200}") from None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str) or is_number(value) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name} is a number, got {quoted(value)}")
    return number
