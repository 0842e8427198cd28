"""Was pruning faster? What --compare makes of the seconds of several turns, pruned and unpruned one after the other.

Only what pruning can change is judged: the decoder over the prompt with the stages inside it, and as many decode steps
as both sides made. Reading and the vision encoder, which both sides share, are left out. The rule: a side is faster if
it was in at least 5 of 6 turns (in all of 3 to 5), and the middle of the turns' ratios is at least 1.05. Else the two
cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import median
from typing import Any

from prunevid_qwen.config.amounts import percent

Stats = dict[str, Any]

FASTER, SLOWER, APART, UNTIMED = "faster", "slower", "cannot_be_told_apart", "no_timings"
AGREEING = 5 / 6  # of the turns have to say the same
NOTICEABLE = 1.05  # a middle ratio below it is noise, whatever the turns agree on
_SHORT_PROMPT = 2000  # tokens; below it the decoder has little to save
_STAGES = ("merge", "select", "compact")


def seconds_of(stats: Stats, *parts: str) -> float:
    """Return the seconds that some parts of a run took together; a part that did not run took none."""
    return sum(float(stats["seconds"].get(part) or 0.0) for part in parts)


def first_token_seconds(stats: Stats) -> float:
    """Return the seconds from the call to the first token."""
    if stats["seconds"].get("first_token"):
        return float(stats["seconds"]["first_token"])
    return seconds_of(stats, "read", "vision") + prompt_seconds(stats)


def prompt_seconds(stats: Stats) -> float:
    """Return the seconds of the decoder over the prompt, the three stages included."""
    return seconds_of(stats, "prefill", *_STAGES)


def judge(turns: Sequence[tuple[Stats, Stats]]) -> dict[str, Any]:
    """Judge by the receipts of the turns, each (pruned, unpruned).

    Returns:
        Ready for JSON: ``outcome`` ("faster", "slower", "cannot_be_told_apart" or "no_timings"), ``turns``, what was
        judged (``decoder_seconds`` of each turn and their medians, ``ratios`` unpruned / pruned of each turn and the
        median ``ratio``; above 1 pruning is faster), the same ratio for the prompt and for a decode step alone,
        ``first_token_seconds``, ``first_token_ratio``, and what both sides share before it: ``shared_seconds``,
        ``shared_share`` of the unpruned first token.
    """
    steps = min(max(0, int(stats["generated_tokens"]) - 1) for turn in turns for stats in turn)
    shared = seconds_of(turns[0][0], "read", "vision")
    decoder, ratios = _both(turns, lambda stats: prompt_seconds(stats) + steps * seconds_of(stats, "decode_per_token"))
    first, of_first = _both(turns, lambda stats: shared + prompt_seconds(stats))
    slowest_first = median(first["unpruned"])
    return {
        "outcome": _outcome(ratios),
        "turns": len(turns),
        "turns_that_must_agree": ceil(AGREEING * len(turns)),
        "least_ratio": NOTICEABLE,
        "decode_steps": steps,
        "decoder_seconds": decoder,
        "decoder_seconds_median": {side: median(seconds) for side, seconds in decoder.items()},
        "ratios": ratios,
        "ratio": _middle(ratios),
        "prompt_ratio": _middle(_both(turns, prompt_seconds)[1]),
        "decode_ratio": _middle(_both(turns, lambda stats: seconds_of(stats, "decode_per_token"))[1]),
        "first_token_seconds": {side: median(seconds) for side, seconds in first.items()},
        "first_token_ratio": _middle(of_first),
        "shared_seconds": {part: seconds_of(turns[0][0], part) for part in ("read", "vision")},
        "shared_share": shared / slowest_first if slowest_first > 0 else None,
    }


def middle_turn(seconds: Sequence[float]) -> int:
    """Return the index of the turn whose seconds are the middle ones, the faster of two."""
    order = sorted(range(len(seconds)), key=lambda turn: seconds[turn])
    return order[(len(order) - 1) // 2]


def sentence(found: dict[str, Any], pruned: Stats, full: Stats) -> str:
    """Say the verdict in words, and why pruning was not faster where it was not.

    Args:
        found: from `judge`.
        pruned, full: the receipts of the middle turns.
    """
    if found["outcome"] == UNTIMED:
        return "No timings to compare."
    ours, theirs = found["decoder_seconds_median"]["pruned"], found["decoder_seconds_median"]["unpruned"]
    spread = f"{min(found['ratios']):.2f}x to {max(found['ratios']):.2f}x"
    ratio = f"the decoder, all that pruning can change, is {found['ratio']:.2f}x as fast"
    took = f"{ours:.3g} s pruned and {theirs:.3g} s unpruned"
    if found["outcome"] == FASTER:
        verdict, because = "Pruned is faster", ""
    elif found["outcome"] == SLOWER:
        verdict, because = "Pruned is slower here", _because(pruned, full)
    else:
        disagree = min(found["ratios"]) < 1 < max(found["ratios"])
        why = "The turns disagree" if disagree else f"Less than {NOTICEABLE:g}x is noise"
        verdict = f"{why} ({spread} in {found['turns']} turns), so this does not show whether pruning is faster"
        return f"{verdict}. By the median {ratio}, {took}.{_first_token(found)}"
    return f"{verdict}: {ratio} ({found['turns']} turns, {spread}), {took}{because}.{_first_token(found)}"


def _first_token(found: dict[str, Any]) -> str:
    if found["first_token_ratio"] is None:
        return ""
    ratio, share = found["first_token_ratio"], percent(found["shared_share"])
    said = f"{ratio:.2f}x sooner" if ratio > 1 else f"{1 / ratio:.2f}x later"
    if 0.995 < ratio < 1.005:
        said = "after the same time"
    return (
        f" The first token comes {said}: reading and the vision encoder, which pruning leaves alone, are {share} of "
        "the unpruned time to it."
    )


def _because(pruned: Stats, full: Stats) -> str:
    reasons = []
    choosing = seconds_of(pruned, *_STAGES)
    if choosing > 0.2 * prompt_seconds(pruned):
        reasons.append(f"choosing the tokens itself takes {choosing:.3g} s")
    prompt = int(full["input"]["prompt_tokens"])
    if prompt < _SHORT_PROMPT:
        reasons.append(f"the prompt is short ({prompt} tokens)")
    return ", because " + " and ".join(reasons) if reasons else ""


def _both(turns: Sequence[tuple[Stats, Stats]], seconds: Any) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of both sides, and unpruned / pruned of each turn: none at all where some turn has no seconds."""
    pairs = [(float(seconds(pruned)), float(seconds(full))) for pruned, full in turns]
    ratios = [theirs / ours for ours, theirs in pairs] if all(min(pair) > 0 for pair in pairs) else []
    return {"pruned": [ours for ours, _ in pairs], "unpruned": [theirs for _, theirs in pairs]}, ratios


def _middle(ratios: list[float]) -> float | None:
    return median(ratios) if ratios else None


def _outcome(ratios: list[float]) -> str:
    if not ratios:
        return UNTIMED
    needed, middle = ceil(AGREEING * len(ratios)), median(ratios)
    if middle >= NOTICEABLE and sum(ratio > 1 for ratio in ratios) >= needed:
        return FASTER
    if middle <= 1 / NOTICEABLE and sum(ratio < 1 for ratio in ratios) >= needed:
        return SLOWER
    return APART
