"""The tables of docs/receipt.md, from the types of a receipt."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.receipt.keys import TABLES, Key


def receipt_tables(results: Path | None = None) -> dict[str, str]:
    """Return a block of Markdown for each table of `receipt.keys`, by its name in lower case.

    Args:
        results: not read; the tables of other pages come from there.
    """
    return {table.__name__.lower(): _table(table) for table in TABLES}


def _table(table: Any) -> str:
    rows = []
    for name, hint in get_type_hints(table, include_extras=True).items():
        kind, key = get_args(hint)
        assert isinstance(key, Key)
        rows.append([f"`{name}`", _written(kind), key.unit, key.meaning])
    return "\n".join([str(table.__doc__), "", *Table(["Key", "Type", "Unit", "Says"], rows).markdown("---")])


def _written(kind: Any) -> str:
    """Write a type: a table by a link to it."""
    if is_typeddict(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_written(each) for each in get_args(kind))
    if get_origin(kind) is Annotated:
        return _written(get_args(kind)[0])
    if get_origin(kind) is list:
        return f"list of {_written(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "dict"
    return "null" if kind is type(None) else str(kind.__name__)
