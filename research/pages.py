"""Pages of prose with tables that are generated: ``<!-- figures: NAME -->`` ... ``<!-- end -->`` holds a table.

No figure of such a page is copied by hand: `filled` writes every table, and a test compares the pages with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from prunevid_qwen.errors import ConfigError
from research.choices_page import choices_tables
from research.estimate_page import estimate_tables
from research.families_page import models_tables
from research.glimpse_page import glimpse_tables
from research.methods_page import exit_code_tables
from research.performance_page import performance_tables
from research.readme_page import methods_page, readme_tables
from research.receipt_page import receipt_tables
from research.search_page import search_tables
from research.serve_page import serve_tables
from research.session_page import session_tables
from research.toys_page import toys_tables
from research.tune_budget_page import tuning_tables
from research.vision_page import vision_tables

ROOT = Path(__file__).resolve().parents[1]
PAGES: dict[str, Callable[[Path], dict[str, str]]] = {
    "README.md": readme_tables,
    "docs/choices.md": choices_tables,
    "docs/estimate.md": estimate_tables,
    "docs/glimpse.md": glimpse_tables,
    "docs/methods.md": methods_page,
    "docs/models.md": models_tables,
    "docs/performance.md": performance_tables,
    "docs/quickstart.md": exit_code_tables,
    "docs/receipt.md": receipt_tables,
    "docs/search.md": search_tables,
    "docs/serve.md": serve_tables,
    "docs/toys.md": toys_tables,
    "docs/sessions.md": session_tables,
    "docs/tuning.md": tuning_tables,
    "docs/vision.md": vision_tables,
}
"""Of each page with generated tables, what makes them by name of the folder ``eval/results``."""

_BLOCK = re.compile(r"(<!-- (?:choices|figures): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return a page of ``PAGES`` as it should be, from the committed results."""
    return fill((ROOT / page).read_text(encoding="utf-8"), PAGES[page](ROOT / "eval" / "results"))


def write(page: str) -> Path:
    """Write a page of ``PAGES`` anew and return its path."""
    text = filled(page)
    (ROOT / page).write_text(text, encoding="utf-8")
    return ROOT / page


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
