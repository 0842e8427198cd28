"""A receipt as small tables: what each step left, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunevid_qwen.config.amounts import percent, sizes

_PARTS = {
    "read": "reading the video", "vision": "vision encoder", "merge": "merging", "prefill": "decoder over the prompt",
    "select": "selecting", "compact": "cutting the cache",
}  # fmt: skip
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
    """Return the seconds of each part, a column for each answer, in the order of ``answers``."""
    seconds = [each["stats"]["seconds"] for each in answers.values()]

    def row(name: str, values: Sequence[float | None], digits: int = 3) -> list[str]:
        return [name, *("" if value is None else f"{value:.{digits}f}" for value in values)]

    rows = [
        row(words, [each.get(part) or 0.0 for each in seconds])
        for part, words in _PARTS.items()
        if any(each.get(part) for each in seconds)
    ]
    prompt = [sum(float(each.get(part) or 0.0) for part in _OF_THE_PROMPT) for each in seconds]
    rows.append(row("the prompt, all steps", prompt))
    rows.append(row("each token after the first", [each.get("decode_per_token") for each in seconds], 4))
    return rows


def reused_line(stats: Mapping[str, Any]) -> str:
    """Say in a sentence what a session spared this question; "" where it spared nothing."""
    session = stats.get("session")
    if not session:
        return ""
    spared = []
    if session["vision"] == "reused":
        spared.append("the video was encoded before")
    if session["prefix"] == "reused":
        spared.append("the layers up to the first cut ran on the question alone")
    return f"question {session['question']} about this video: {', '.join(spared)}" if spared else ""
