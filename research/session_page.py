"""The block "session" of docs/sessions.md: what a later question costs, from the committed raw result."""

from __future__ import annotations

import json
from pathlib import Path

from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.evaluation.shapes.accuracy_page import percent
from research.ran import what_ran

RECORD = "session_speed.json"
_NOT_YET = (
    "Not measured yet. `python -m research.session_speed` and `python tools/fill_pages.py` write this table, on an "
    "idle machine."
)


def session_tables(results: Path) -> dict[str, str]:
    """Return the block by its name.

    Args:
        results: the folder ``eval/results``.
    """
    path = results / RECORD
    if not path.is_file():
        return {"session": _NOT_YET}
    record = json.loads(path.read_text(encoding="utf-8"))
    median = {name: each["median"] for name, each in record["seconds"].items()}
    seconds = {name: f"{1000 * each:.0f} ms" for name, each in median.items()}
    head = ["", "fresh call", "fresh prefill", "later question", "of a fresh prefill", "predicted", "of a fresh call",
            "held beside the video"]  # fmt: skip
    kept = median["stock, kept cache"]
    rows = [
        [
            "stock over its own kept cache",
            *(seconds[f"stock, {each}"] for each in ("fresh call", "fresh prefill", "kept cache")),
            percent(kept / median["stock, fresh prefill"]),
            "",
            percent(kept / median["stock, fresh call"]),
            "all keys and values",
        ]
    ]
    for row in record["rows"]:
        name = row["preset"]
        rows.append(
            [
                f"`{name}`",
                *(seconds[f"{name}, {each}"] for each in ("fresh call", "fresh prefill", "later question")),
                percent(row["of_fresh_prefill"]["median"]),
                percent(row["predicted"]),
                percent(row["of_fresh_call"]["median"]),
                f"{row['prefix_bytes'] / 2**20:.1f} MiB",
            ]
        )
    rounds = record["rows"][0]["of_fresh_prefill"]["n"]
    said = (
        f"Time to the first token, {record['frames']} frames, {record['prompt_tokens']} tokens, `{record['shape']}`; "
        f"medians of {rounds} rounds in turns, shares in percent. A fresh prefill has the encoded video. Predicted: "
        f"the share of a fresh prefill's token-layers. {what_ran(record)}"
    )
    return {"session": "\n".join([*Table(head, rows).markdown("---"), "", said])}
