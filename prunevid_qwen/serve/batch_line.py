"""BatchLine: questions that wait, answered by one thread: those of one config together, as one padded batch.

A question that comes while a batch runs waits for the next. Sampled answers run alone, each with the random numbers of
its own seed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.inputs.together import PreparedMedium, together
from prunevid_qwen.serve.answer_rows import AnswerRow, NearTies, RowEnds
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.memory_bound import MemoryBound, PromptLength
from prunevid_qwen.serve.prepared_media import PreparedMedia
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.video.clip import Clip

_TWINS = 32


@dataclass(frozen=True)
class Drawing:
    """How an answer is sampled.

    Args:
        seed: of the random numbers.
        temperature: above 0; None: the model's own.
        top_p: None: the model's own.
    """

    seed: int
    temperature: float | None = None
    top_p: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Of ``generate``."""
        given = {"temperature": self.temperature, "top_p": self.top_p}
        return {"do_sample": True, **{name: value for name, value in given.items() if value is not None}}


@dataclass(eq=False)
class WaitingQuestion:
    """A question on its way.

    Args:
        messages: chat messages, whose items hold the numbers of ``media``.
        media: what is shown: a key, and what was read under it or is held under it already.
        config: of the answer.
        question: its words.
        length: of its prompt.
        rows: its answers; several if they are drawn.
        drawing: None takes the best tokens.
        keep_map: say which tokens were kept.
    """

    messages: list[dict[str, Any]]
    media: list[tuple[Hashable, Any]]
    config: PruneVidConfig
    question: str
    length: PromptLength
    rows: list[AnswerRow]
    drawing: Drawing | None = None
    keep_map: bool = False
    came: float = field(default_factory=time.perf_counter)
    done: Future[dict[str, Any]] = field(default_factory=Future)

    @property
    def gone(self) -> bool:
        """Nobody waits for it any more."""
        return all(row.gone.is_set() for row in self.rows)

    def shows(self) -> Hashable:
        """Return what has to be alike in a batch: that something is shown, and where a processor minds, how much."""
        read = [each.medium if isinstance(each, PreparedMedium) else each for _, each in self.media]
        return tuple(len(each.frames) if isinstance(each, Clip) else 0 for each in read) if any(
            isinstance(each, Clip) for each in read) else bool(read)  # fmt: skip


