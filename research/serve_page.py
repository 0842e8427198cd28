"""The block "serve" of docs/serve.md: throughput of the server in batches, and a crowd of good and bad clients."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from prunevid_qwen.evaluation.report.page import Table
from research.ran import what_ran

RECORD = "serve_load.json"


def serve_tables(results: Path) -> dict[str, str]:
    """Return the block by its name.

    Args:
        results: the folder ``eval/results``.
    """
    record = json.loads((results / RECORD).read_text(encoding="utf-8"))
    rows = [_row(each) for each in record["throughput"]]
    head = ["config", "alone, a second", f"{record['clients']} clients, a second", "gain", "requests in a batch",
            "alone p50 / p95", "together p50 / p95", "answers that differ"]  # fmt: skip
    crowd = record["crowds"][-1]
    good = sum(count for name, count in crowd["outcomes"].items() if name.endswith(": right"))
    wrong = sum(count for name, count in crowd["outcomes"].items() if "wrong" in name)
    first = record["throughput"][0]
    said = (
        f"The same {first['requests']} requests about three clips, one at a time and from "
        f"{record['clients']} clients, in turns; the middle of {len(first['repeats'])}. The first toy is so small that "
        "much of a request is Python and HTTP."
    )
    p50, p95 = (_ms(crowd["good_seconds"][each]) for each in ("p50", "p95"))
    before = f"{record['crowds'][0]['bytes_before'] / 1e6:.0f}"
    after = ", ".join(f"{each['bytes_after'] / 1e6:.0f}" for each in record["crowds"])
    then = (
        f"A crowd of {crowd['requests']} requests from {crowd['clients']} clients, among them broken, huge, slowly "
        f"reading and vanishing ones, took {crowd['seconds']:.1f} s: {good} good ones were answered right and once, "
        f"{wrong} wrong. A good whole one took {p50} in the middle, {p95} at 95 %. Memory was {before} MB before the "
        f"first crowd and {after} MB after each. {what_ran(record)}"
    )
    return {"serve": "\n".join([said, "", *Table(head, rows).markdown("---"), "", then])}


def _row(row: dict[str, Any]) -> list[str]:
    repeats = row["repeats"]

    def middle(*names: str) -> float:
        values = []
        for each in repeats:
            for name in names:
                each = each[name]
            values.append(float(each))
        return float(median(values))

    return [
        f"`{row['config']}`", f"{middle('alone_per_second'):.1f}", f"{middle('together_per_second'):.1f}",
        f"{row['ratio']:.2f}x", f"{middle('mean_batch'):.1f}",
        f"{_ms(middle('alone_seconds', 'p50'))} / {_ms(middle('alone_seconds', 'p95'))}",
        f"{_ms(middle('together_seconds', 'p50'))} / {_ms(middle('together_seconds', 'p95'))}",
        str(sum(each["differ"] for each in repeats)),
    ]  # fmt: skip


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
