"""The one writer of results: Markdown, CSV, JSON, and a table for a terminal."""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from prunevid_qwen.config.amounts import percent

Row = dict[str, Any]

_GAP = "  "  # between two columns of a terminal table


@dataclass(frozen=True)
class Table:
    """Rows of cells under the names of their columns, as many in each."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells under {len(self.head)} columns: {list(row)}")

    def markdown(self, first: str = " --- ", others: str | None = None) -> list[str]:
        """Return the lines of the table in Markdown; a bar or a line break inside a cell is written as / or a space.

        ``first`` is the rule under the first column's name, ``others`` those of the others; None is as the first.
        """
        rule = [first, *[first if others is None else others] * (len(self.head) - 1)]
        return [_markdown(self.head), f"|{'|'.join(rule)}|", *map(_markdown, self.rows)]

    def terminal(self, width: int | None = None, keys: int = 1) -> str:
        """Return the table for a terminal: no line is longer than ``width`` characters (None: the terminal's own).

        Columns that do not fit beside each other follow below, each time with the first ``keys``, which say what a row
        is about; a cell that does not fit is broken into lines.
        """
        width = width or shutil.get_terminal_size().columns
        keys = min(keys, len(self.head))
        columns = [[_plain(cell) for cell in column] for column in zip(self.head, *self.rows, strict=True)]
        widths = [max(1, *map(len, column)) for column in columns]
        if sum(widths) + len(_GAP) * (len(widths) - 1) <= width:
            return _block(columns, widths)
        room = max(1, (width // 2 - len(_GAP) * keys) // keys)  # what is repeated takes half of the width at most
        repeated = [min(each, room) for each in widths[:keys]]
        start = sum(repeated) + len(_GAP) * keys
        blocks = [list(range(keys))]
        free = width - start
        widths = repeated + [min(each, max(1, free)) for each in widths[keys:]]
        for place in range(keys, len(columns)):
            if len(blocks[-1]) > keys and widths[place] > free:
                blocks.append(list(range(keys)))
                free = width - start
            blocks[-1].append(place)
            free -= widths[place] + len(_GAP)
        return "\n\n".join(_block([columns[k] for k in each], [widths[k] for k in each]) for each in blocks)


def csv_text(rows: Iterable[Mapping[str, Any]], end: str = "\n") -> str:
    """Return a line for each `flat` row under the names of all; a row that lacks a name leaves it empty."""
    rows = list(rows)
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_text(summary: Any, sort_keys: bool = False, ascii_alone: bool = False) -> str:
    """Return a summary as JSON, ended by a newline; ``ascii_alone`` escapes every other letter."""
    return json.dumps(summary, indent=1, sort_keys=sort_keys, ensure_ascii=ascii_alone, allow_nan=False) + "\n"


def page(*parts: str | Iterable[str]) -> str:
    """Return a page: parts with an empty line between them; a part may be lines. Empty ones are left out."""
    texts = [part if isinstance(part, str) else "\n".join(part) for part in parts]
    return "\n\n".join(text for text in texts if text) + "\n"


def flat(row: Mapping[str, Any]) -> Row:
    """Return a row of a summary without dictionaries in it, for `csv_text`.

    A difference becomes NAME, NAME_low, NAME_high and pairs; what else has parts NAME_PART; parts that have parts
    themselves (columns, by scorer) drop the outer name.
    """
    found: Row = {}
    for name, value in row.items():
        if name == "difference":
            low, high = (value and value["interval"]) or (None, None)
            found |= {name: value and value["value"], f"{name}_low": low, f"{name}_high": high}
            found["pairs"] = value and value["pairs"]
        elif not isinstance(value, dict):
            found[name] = value
        elif all(isinstance(part, dict) for part in value.values()):
            found |= {f"{each}_{part}": number for each, own in value.items() for part, number in own.items()}
        else:
            found |= {f"{name}_{part}": number for part, number in value.items()}
    return found


def difference_text(found: Mapping[str, Any] | None, of: int | None = None, scale: float = 1, digits: int = 3) -> str:
    """Write a paired difference of ``of`` possible pairs, "" for none: "+0.012 (-0.001 to +0.025) of 90/100"."""
    if found is None:
        return ""
    text = f"{scale * found['value']:+.{digits}f}"
    if found["interval"] is not None:
        low, high = (f"{scale * end:+.{digits}f}" for end in found["interval"])
        text += f" ({low} to {high})"
    return text if of is None or found["pairs"] == of else f"{text} of {found['pairs']}/{of}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure, "none" where there is none."""
    return "none" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """Write a share of 1 in per cent, "none" where there is none."""
    return "none" if value is None else percent(value, 1)


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _plain(cell: str) -> str:
    return " ".join(cell.replace("**", "").replace("<br>", " ").split())


def _block(columns: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    lines: list[str] = []
    for number, row in enumerate(zip(*columns, strict=True)):
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            lines.append(_GAP.join(map(str.ljust, parts, widths)).rstrip())
        if number == 0:
            lines.append(_GAP.join("-" * width for width in widths))
    return "\n".join(lines)
