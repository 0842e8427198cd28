"""The rows of one call of ``generate``: each ends by its own limit and its own stop texts, and tells its words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from prunevid_qwen.kernels.rounding import LOGITS, spacing

_UNFINISHED = "\ufffd"  # what a part of a character decodes to


@dataclass(eq=False)
class AnswerRow:
    """One answer as it grows.

    Args:
        limit: tokens at most.
        stops: texts before which it ends.
        tell: called with each new part of its text; None where nobody waits for parts.
        gone: set when nobody waits for it any more.
    """

    limit: int
    stops: tuple[str, ...] = ()
    tell: Callable[[str], None] | None = None
    gone: threading.Event = field(default_factory=threading.Event)
    tokens: list[int] = field(default_factory=list)
    ended: str | None = None  # "stop", "length" or "gone"
    text: str = ""  # that is sure: without what may be the beginning of a stop text
    near_ties: int = 0  # steps whose two best tokens were nearer than rounding

    def add(self, token: int, tokenizer: Any, ends: Collection[int]) -> None:
        """Take one more token."""
        if self.gone.is_set():
            self.ended = "gone"
            return
        self.tokens.append(token)
        last = token in ends or len(self.tokens) >= self.limit
        if not last and self.tell is None and not self.stops:
            return  # nobody reads it yet
        whole = str(tokenizer.decode(self.tokens, skip_special_tokens=True))
        cut = min((at for at in (whole.find(each) for each in self.stops) if at >= 0), default=None)
        if cut is not None:
            whole, self.ended = whole[:cut], "stop"
        elif last:
            self.ended = "stop" if token in ends else "length"
        self._show(whole)

    def _show(self, whole: str) -> None:
        """Tell what is new and sure of a text; blanks around the whole answer are never told."""
        if self.ended is None:
            held = max((_begun(whole, each) for each in self.stops), default=0)
            whole = whole[: len(whole) - held].rstrip(_UNFINISHED)
        text = whole.strip()
        if len(text) > len(self.text):
            fresh, self.text = text[len(self.text) :], text
            if self.tell is not None:
                self.tell(fresh)


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop text."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class RowEnds(StoppingCriteria):  # type: ignore[misc]
    """Gives each row its tokens as they come, and ends those that have ended.

    Args:
        rows: in the order of the batch.
        tokenizer: of the model.
        ends: tokens that end an answer.
    """

    def __init__(self, rows: Sequence[AnswerRow], tokenizer: Any, ends: Collection[int]) -> None:
        self._rows, self._tokenizer, self._ends = rows, tokenizer, frozenset(ends)

    def __call__(self, input_ids: Tensor, scores: Any, **_more: Any) -> Any:
        """Take a step's tokens, the last of input_ids [B, S]; return which rows have ended, bool [B]."""
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if row.ended is None:
                row.add(token, self._tokenizer, self._ends)
        ended = [row.ended is not None for row in self._rows]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class NearTies(LogitsProcessor):  # type: ignore[misc]
    """Counts the steps in which the two best tokens of a row are nearer than rounding: another route may take either.

    Args:
        rows: in the order of the batch.
        dtype: in which the logits were computed; `generate` hands them over in fp32.
    """

    def __init__(self, rows: Sequence[AnswerRow], dtype: torch.dtype) -> None:
        self._rows, self._dtype = rows, dtype if dtype in LOGITS else torch.float32

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Count, and return the logits [B, V] as they came."""
        best = scores.topk(min(2, scores.shape[-1]), dim=-1).values
        largest = scores.masked_fill(~scores.isfinite(), 0).abs().amax(-1)
        for row, pair, size in zip(self._rows, best.tolist(), largest.tolist(), strict=True):
            if row.ended is None and pair[0] - pair[-1] <= LOGITS[self._dtype] * spacing(size, self._dtype):
                row.near_ties += 1
        return scores
