"""The answer to the last question of a conversation, from the cache of the answer before it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from prunevid_qwen.answers.answer import Answer
from prunevid_qwen.answers.follow_up.held import remember
from prunevid_qwen.answers.follow_up.turn import next_turn
from prunevid_qwen.answers.results import results_of
from prunevid_qwen.forward.hooks import pruned


def follow_up(
    who: Any, asked: tuple[Any, ...], question: Any, streamer: Any, with_stats: bool, words: list[str] | None,
    arguments: dict[str, Any],
) -> Answer:  # fmt: skip
    """Answer it; a call of `PrunedVLM.generate` with a cache.

    Args:
        who: a `PrunedVLM`.
        asked: what the call shows: messages, video_path, images, start, end.
        question: of the call, which messages have instead.
        streamer: of transformers, or None.
        with_stats: add the receipt.
        words: of the question, if the answer is to hold which tokens were kept.
        arguments: of ``generate``, the cache among them.
    """
    began = time.perf_counter()
    with who._lock, pruned(who.model, who._what) as trace:
        turn = next_turn(who, asked, question, arguments)
        output = who.model.generate(**turn.inputs, streamer=streamer, **arguments)
        remember(who, turn.inputs, output, turn.inputs["input_ids"], turn.sample.text, turn.media)
    turn.note(trace)
    own = output, [turn.sample], turn.inputs, trace, {"read": 0.0, "total": time.perf_counter() - began}
    return results_of(who, *own, with_stats, words, partial(turn.correct, trace))[0]
