"""Compares a receipt with the types that describe it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from prunevid_qwen.receipt.keys import Receipt


def differences(stats: Any, kind: Any = Receipt, where: str = "stats") -> Iterator[str]:
    """Say every key that is missing or too much, and every value that is of another type."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        if not isinstance(stats, dict):
            yield f"{where} is {type(stats).__name__}"
            return
        yield from (f"{where} lacks {name}" for name in kind.__required_keys__ - stats.keys())
        yield from (f"{where} has {name}" for name in stats.keys() - hints.keys())
        for name in hints.keys() & stats.keys():
            yield from differences(stats[name], hints[name], f"{where}.{name}")
    elif get_origin(kind) in (Union, types.UnionType):
        found = [list(differences(stats, each, where)) for each in get_args(kind)]
        if all(found):
            yield from min(found, key=len)
    elif get_origin(kind) is list:
        if type(stats) is not list:
            yield f"{where} is {type(stats).__name__}"
            return
        for number, each in enumerate(stats):
            yield from differences(each, get_args(kind)[0], f"{where}[{number}]")
    elif get_origin(kind) is dict:
        if type(stats) is not dict:
            yield f"{where} is {type(stats).__name__}"
    elif type(stats) is not kind:
        yield f"{where} is {type(stats).__name__}, not {kind.__name__}"