class BatchLine:
    """Answers questions in the order of coming, as many at once as are alike and fit.

    Args:
        model: a `PrunedVLM`; nobody else may use it.
        media: that are held for all.
        limits: ``batch`` and ``wait_ms``.
        memory: what fits.
    """

    def __init__(self, model: Any, media: PreparedMedia, limits: ServeLimits, memory: MemoryBound) -> None:
        self._model, self.media, self._limits, self.memory = model, media, limits, memory
        self._line: deque[WaitingQuestion] = deque()
        self._come, self._closed = threading.Condition(), False
        self._twins: OrderedDict[str, Any] = OrderedDict()
        self.sizes: list[int] = []
        """Of the last batches."""
        stops = self._model.model.generation_config.eos_token_id
        self._ends = set(stops if isinstance(stops, (list, tuple)) else [stops]) - {None}  # by which `generate` ends
        self._thread = threading.Thread(target=self._work, name="prunevid-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Questions that no batch has taken yet."""
        return len(self._line)

    def put(self, question: WaitingQuestion) -> Future[dict[str, Any]]:
        """Let a question wait; return what will be its answers."""
        with self._come:
            if self._closed:
                raise RuntimeError("this line is closed")
            self._line.append(question)
            self._come.notify_all()
        return question.done

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._come:
            self._closed = True
            self._come.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            for each in batch:
                if each.gone:
                    each.done.cancel()
            # from here on nobody can cancel one of them: who goes away ends its own rows
            batch = [each for each in batch if each.done.set_running_or_notify_cancel()]
            if batch:
                self._answer_each_or_all(batch)
            self.media.trim()

    def _next(self) -> list[WaitingQuestion] | None:
        """Wait for a question, and a moment for others that can be answered with it."""
        with self._come:
            while not self._line:
                if self._closed:
                    return None
                self._come.wait()
            ready = time.monotonic() + self._limits.wait_ms / 1000
            while len(self._line) < self._limits.batch and not self._closed:
                left = ready - time.monotonic()
                if left <= 0 or self._line[0].drawing is not None:
                    break
                self._come.wait(left)
            return self._taken()

    def _taken(self) -> list[WaitingQuestion]:
        first = self._line.popleft()
        batch, rest = [first], deque[WaitingQuestion]()
        while self._line:
            each = self._line.popleft()
            if len(batch) < self._limits.batch and _alike(first, each) and self.memory.fits(
                first.config, [every.length for every in (*batch, each)]
            ):  # fmt: skip
                batch.append(each)
            else:
                rest.append(each)
        self._line = rest
        return batch

    def _answer_each_or_all(self, batch: list[WaitingQuestion]) -> None:
        try:
            found = self._answers(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].done.set_exception(error)
                return
            for each in batch:  # one of them is at fault: the others are answered without it
                for row in each.rows:
                    row.tokens, row.ended, row.near_ties = [], None, 0
                self._answer_each_or_all([each])
            return
        for each, facts in zip(batch, found, strict=True):
            each.done.set_result(facts)

    def _answers(self, batch: Sequence[WaitingQuestion]) -> list[dict[str, Any]]:
        config, began = batch[0].config, time.perf_counter()
        model = self._twin(config)
        for each in batch:  # pixels go with what stood there before
            each.media = [(key, self._encoded(model, key, medium)) for key, medium in each.media]
        shown = [[medium for _, medium in each.media] for each in batch]
        encoded = time.perf_counter() - began
        keys = {tuple(key for key, _ in each.media) for each in batch}
        prefixes = self.media.prefixes(config.to_json(), keys.pop()) if len(keys) == 1 else None
        talks = [_placed(each.messages, own) for each, own in zip(batch, shown, strict=True)]
        prepared = together(model.frontend, model.config, adapter_for(model.model).parts.vision, talks,
                            [each.question for each in batch], prefixes)  # fmt: skip
        rows, drawing = [row for each in batch for row in each.rows], batch[0].drawing
        arguments: dict[str, Any] = {
            "max_new_tokens": max(row.limit for row in rows),
            "stopping_criteria": StoppingCriteriaList([RowEnds(rows, model.tokenizer, self._ends)]),
            "logits_processor": LogitsProcessorList([NearTies(rows, model.model.dtype)]),
            "keep_map": any(each.keep_map for each in batch),
            **({"do_sample": False} if drawing is None else drawing.arguments),
        }  # fmt: skip
        if len(batch[0].rows) > 1:
            arguments["num_return_sequences"] = len(batch[0].rows)
        with self._drawn(drawing):
            answers = model.answer(prepared, **arguments)
        self.sizes = [*self.sizes[-99:], len(batch)]
        outcome = None if prefixes is None else prefixes.outcome
        found = list[dict[str, Any]]()
        for each, answer in zip(batch, answers, strict=True):
            facts = {
                "receipt": answer["stats"], "prefix": outcome,
                "batch": {"requests": len(batch), "near_ties": sum(row.near_ties for row in each.rows)},
                "seconds": {"waited": began - each.came, "encoded": encoded, "total": time.perf_counter() - each.came},
            }  # fmt: skip
            if each.keep_map:
                facts["kept"] = answer.kept.to_dict()
            found.append(facts)
        return found

    def _twin(self, config: PruneVidConfig) -> Any:
        key = config.to_json()
        twin = self._twins.pop(key, None)
        if twin is None:
            twin = self._model.with_config(config)
        self._twins[key] = twin
        while len(self._twins) > _TWINS:
            self._twins.popitem(last=False)
        return twin

    def _encoded(self, model: Any, key: Hashable, medium: Any) -> PreparedMedium:
        if isinstance(medium, PreparedMedium):
            return medium
        held = self.media.get(key)  # somebody else's, encoded meanwhile
        if held is None:
            content = [{"type": medium.kind, medium.kind: medium}, {"type": "text", "text": "?"}]
            held = PreparedMedium.of(model.prepare(messages=[{"role": "user", "content": content}]))
            self.media.put(key, held)
        return held

    def _drawn(self, drawing: Drawing | None) -> Any:
        if drawing is None:
            return nullcontext()
        device = input_device(self._model.model)
        return _Seeded(drawing.seed, [device] if device.type == "cuda" else [])


class _Seeded:
    """Random numbers of a seed inside the block; those of the process go on after it as if nothing had been drawn."""

    def __init__(self, seed: int, devices: list[torch.device]) -> None:
        self._seed, self._fork = seed, torch.random.fork_rng(devices=devices)

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def _alike(first: WaitingQuestion, other: WaitingQuestion) -> bool:
    drawn = first.drawing is not None or other.drawing is not None
    return not drawn and first.config == other.config and first.shows() == other.shows()


def _placed(messages: list[dict[str, Any]], media: list[PreparedMedium]) -> list[dict[str, Any]]:
    """Return messages whose items hold media in place of their numbers."""
    placed = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                item if item["type"] == "text" else {"type": item["type"], item["type"]: media[item["number"]]}
                for item in content
            ]
        placed.append({"role": message["role"], "content": content})
    return placed
