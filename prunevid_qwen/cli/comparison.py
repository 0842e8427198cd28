"""``--compare``: answers with and without pruning in turns, and whether pruning was faster.

Only what pruning can change is judged: the decoder over the prompt with the stages inside it, and as many decode steps
as both sides made. Reading and the vision encoder, which both sides share, are left out. A config that lets the encoder
copy what stands still shares neither: each side is encoded by itself, and the first token has both. The rule: a side is
faster if it was in at least 5 of 6 turns (in all of 3 to 5), and the middle of the turns' ratios is at least 1.05. Else
the two cannot be told apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import ceil
from statistics import median, median_low
from typing import Any

from prunevid_qwen.answers.answer import Answer
from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.media_reading import STOCK_ENCODER

Stats = dict[str, Any]

FASTER, SLOWER, APART, UNTIMED = "faster", "slower", "cannot_be_told_apart", "no_timings"
AGREEING = 5 / 6  # of the turns have to say the same
NOTICEABLE = 1.05  # a middle ratio below it is noise, whatever the turns agree on
_SHORT_PROMPT = 2000  # tokens; below it the decoder has little to save
_STAGES = ("merge", "select", "compact")
_WARM_UP_TOKENS = 2
_LEAST_TURNS, _MOST_TURNS = 3, 7
_LONGEST = 60.0  # seconds after which no turn beyond the least is begun


def compared(
    model: Any,
    config: PruneVidConfig,
    shown: dict[str, Any],
    max_new_tokens: int,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda words: None,
    clock: Callable[[], float] = time.perf_counter,
    keep_map: bool = False,
) -> Answer:
    """Answer with and without pruning in turns, about media that are read once for both, and encoded once if they can.

    Each side answers once unmeasured, then seven times in turns; after a minute the third turn is the last.

    Args:
        model: which prunes by ``config``.
        shown: media and question, as arguments of ``prepare``.
        max_new_tokens: the longest answer.
        progress: called with the frames encoded so far and those of all videos.
        tell: called with what comes next, in words.
        clock: returns seconds.
        keep_map: hold which tokens the pruned side kept.

    Returns:
        Ready for JSON: "answer" and "stats" of the pruned side's middle turn, "baseline" with those of the other's,
        "same_answer", "comparison" from `judge`, its "verdict" in words, and "warmed_up".
    """
    quiet, reading = config.replace(verbose=False), config.reading
    apart = reading.reuse_threshold is not None or reading.early_tau is not None
    sides = (model.with_config(quiet), model.with_config(quiet.replace(**ALL_OFF, **STOCK_ENCODER)))
    prepared = model.prepare(**shown, progress=progress)
    media = (prepared, prepared)
    if apart and prepared.encoded is not None:  # the first run of the encoder was its warm-up
        tell("encoding all of it, and again what moves")
        media = (model.prepare(**shown, progress=progress), sides[1].prepare(**shown, progress=progress))
    tell("warming up, with and without pruning")
    for side, own in zip((model, sides[1]), media, strict=True):
        side.answer(own, max_new_tokens=min(_WARM_UP_TOKENS, max_new_tokens))
    held = {"keep_map": True} if keep_map else {}
    turns: list[tuple[dict[str, Any], dict[str, Any]]] = []
    began = clock()
    while len(turns) < _LEAST_TURNS or (len(turns) < _MOST_TURNS and clock() - began < _LONGEST):
        tell(f"answering with and without pruning, turn {len(turns) + 1} of at most {_MOST_TURNS}")
        both = zip(sides, media, (held, {}), strict=True)
        pruned, full = (side.answer(own, max_new_tokens=max_new_tokens, **more) for side, own, more in both)
        turns.append((pruned, full))
    found = judge([(pruned["stats"], full["stats"]) for pruned, full in turns], apart)
    found["encoded_once"] = prepared.encoded is not None and not apart
    seconds = found["decoder_seconds"].values()  # of the pruned turns, of the others
    pruned, full = (turns[each.index(median_low(each))][side] for side, each in enumerate(seconds))
    result = {
        "answer": pruned["answer"],
        "stats": pruned["stats"],
        "baseline": full,
        "same_answer": full["answer"] == pruned["answer"],
        "verdict": sentence(found, pruned["stats"], full["stats"]),
        "comparison": found,
        "warmed_up": True,
    }
    return Answer.of(result, pruned.kept if keep_map else None)


def seconds_of(stats: Stats, *parts: str) -> float:
    """Return the seconds that some parts of a run took together; a part that did not run took none."""
    return sum(float(stats["seconds"].get(part) or 0.0) for part in parts)


def prompt_seconds(stats: Stats) -> float:
    """Return the seconds of the decoder over the prompt, the three stages included."""
    return seconds_of(stats, "prefill", *_STAGES)


def judge(turns: Sequence[tuple[Stats, Stats]], apart: bool = False) -> dict[str, Any]:
    """Judge by the receipts of the turns, each (pruned, unpruned).

    Args:
        turns: at least one.
        apart: the sides were read and encoded by themselves: they share nothing before the decoder.

    Returns:
        Ready for JSON: ``outcome`` ("faster", "slower", "cannot_be_told_apart" or "no_timings"), ``turns``, what was
        judged (``decoder_seconds`` of each turn and their medians, ``ratios`` unpruned / pruned of each turn and the
        median ``ratio``; above 1 pruning is faster), the same ratio for the prompt and for a decode step alone,
        ``first_token_seconds``, ``first_token_ratio``, and what both sides share before it: ``shared_seconds``,
        ``shared_share`` of the unpruned first token. ``encoder_seconds`` are the medians of reading and the vision
        encoder.
    """

    def both(seconds: Callable[[Stats], float]) -> tuple[dict[str, list[float]], list[float], float | None]:
        pairs = [(float(seconds(pruned)), float(seconds(full))) for pruned, full in turns]
        ratios = [theirs / ours for ours, theirs in pairs] if all(min(pair) > 0 for pair in pairs) else []
        sides = {"pruned": [ours for ours, _ in pairs], "unpruned": [theirs for _, theirs in pairs]}
        return sides, ratios, median(ratios) if ratios else None

    steps = min(max(0, int(stats["generated_tokens"]) - 1) for turn in turns for stats in turn)
    shared = 0.0 if apart else seconds_of(turns[0][0], "read", "vision")

    def before(stats: Stats) -> float:
        return seconds_of(stats, "read", "vision") if apart else shared

    decoder, ratios, ratio = both(lambda stats: prompt_seconds(stats) + steps * seconds_of(stats, "decode_per_token"))
    first, _, first_ratio = both(lambda stats: before(stats) + prompt_seconds(stats))
    encoder, _, _ = both(before)
    slowest_first = median(first["unpruned"])
    needed, outcome = ceil(AGREEING * len(turns)), UNTIMED if ratio is None else APART
    if ratio is not None and ratio >= NOTICEABLE and sum(each > 1 for each in ratios) >= needed:
        outcome = FASTER
    elif ratio is not None and ratio <= 1 / NOTICEABLE and sum(each < 1 for each in ratios) >= needed:
        outcome = SLOWER
    return {
        "outcome": outcome,
        "turns": len(turns),
        "turns_that_must_agree": needed,
        "least_ratio": NOTICEABLE,
        "decode_steps": steps,
        "decoder_seconds": decoder,
        "decoder_seconds_median": {side: median(seconds) for side, seconds in decoder.items()},
        "ratios": ratios,
        "ratio": ratio,
        "prompt_ratio": both(prompt_seconds)[2],
        "decode_ratio": both(lambda stats: seconds_of(stats, "decode_per_token"))[2],
        "first_token_seconds": {side: median(seconds) for side, seconds in first.items()},
        "first_token_ratio": first_ratio,
        "encoded_apart": apart,
        "encoder_seconds": {side: median(seconds) for side, seconds in encoder.items()},
        "shared_seconds": {part: 0.0 if apart else seconds_of(turns[0][0], part) for part in ("read", "vision")},
        "shared_share": shared / slowest_first if slowest_first > 0 else None,
    }


def sentence(found: dict[str, Any], pruned: Stats, full: Stats) -> str:
    """Say what `judge` found in words, and why pruning was slower, by the receipts of the middle turns."""
    if found["outcome"] == UNTIMED:
        return "No timings to compare."
    spread = f"({min(found['ratios']):.2f}x to {max(found['ratios']):.2f}x in {found['turns']} turns)"
    choosing, prompt = seconds_of(pruned, *_STAGES), int(full["input"]["prompt_tokens"])
    reasons = [f"choosing the tokens itself takes {choosing:.3g} s"] if choosing > 0.2 * prompt_seconds(pruned) else []
    reasons += [f"the prompt is short ({prompt} tokens)"] if prompt < _SHORT_PROMPT else []
    because = ", because " + " and ".join(reasons) if reasons else ""
    verdict = {
        FASTER: f"Pruned is faster {spread}",
        SLOWER: f"Pruned is slower here {spread}{because}",
        APART: f"The turns disagree or differ too little {spread}, so this does not show whether pruning is faster",
    }[found["outcome"]]
    seconds, share = found["decoder_seconds_median"], percent(found["shared_share"] or 0.0)
    alone = f"reading and the vision encoder, which pruning leaves alone, are {share} of the unpruned time to it"
    if found["encoded_apart"]:
        encoder = found["encoder_seconds"]
        alone = (
            f"reading and the vision encoder took {encoder['pruned']:.3g} s where it copies what stands still, and "
            f"{encoder['unpruned']:.3g} s where it encodes everything"
        )
    what = "" if found["encoded_apart"] else ", all that pruning can change,"
    return (
        f"{verdict}. The decoder{what} took {seconds['pruned']:.3g} s pruned and {seconds['unpruned']:.3g} s unpruned: "
        f"{found['ratio']:.2f}x as fast. The first token comes {found['first_token_ratio'] or 1:.2f}x as soon: {alone}."
    )
