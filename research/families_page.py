"""The tables of docs/models.md: families, from the adapters and frontends themselves, and releases of transformers."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.inputs.family_rows import HEAD, family_cells, family_rows
from research.releases_page import release_tables


def models_tables(results: Path) -> dict[str, str]:
    """Return the blocks "families" and "transformers".

    Args:
        results: the folder ``eval/results``.
    """
    lines = []
    for row in family_rows():
        name, model_type, *cells = family_cells(row)
        merges = cells[2] if cells[2] != "merge_images" else "`merge_images`"
        lines.append([name, f"`{model_type}`", *cells[:2], merges, *cells[3:], f"`{row['checkpoints']}`"])
    return {"families": "\n".join(Table((*HEAD, "checkpoints"), lines).markdown("---")), **release_tables(results)}
