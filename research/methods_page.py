"""The tables of methods and of exit codes, from the registry and from the command line: no figure is in them."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.cli.output import EXIT_CODES
from prunevid_qwen.contract.listing import method_rows
from prunevid_qwen.evaluation.report.page import Table

STAGES = {1: "before the decoder", 2: "inside the decoder"}


def method_tables(results: Path | None = None, controls: bool = True) -> dict[str, str]:
    """Return the block "methods": a row for each registered method.

    Args:
        results: not read; the tables of other pages come from there.
        controls: with those that are no paper's.
    """
    head = ["Method", "Acts", "Paper", "Needs", "Trained", "Budget"]
    rows = [
        [f"`{row['name']}`", STAGES[row["stage"]], _linked(row["paper"]), ", ".join(row["needs"]) or "nothing",
         "yes" if row["trained"] else "no", f"`{row['budget']}`" if row["budget"] else "none"]
        for row in method_rows()
        if controls or row["paper"]
    ]  # fmt: skip
    return {"methods": "\n".join(Table(head, rows).markdown("---"))}


def exit_code_tables(results: Path | None = None) -> dict[str, str]:
    """Return the block "exit codes".

    Args:
        results: not read; the tables of other pages come from there.
    """
    rows = [[str(code), meaning] for code, meaning in EXIT_CODES.items()]
    return {"exit codes": "\n".join(Table(["Code", "Meaning"], rows).markdown("---"))}


def _linked(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv ')})" if paper else "a control"
