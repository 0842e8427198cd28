"""Rows of published tables by name, for tests."""

from __future__ import annotations

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.published.budget import Depth
from prunevid_qwen.evaluation.published.table import Setting, TableRow, published_table, table_names

QWEN = Depth(28)
TABLES = {name: published_table(name) for name in table_names()}
BUDGETS = (0.25, 0.20, 0.15, 0.10)
"""FlashVID's."""


def row_of(setting: Setting, name: str) -> TableRow:
    [found] = [row for row in setting.rows if row.name == name]
    return found


def at_budget(method: str, share: float, depth: Depth = QWEN) -> PruneVidConfig:
    """Return our config of a method in FlashVID's table."""
    found = row_of(TABLES["flashvid"].settings[0], f"{method} {round(100 * share)} %")
    assert found.ours is not None
    return found.ours.config(depth)
