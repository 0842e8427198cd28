"""Pages of prose with tables that are generated: ``<!-- figures: NAME -->`` ... ``<!-- end -->`` holds a table.

No figure of such a page is copied by hand: `fill` writes every table, and a test compares the page with what it writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from prunevid_qwen.errors import ConfigError

_BLOCK = re.compile(r"(<!-- (?:choices|figures): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def block_names(text: str) -> list[str]:
    """List the names of the tables that a page has room for."""
    return [name for _, name, _ in _BLOCK.findall(text)]


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Return a page with every table as ``tables`` says.

    Raises:
        ConfigError: the page names a table that there is not.
    """

    def table(match: re.Match[str]) -> str:
        head, name, end = match.groups()
        if name not in tables:
            raise ConfigError(f"the page has room for a table called {name!r}: there are {', '.join(tables)}")
        return f"{head}{tables[name]}\n{end}"

    return _BLOCK.sub(table, text)
