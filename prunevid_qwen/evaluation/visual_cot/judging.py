"""Judging stored answers: a few requests at once, every reply on a line of its own, no answer judged twice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import SetupError
from prunevid_qwen.evaluation.visual_cot.folder import JUDGEMENTS, Line, add_line, whole_lines
from prunevid_qwen.evaluation.visual_cot.judge import Judge, Marked, NotJudged, score_in

_log = logging.getLogger(__name__)

_HOPELESS = 20  # so many refusals without one reply: the endpoint will refuse the rest too


def marked(line: Line) -> Marked:
    """Return what is marked of a line of answers."""
    return Marked(line["question"], line["reference"], line["answer"])


def judge_all(
    folder: Path,
    lines: Sequence[Line],
    judge: Judge,
    workers: int = 4,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> None:
    """Have every answer judged that was not judged before by this judge under these instructions.

    Equal answers to the same question are one judgement, whoever gave them. An interrupted run keeps what is judged,
    requests on their way included. A request that fails is not kept, so that the next run tries it again.

    Args:
        folder: of the run.
        lines: answers, without those that are errors.
        judge: who is asked.
        workers: requests at once, at least 1.
        tell: told of the progress.

    Raises:
        SetupError: the endpoint cannot be reached, refuses key or model, or fails every request.
    """
    path = folder / JUDGEMENTS
    wanted = {judge.key(marked(line)): marked(line) for line in lines}
    known = {line["key"] for line in whole_lines(path)}
    left = [(key, what) for key, what in wanted.items() if key not in known]
    tell("judging", len(wanted) - len(left), len(wanted))
    if not left:
        return
    writing, replied, failed = threading.Lock(), 0, 0

    def ask(client: Any, key: str, what: Marked) -> bool:
        try:
            reply = judge.reply(client, what)
        except NotJudged as error:
            _log.warning("not judged: %s", error)
            return False
        about = {"key": key, "judge": judge.model, "base_url": judge.base_url}
        with writing:
            add_line(path, {**about, "score": score_in(reply), "reply": reply})
        return True

    with judge.open() as client, ThreadPoolExecutor(workers) as pool:
        requests = [pool.submit(ask, client, key, what) for key, what in left]
        try:
            for number, request in enumerate(as_completed(requests), 1):
                replied, failed = (replied + 1, failed) if request.result() else (replied, failed + 1)
                if not replied and failed >= _HOPELESS:
                    raise SetupError(
                        f"the judge at {judge.base_url} failed the first {failed} requests (--verbose says how). The "
                        "answers are kept: --judge-only goes on from here"
                    )
                tell("judging", len(wanted) - len(left) + number, len(wanted))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # what is on its way is waited for and kept


def judgements(folder: Path) -> dict[str, float | None]:
    """Return the score under each key; None where the reply held none."""
    return {line["key"]: line["score"] for line in whole_lines(folder / JUDGEMENTS)}
