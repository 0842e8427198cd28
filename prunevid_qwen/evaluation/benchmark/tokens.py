"""What pruning left of the videos that were answered about: means over the same lines that the scores are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from prunevid_qwen.config.amounts import percent

_COUNTS = ("visual", "after_stage1", "after_stage2", "layer_average", "prompt", "generated")

DEFINITIONS = {
    "visual": "visual tokens of a prompt, out of the vision encoder",
    "after_stage1": "of these, those that enter the decoder",
    "after_stage2": "those that the layers after layer M see",
    "layer_average": "mean over the decoder's layers",
    "kept": "after_stage2 / visual of each prompt, its mean; papers' retained ratio",
    "layer_average_kept": "layer_average / visual of each prompt, its mean: compares methods that prune at different "
    "depths",
}


def token_rows(lines: Iterable[Mapping[str, Any]], configs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean counts of each config, over its answered questions.

    Args:
        lines: as stored; several of one question and config count once.
        configs: in the order of the tables.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in configs}
    for line in lines:
        if line["error"] is None and line["config"] in found:
            found[line["config"]].setdefault(line["id"], line["tokens"])
    return [_row(name, [counts for _, counts in sorted(own.items())]) for name, own in found.items() if own]


def _row(config: str, counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seen = [each for each in counts if each["visual"]]
    return {
        "config": config,
        "prompts": len(counts),
        **{name: fmean(each[name] for each in counts) for name in _COUNTS},
        "kept": fmean(each["after_stage2"] / each["visual"] for each in seen) if seen else None,
        "layer_average_kept": fmean(each["layer_average"] / each["visual"] for each in seen) if seen else None,
    }


def token_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head = ("config", "prompts", "visual", "after stage 1", "after stage 2", "kept", "layer average", "answer")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [row["config"], str(row["prompts"])]
        cells += [f"{row[name]:.1f}" for name in ("visual", "after_stage1", "after_stage2")]
        cells += ["" if row[name] is None else percent(row[name], 1) for name in ("kept", "layer_average_kept")]
        lines.append(f"| {' | '.join([*cells, format(row['generated'], '.1f')])} |")
    return lines
