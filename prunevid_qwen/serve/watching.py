"""Watching: what is counted for Prometheus, and a line of JSON in the log for each request."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prunevid_qwen.serve.chat_request import ChatRequest

logger = logging.getLogger("prunevid_qwen.serve")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Watching:
    """Counts requests and writes them down. Words and media of a request are written only if somebody asks for it.

    Args:
        waiting: tells how many requests have a place.
        log_prompts: write questions and answers down, too.
    """

    def __init__(self, waiting: Callable[[], int], log_prompts: bool = False) -> None:
        self._log_prompts, self.registry = log_prompts, CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("prunevid_requests", "Requests by status.", ["status"], **made)
        self.seconds = Histogram("prunevid_request_seconds", "To the last word.", buckets=_SECONDS, **made)
        self.first = Histogram("prunevid_first_part_seconds", "To the first word.", buckets=_SECONDS, **made)
        self.batches = Histogram(
            "prunevid_batch_requests", "Requests answered at once.", buckets=(1, 2, 4, 8, 16, 32), **made
        )
        self.before = Counter("prunevid_visual_tokens", "Before pruning.", **made)
        self.after = Counter("prunevid_visual_tokens_kept", "After the last step of the pruning.", **made)
        self.answers = Counter("prunevid_answer_tokens", "Written.", **made)
        self.near_ties = Counter("prunevid_near_ties", "Steps whose two best tokens were nearer than rounding.", **made)
        Gauge("prunevid_requests_inside", "Answered or waiting.", **made).set_function(waiting)

    def text(self) -> bytes:
        """Return the counts as Prometheus reads them."""
        return generate_latest(self.registry)

    def refused(self, status: int) -> None:
        """Count a request that got no further than the gate."""
        self.requests.labels(str(status)).inc()
        self._write({"status": status})

    def ended(
        self, number: str, began: float, status: int, request: ChatRequest | None = None,
        done: dict[str, Any] | None = None, why: str | None = None, first: float | None = None,
    ) -> None:  # fmt: skip
        """Count a request, and write it down.

        Args:
            number: its id.
            began: `time.perf_counter` when it came.
            status: of HTTP; 499 where the client went away.
            request: as it was read; None if it could not be.
            done: its answers; None if it has none.
            why: of a failure, in a word.
            first: `time.perf_counter` at its first word.
        """
        seconds = time.perf_counter() - began
        self.requests.labels(str(status)).inc()
        line: dict[str, Any] = {"id": number, "status": status, "seconds": round(seconds, 4)}
        if why is not None:
            line["why"] = why
        if first is not None:
            self.first.observe(first - began)
            line["first_part_seconds"] = round(first - began, 4)
        if request is not None:
            line |= {"stream": request.stream, "media": len(request.shown), "messages": len(request.messages)}
        if done is not None:
            usage, batch = done["usage"], done["prunevid"]["batch"]
            self.seconds.observe(seconds)
            self.batches.observe(batch["requests"])
            self.near_ties.inc(batch["near_ties"])
            self.before.inc(usage["prompt_tokens_details"]["visual_tokens"])
            self.after.inc(usage["prompt_tokens_details"]["visual_tokens_kept"])
            self.answers.inc(usage["completion_tokens"])
            line |= {
                name: usage[name] for name in ("prompt_tokens", "prompt_tokens_after_pruning", "completion_tokens")
            }
            line |= batch
        if self._log_prompts and request is not None:
            line["question"] = request.question
            line["answers"] = [] if done is None else [each["text"] for each in done["choices"]]
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        logger.info(json.dumps({"time": round(time.time(), 3), **line}))
