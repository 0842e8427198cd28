"""The published tables that there are scripts for, by name."""

from __future__ import annotations

from prunevid_qwen.evaluation.reproduction import fastvid, flashvid, glimpse, prunevid
from prunevid_qwen.evaluation.reproduction.published import PublishedTable

TABLES: dict[str, PublishedTable] = {
    each.name: each for each in (prunevid.TABLE, flashvid.TABLE, fastvid.TABLE, glimpse.TABLE)
}
