"""What ``PruneVidConfig(verbose=True)`` logs: a line for each stage of an answer, read from its receipt.

The lines are INFO records of the logger "prunevid_qwen". Most people who ask for them have configured no logging, and
Python drops INFO then. So a line passes the levels of the loggers above ours, which are WARNING unless somebody said
otherwise, and goes to their handlers; where there is none it goes to stderr, as Python does with warnings. No handler
is attached and no level is changed: who configures logging later reads nothing twice. Who wants silence gets it by a
level on the logger "prunevid_qwen" itself, by a handler's level, or by ``logging.disable``.
"""

from __future__ import annotations

import logging
from typing import Any

from prunevid_qwen.config.amounts import percent

logger = logging.getLogger("prunevid_qwen")


def log_stages(stats: dict[str, Any], sample: str = "") -> None:
    """Log a line for each stage.

    Args:
        stats: the receipt of one answer.
        sample: which answer of several, or "".
    """
    for line in stage_lines(stats):
        _log(f"{sample}{line}")


def stage_lines(stats: dict[str, Any]) -> list[str]:
    """Return what each stage did to one sample: tokens in, tokens out and how.

    One line for each of the three; where stage 2 cut several times, a line for each cut before the last one, too.
    """
    one, two, three = stats["stage1"], stats["stage2"], stats["stage3"]
    merged = (
        f"{_tokens(one)} by merger {one['merger']}: {percent(one['reduction_percentage'] / 100, 1)} fewer, "
        f"{percent(one['static_ratio'], 1)} merged over time"
    )
    selected = (
        f"{_tokens(two)} by selector {two['selector']} after layer {two['layer']}: "
        f"{percent(two['achieved_ratio'], 1)} kept"
    )
    cached = (
        f"cache of {three['original_length']} -> {three['compressed_length']} entries a layer: "
        f"{percent(three['reduction_ratio'], 1)} less over all layers"
        + (" with a cache; states of linear attention are whole" if three.get("partial") else "")
    )
    said = ((1, "merge", one, merged), (2, "select", two, selected), (3, "compress", three, cached))
    lines = [f"stage {number} ({verb}): {_or_why_not(stage, line)}" for number, verb, stage, line in said]
    cuts = [row for row in stats.get("steps", ()) if row["where"] != "door"]
    lines[1:1] = [
        f"stage 2 (select): {row['tokens_in']} -> {row['tokens_out']} visual tokens by selector {row['name']} "
        f"after {row['where']}"
        for row in cuts[:-1]
    ]
    return lines


def _tokens(stage: dict[str, Any]) -> str:
    return f"{stage['original_tokens']} -> {stage['compressed_tokens']} visual tokens"


def _or_why_not(stage: dict[str, Any], line: str) -> str:
    if not stage["applied"]:
        return str(stage["note"] or "off")
    return f"{line} ({stage['note']})" if stage["note"] else line


def _log(line: str) -> None:
    if logger.level > logging.INFO or logger.manager.disable >= logging.INFO:
        return
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None, "log_stages")
    if logger.hasHandlers():
        logger.handle(record)  # not `logger.info`, which asks the levels above
        return
    last = logging.StreamHandler()  # made now: stderr may be another one than at import
    last.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    last.handle(record)
