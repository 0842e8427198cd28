"""The blocks of docs/estimate.md: the memory of published sizes, and estimates beside measured peaks."""

from __future__ import annotations

import json
from pathlib import Path

from prunevid_qwen.config import get_config
from prunevid_qwen.config.amounts import percent, size
from prunevid_qwen.evaluation.estimate import PromptNumbers
from prunevid_qwen.evaluation.estimate.estimating import bytes_needed
from prunevid_qwen.evaluation.estimate.memory import weight_bytes
from prunevid_qwen.evaluation.report.page import Table
from prunevid_qwen.evaluation.speed.model_shapes import shape_called
from research.ran import what_ran

RECORD = "estimate_memory.json"
SHAPES, FRAMES, GRID = ("3b", "7b", "32b", "72b"), (16, 64, 256, 3600), (13, 23)
_BF16 = 2


def estimate_tables(results: Path) -> dict[str, str]:
    """Return the blocks by name.

    Args:
        results: the folder ``eval/results``.
    """
    return {"estimate": _sizes(), "estimate measured": _measured(results / RECORD)}


def _sizes() -> str:
    rows = []
    for name in SHAPES:
        shape = shape_called(name)
        weights = size(weight_bytes(shape, _BF16))
        for frames in FRAMES:
            prompt = PromptNumbers(frames, *GRID)
            needed = [
                size(bytes_needed(shape, None if preset is None else get_config(preset), prompt, _BF16))
                for preset in (None, "paper", "recommended")
            ]
            words = "an hour, 3,600" if frames == FRAMES[-1] else str(frames)
            rows.append([name.upper(), weights, words, f"{frames // 2 * GRID[0] * GRID[1]:,}", *needed])
    head = ["Qwen2.5-VL", "weights", "frames", "visual tokens", "stock", "`paper`", "`recommended`"]
    return "\n".join(Table(head, rows).markdown("---"))


def _measured(path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [f"`{row['shape']}`", str(row["frames"]), f"`{row['config']}`", size(row["measured"]), size(row["estimated"]),
         percent(row["off"], 1)]
        for row in record["rows"]
    ]  # fmt: skip
    head = ["shape", "frames", "config", "measured", "estimated", "off"]
    rows_, columns = record["grid"]
    said = (
        f"{record['dtype']} on a CPU, {rows_} x {columns} tokens a position, nothing stands still, above weights and "
        f"pixels. {what_ran(record)}"
    )
    return "\n".join([*Table(head, rows).markdown("---"), "", said])
