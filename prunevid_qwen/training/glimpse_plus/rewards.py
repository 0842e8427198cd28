"""What an answer is worth, in the form in which trl calls it: lists in, a number or None for each answer out.

An entry of the data names its reward; every function scores the answers of its own entries and returns None for the
rest, which trl leaves out of the sum. So one run may mix short answers, which are compared, with free ones, which are
judged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prunevid_qwen.errors import SetupError

Reward = Callable[..., list["float | None"]]
Ask = Callable[[str, str, str], "float | None"]
"""Marks (question, reference, answer) with a number in [0, 1], or None where it could not be marked."""

_HOPELESS = 32
"""So many answers that no mark came for, and none that one came for: the endpoint is not there."""

logger = logging.getLogger(__name__)


def normalised(text: str) -> str:
    """Return a text without capitals, double spaces, and the stops, quotes and brackets around it."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'()")


def exact_match(*, completions: Sequence[str], answer: Sequence[str], reward: Sequence[str], **_: Any) -> list[Any]:
    """Give 1 to an answer that is the reference once both are `normalised`, else 0.

    The authors ask for equality but for capitals; a stop at the end costs nothing here.

    Args:
        completions: what was said.
        answer: what is right.
        reward: by what each is scored; None is returned for others than "exact_match".
    """
    return [
        float(normalised(said) == normalised(right)) if kind == "exact_match" else None
        for said, right, kind in zip(completions, answer, reward, strict=True)
    ]


def judge_reward(ask: Ask, workers: int = 4) -> Reward:
    """Return a reward that asks a judge.

    Where no mark comes the reward is None: that answer is not learnt from. The authors count it as 0, which punishes
    answers for the endpoint's failures.

    Args:
        ask: called in ``workers`` threads at once; the command line gives it an OpenAI-compatible endpoint.
        workers: at least 1.
    """
    counted = {"marked": 0, "failed": 0}

    def judge(
        *, completions: Sequence[str], question: Sequence[str], answer: Sequence[str], reward: Sequence[str], **_: Any
    ) -> list[float | None]:
        rows = list(zip(question, answer, completions, reward, strict=True))
        wanted = {row[:3] for row in rows if row[3] == "judge"}  # equal answers are asked about once
        with ThreadPoolExecutor(workers) as pool:
            marks = dict(zip(wanted, pool.map(lambda row: ask(*row), wanted), strict=True))
        failed = sum(mark is None for mark in marks.values())
        counted["marked"] += len(marks) - failed
        counted["failed"] += failed
        if failed:
            logger.warning("%d of %d answers could not be judged and are not learnt from", failed, len(marks))
        if not counted["marked"] and counted["failed"] >= _HOPELESS:
            raise SetupError(f"the judge marked none of the first {counted['failed']} answers: look at its own log")
        return [marks[row[:3]] if row[3] == "judge" else None for row in rows]

    return judge
