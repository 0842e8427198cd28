"""The block "tune budget" of docs/tuning.md: a budget chosen without labels, held against known answers."""

from __future__ import annotations

import json
from pathlib import Path

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.page import Table
from research.ran import what_ran

RECORD = "tune_budget.json"


def tuning_tables(results: Path) -> dict[str, str]:
    """Return the block by its name.

    Args:
        results: the folder ``eval/results``.
    """
    record = json.loads((results / RECORD).read_text(encoding="utf-8"))
    right = {row["budget"]: row for row in record["right"]}

    def interval(ends: list[float], digits: int = 1) -> str:
        return f"{percent(ends[0], digits)} to {percent(ends[1], digits)}"

    rows = []
    for row in record["rows"]:
        first, held, own = row["first"], row["held_out"], right[row["budget"]]
        rows.append(
            [
                f"{row['budget']:g}",
                percent(row["kept"]),
                percent(first["disagreement"], 1),
                percent(first["upper"], 1),
                percent(held["disagreement"], 1),
                interval(held["interval"]),
                percent(own["right"], 1),
                interval(own["difference_interval"]),
            ]
        )
    head = [
        f"`{record['option'].partition('.')[2]}`", "tokens", "differ", "shown below", "differ, held out", "interval",
        "right, held out", "right, less unpruned",
    ]  # fmt: skip
    first, held = record["rows"][0]["first"], record["rows"][0]["held_out"]
    choices = []
    for each in record["choices"]:
        promise = percent(each["promise"])
        if each["chosen"] is None:
            choices.append(f"For a promise of {promise} no budget is shown to keep it.")
        else:
            kept = "is within it" if each["held"] else "is above it"
            choices.append(f"For {promise} it chooses {each['chosen']:g}, and the held-out half {kept}.")
    stock = percent(record["right"][0]["unpruned"], 1)
    said = (
        f"`{record['preset']}` on the first toy: {first['questions']} questions about {first['videos']} clips choose, "
        f"{held['questions']} about {held['videos']} are held out; unpruned, {stock} "
        f"of those are answered right. {' '.join(choices)} {what_ran(record)}"
    )
    return {"tune budget": "\n".join([*Table(head, rows).markdown("---"), "", said])}
