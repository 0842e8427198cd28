"""The tables of methods and of exit codes, from the registry and from the command line: no figure is in them."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.cli.output import EXIT_CODES
from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.evaluation.report.page import Table
from research.comparison import STAGES, linked


def method_tables() -> dict[str, str]:
    """Return README's block "methods": a row for each registered method of a paper."""
    head = ["Method", "Acts", "Paper", "Needs", "Trained", "Budget"]
    rows = [
        [f"`{row['name']}`", STAGES[row["stage"]], linked(row["paper"]), ", ".join(row["needs"]) or "nothing",
         "yes" if row["trained"] else "no", f"`{row['budget']}`" if row["budget"] else "none"]
        for row in method_rows()
        if row["paper"]
    ]  # fmt: skip
    return {"methods": "\n".join(Table(head, rows).markdown("---"))}


def exit_code_tables(results: Path | None = None) -> dict[str, str]:
    """Return the block "exit codes".

    Args:
        results: not read; the tables of other pages come from there.
    """
    rows = [[str(code), meaning] for code, meaning in EXIT_CODES.items()]
    return {"exit codes": "\n".join(Table(["Code", "Meaning"], rows).markdown("---"))}
