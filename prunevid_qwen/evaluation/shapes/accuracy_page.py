"""The accuracy report: the run, its findings and tables, how to read it, and the limits of its claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import page
from prunevid_qwen.evaluation.shapes.accuracy_plots import draw_plots
from prunevid_qwen.evaluation.shapes.accuracy_summary import write_summary
from prunevid_qwen.evaluation.shapes.accuracy_tables import (
    PARTIAL,
    accuracy_table,
    evidence_table,
    group_tables,
    token_table,
    unreachable_list,
)
from prunevid_qwen.evaluation.shapes.findings import WIDEST_TIE, findings
from prunevid_qwen.evaluation.shapes.methods import LEAST_KEEP_RATIO
from prunevid_qwen.evaluation.store import replace

REPORT = "report.md"

_HOW_TO_READ = f"""\
- **Tokens** are visual tokens averaged over the decoder's layers, as a share of the whole video's: in one column every
  method costs the decoder the same. A method that selects after layer M cannot go below (M + 1) / layers. "Fewer
  frames" and "smaller frames" also save the vision encoder's work, which is not counted here.
- **A budget is reached** by one config for each condition, fitted on other videos: `keep_ratio` first, from 1 down to
  {LEAST_KEEP_RATIO:g} at `cluster_ratio=1` (stage 1 then merges what looks alike over time alone), after that
  `cluster_ratio`. "prunevid published" keeps the paper's `cluster_ratio=0.5` instead; "recommended" moves `keep_ratio`
  alone. What only merges or only selects has one ratio to move.
- **Accuracy** is the share of questions answered right. The line below it is the difference to the unpruned model on
  the same questions, in points, with its 95 % interval (bootstrap, whole videos drawn with replacement). **Bold**: the
  interval leaves out 0. Of many cells that differ in nothing, one in twenty would still be bold.
- A tie is an interval that holds 0 and is at most {100 * WIDEST_TIE:g} points wide from end to end. An interval from
  0 to 0 says that no answer differed on these videos, not that none ever will.
- **{PARTIAL}** marks cells that some conditions could not reach. Their accuracy is over the others alone and must not
  be compared along the row; their difference is paired over the same questions and may be.
- **No video** is the unpruned model shown a grey video of the same length: the floor, which no method should be near.
- Methods that draw at random were asked under several random seeds, averaged for each question.
- **Evidence** is the tokens that the asked-about objects cover. Recall is the share of them that survive: a token
  merged into one that is kept counts by the share of that merged token's members that show the same object."""

_LIMITS = """\
This is a toy: a model of a few million parameters, trained from scratch on generated shapes, with 16 or 36 tokens a
frame. It tells on a laptop whether a change to a method breaks it, and which of two methods keeps more of what is asked
about, in a world of few objects. **It says nothing about the accuracy of Qwen2.5-VL**: real videos have texture, text
and hundreds of tokens a frame, and its attention is that of a deeper network. `min_cluster_tokens` is 1 here, not the
authors' 14, which is meant for frames of 140 to 196 tokens. How the model was trained stands in its card; expect the
order of close methods to change on a real model."""


def write_report(folder: Path, plots: bool = True) -> Path:
    """Write ``summary.json``, the plots and ``report.md`` of a complete run; return the path of ``report.md``.

    Raises:
        ConfigError: the run is not complete, and what to do.
        SetupError: matplotlib is not installed; the summary is written by then.
    """
    summary = json.loads(write_summary(folder).read_text(encoding="utf-8"))
    if plots:
        draw_plots(summary, folder)
    path = folder / REPORT
    replace(path, report(summary, plots).encode())
    return path


def report(summary: dict[str, Any], plots: bool = True) -> str:
    """Return the report on a summary in markdown, with ``plots`` that are drawn beside it."""
    figures = summary["figures"]
    conditions = ", ".join(f"{name} ({row['videos']})" for name, row in figures["conditions"].items())

    def picture(name: str, alternative: str) -> str:
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{name}_dark.svg">'
        return f'<picture>{dark}<img alt="{alternative}" src="{name}_light.svg"></picture>' if plots else ""

    return page(
        "# Does pruning keep the answers?",
        f"{figures['questions']} questions about {figures['videos']} held-out videos ({conditions}), asked of the "
        "bundled model under every method at every budget. Written by `prunevid bench accuracy`; do not edit.",
        picture("accuracy", "Accuracy against layer-averaged tokens, by method"),
        "## What it says",
        *(f"**{head}**\n\n" + "\n".join(f"- {line}" for line in lines) for head, lines in findings(figures).items()),
        "## Accuracy",
        "Percent right, and the difference to unpruned on the same questions in points with its 95 % interval.",
        accuracy_table(figures),
        "## By type of question",
        "Difference to unpruned in points.",
        picture("types", "Accuracy against layer-averaged tokens, by type of question"),
        group_tables(figures, "by_type"),
        "## By way of asking and by condition",
        group_tables(figures, "by_way"),
        group_tables(figures, "by_condition"),
        "## Evidence recall",
        "Percent of the tokens on the asked-about objects that survive / percent of all tokens that survive.",
        picture("evidence", "Evidence recall against the share of tokens kept"),
        evidence_table(figures),
        "## Tokens",
        "Layer-averaged tokens achieved / the paper's retained ratio (after stage 2, against tokens in), in percent. "
        "The config that reaches each cell stands in `summary.json`.",
        token_table(figures),
        "## Out of reach",
        unreachable_list(figures),
        "## How to read it",
        _HOW_TO_READ,
        "## What it cannot say",
        _LIMITS,
        "## What was run",
        _what_was_run(summary["run"]),
        "Is a change better than this, by how much, and is it noise? Run the same command into another folder with "
        "`--against` this one: it says so, question by question.",
    )


def _what_was_run(run: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in sorted(run.items()):
        if key == "options" and isinstance(value, dict):  # the methods' options are long and stand in run.json
            value = {name: option for name, option in value.items() if name != "methods"}
        shown = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)
        lines.append(f"- {key.replace('_', ' ')}: `{shown}`")
    return lines or ["run.json says nothing about this run."]
