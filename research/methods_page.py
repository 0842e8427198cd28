"""The tables of methods and of exit codes, from the registry and from the command line: no figure is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.cli.output import EXIT_CODES
from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.evaluation.report.page import Table
from research.comparison import STAGES, linked


def method_tables() -> dict[str, str]:
    """Return README's block "methods": the registered methods of papers and our own, by the place where they act."""
    rows = [row for row in method_rows() if row["paper"] or row["ours"]]
    places = [
        [STAGES[stage], ", ".join(_named(row) for row in rows if row["stage"] == stage)]
        for stage in dict.fromkeys(row["stage"] for row in rows)
    ]
    return {"methods": "\n".join(Table(["Acts", "Methods"], places).markdown("---"))}


def _named(row: dict[str, Any]) -> str:
    """Return a method's name with its paper's address behind it."""
    paper = linked(row["paper"], row["ours"]).replace("[arXiv ", "[")
    return f"`{row['name']}` ({paper}{', trained' if row['trained'] else ''})"


def exit_code_tables(results: Path | None = None) -> dict[str, str]:
    """Return the block "exit codes".

    Args:
        results: not read; the tables of other pages come from there.
    """
    rows = [[str(code), meaning] for code, meaning in EXIT_CODES.items()]
    return {"exit codes": "\n".join(Table(["Code", "Meaning"], rows).markdown("---"))}
