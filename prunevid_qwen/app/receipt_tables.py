"""A receipt as small tables: what each step left, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunevid_qwen.config.amounts import percent, sizes

_PARTS = {
    "read": "reading the video", "vision": "vision encoder", "merge": "merging", "prefill": "decoder over the prompt",
    "select": "selecting", "compact": "cutting the cache",
}  # fmt: skip
_OF_THE_VIDEO = ("read", "vision")
_OF_THE_PROMPT = ("merge", "prefill", "select", "compact")
TOKENS_HEAD = ["", "tokens", "kept", "by"]


def tokens_rows(stats: Mapping[str, Any]) -> list[list[str]]:
    """Return what each step left of the visual tokens, their mean over the layers, and what is left of the cache."""
    tokens = stats["tokens"]
    whole = tokens["visual"]

    def row(name: str, left: float, by: str = "") -> list[str]:
        return [name, f"{left:,.0f}", percent(left / whole) if whole else "", by]

    rows = [row("unpruned", whole)]
    rows += [row(f"after {each['where']}", each["tokens_out"], each["name"]) for each in stats["steps"]]
    rows.append(row("mean of the layers", tokens["layer_average"]))
    three = stats["stage3"]
    left, full = three["cache_bytes"], three["cache_bytes_unpruned"]
    if full:
        rows.append(["cache", "{} of {}".format(*sizes(left, full)), percent(left / full), ""])
    return rows


def times_head(sides: Mapping[str, Any]) -> list[str]:
    """Return the heads of the table of times."""
    return ["seconds", *sides]


def times_rows(answers: Mapping[str, Any]) -> list[list[str]]:
    """Return the seconds of each part, a column for each answer, in the order of ``answers``.

    A video that was encoded before, or for the other answer, says "reused" in place of seconds.
    """
    sides = [each["stats"] for each in answers.values()]

    def seconds(side: Mapping[str, Any], part: str) -> float:
        return float(side["seconds"].get(part) or 0.0)

    def cell(side: Mapping[str, Any], part: str) -> str:
        return "reused" if part in _OF_THE_VIDEO and _reused(side) else f"{seconds(side, part):.3f}"

    rows = [
        [words, *(cell(side, part) for side in sides)]
        for part, words in _PARTS.items()
        if any(seconds(side, part) for side in sides)
    ]
    rows.append(
        ["the prompt, all steps", *(f"{sum(seconds(side, part) for part in _OF_THE_PROMPT):.3f}" for side in sides)]
    )
    later = [side["seconds"].get("decode_per_token") for side in sides]
    rows.append(["each token after the first", *("" if each is None else f"{each:.4f}" for each in later)])
    return rows


def reused_line(stats: Mapping[str, Any]) -> str:
    """Say in a sentence what earlier questions spared this one; "" where they spared nothing."""
    spared = ["The video was encoded before."] if _reused(stats) else []
    if (stats.get("session") or {}).get("prefix") == "reused":
        spared.append("The layers up to the first cut ran on the question alone.")
    return " ".join(spared)


def _reused(stats: Mapping[str, Any]) -> bool:
    return (stats.get("session") or {}).get("vision") == "reused"
