"""ServedModel: from a request to its answers, on one model. The HTTP side and a Ray replica call nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.pruning import plan_of
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.together import PreparedMedium
from prunevid_qwen.serve.answer_rows import AnswerRow
from prunevid_qwen.serve.api_errors import ApiError
from prunevid_qwen.serve.batch_line import BatchLine, Drawing, WaitingQuestion
from prunevid_qwen.serve.chat_request import SURE, ChatRequest
from prunevid_qwen.serve.media_addresses import MediaContent
from prunevid_qwen.serve.media_processes import MediaProcesses
from prunevid_qwen.serve.memory_bound import MemoryBound, PromptLength
from prunevid_qwen.serve.prepared_media import PreparedMedia, key_of
from prunevid_qwen.serve.request_rules import RequestRules
from prunevid_qwen.serve.waiting_room import WaitingRoom, bytes_of
from prunevid_qwen.video.clip import Clip

CLIP = Path(str(files("prunevid_qwen") / "bundled" / "clips" / "late_square.mp4"))


@dataclass(frozen=True)
class AnswerPart:
    """What comes of a request: words of one of its answers, or at the end all of them.

    Args:
        index: of the answer, from 0.
        text: its next words.
        done: all answers, and what is said of them; None before the end.
    """

    index: int = 0
    text: str = ""
    done: dict[str, Any] | None = None


@dataclass(eq=False)
class ServedModel:
    """One model that answers requests.

    Args:
        model: a `PrunedVLM`; nobody else may use it.
        rules: what requests may ask for.
        held_bytes: of encoded media and prefixes.
        free_bytes: beside the weights and what is held.
        decoders: processes that decode media.
    """

    model: Any
    rules: RequestRules
    held_bytes: int
    free_bytes: int
    decoders: int = 2
    line: BatchLine = field(init=False)
    processes: MediaProcesses = field(init=False)
    media: PreparedMedia = field(init=False)
    room: WaitingRoom = field(init=False)
    _reading: dict[Hashable, asyncio.Task[Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.media = PreparedMedia(self.held_bytes)
        self.room = WaitingRoom(self.rules.limits.waiting_megabytes * 10**6)
        memory = MemoryBound.of(self.model.model, self.free_bytes)
        self.line = BatchLine(self.model, self.media, self.rules.limits, memory)
        self.processes = MediaProcesses(self.model.frontend, self.rules.limits, self.decoders)
        added = self.model.tokenizer.added_tokens_decoder.values()
        self._marks = sorted(
            {str(each) for each in added if each.special} | set(self.model.tokenizer.all_special_tokens)
        )

    async def start(self) -> None:
        """Start the processes that decode, and answer once: no first request pays for what is made once."""
        await self.processes.start()
        await asyncio.to_thread(self._warm_up)

    def _warm_up(self) -> None:
        if "video" in self.model.frontend.reads:
            shown: dict[str, Any] = {"video_path": str(CLIP)}
        else:
            shown = {"images": np.zeros((224, 224, 3), np.uint8)}
        self.model.generate(**shown, question="?", max_new_tokens=2)

    async def stop(self) -> None:
        """Answer what waits, and end."""
        await asyncio.to_thread(self.line.close)
        await self.processes.stop()

    def facts(self) -> dict[str, Any]:
        """Return what is told of it: what is held, what waits, and how large the last batches were."""
        line, killed = self.line, self.processes.killed
        return {
            "waiting": line.waiting,
            "last_batches": line.sizes[-8:],
            "killed_decoders": killed,
            **self.media.facts(),
        }

    def check(self, request: ChatRequest) -> PruneVidConfig:
        """Return the config of a request that can be answered; nothing has been read of what it shows.

        Raises:
            ApiError: it asks for more than there is.
            ConfigError: its pruning is not offered.
        """
        config = self.rules.check(request)
        kinds = {item.kind for item in request.shown} - set(self.model.frontend.reads)
        if kinds:
            raise ApiError(400, f"this model is shown no {' and no '.join(sorted(kinds))}", "unsupported", "messages")
        for number, message in enumerate(request.messages):
            texts = [message.content] if isinstance(message.content, str) else [
                item.held for item in message.content if item.kind == "text"]  # fmt: skip
            found = next((mark for mark in self._marks for text in texts if mark in text), None)
            if found is not None:
                raise ApiError(400, f"the text holds {found!r}, by which the model tells messages apart: leave it out",
                               "invalid_value", f"messages.{number}.content")  # fmt: skip
        return config

    async def answer(self, request: ChatRequest, contents: list[MediaContent]) -> AsyncGenerator[AnswerPart, None]:
        """Yield the parts of a request's answers, and at last all of them. Who stops iterating is forgotten.

        Args:
            request: that `check` let through.
            contents: of all that it shows, in order.

        Raises:
            ApiError: it cannot be answered.
            PruneVidError: as `PrunedVLM.generate`.
        """
        config = self.check(request)
        keys = [self._key(each, config) for each in contents]
        missing = [item for item, key in zip(request.shown, keys, strict=True) if not self.media.holds(key)]
        async with self.room.room_for(bytes_of(missing, config, self.rules.limits, self.processes.video)) as place:
            media = await asyncio.gather(
                *(self._medium(key, each, config) for key, each in zip(keys, contents, strict=True))
            )
            read = [PreparedMedium(each) for each in media if not isinstance(each, PreparedMedium)]
            self.room.known(place, sum(each.bytes for each in read))
            async with aclosing(self._answered(request, list(zip(keys, media, strict=True)), config)) as parts:
                async for part in parts:
                    yield part

    async def _answered(
        self, request: ChatRequest, media: list[tuple[Hashable, Any]], config: PruneVidConfig
    ) -> AsyncGenerator[AnswerPart, None]:
        drawing = self._drawing(request)
        rows = 1 if drawing is None else request.n
        question = self._question(request, config, media, drawing, rows)
        parts: asyncio.Queue[AnswerPart] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def teller(index: int) -> Any:
            return lambda text: loop.call_soon_threadsafe(parts.put_nowait, AnswerPart(index, text))

        if request.stream:
            for index, row in enumerate(question.rows):
                row.tell = teller(index)
        done = asyncio.wrap_future(self.line.put(question))
        done.add_done_callback(lambda _: parts.put_nowait(AnswerPart(done={})))
        try:
            while (part := await parts.get()).done is None:
                yield part
                for index in range(1, request.n if rows == 1 else 1):  # without drawing all answers are the same
                    yield AnswerPart(index, part.text)
            yield AnswerPart(done=self._done(request, question, done.result()))
        finally:
            for row in question.rows:
                row.gone.set()
            with suppress(asyncio.CancelledError):
                done.cancel()

    def _key(self, content: MediaContent, config: PruneVidConfig) -> Hashable:
        plan = plan_of(config, len(adapter_for(self.model.model).parts.layers))
        squares = any(step.by.needs.square_images for step in plan.steps)
        return key_of(content, config, f"{plan.needs.vision!r} {squares}")

    async def _medium(self, key: Hashable, content: MediaContent, config: PruneVidConfig) -> Any:
        """Return a medium that is held, or read it: once, however many ask for it meanwhile."""
        held = self.media.get(key)
        if held is not None:
            return held
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self.processes.read(content, config))
            task.add_done_callback(lambda done: (self._reading.pop(key, None), done.cancelled() or done.exception()))
        return await asyncio.shield(task)  # one who goes away does not take it from the others

    def _drawing(self, request: ChatRequest) -> Drawing | None:
        own = self.model.model.generation_config
        asked = request.temperature is not None or request.top_p is not None
        if request.temperature is not None and request.temperature < SURE:
            return None
        if not asked and (not own.do_sample or own.top_k == 1 or (own.temperature or 0) < SURE):
            return None
        seed = secrets.randbits(32) if request.seed is None else request.seed
        return Drawing(seed, request.temperature, request.top_p)

    def _question(
        self, request: ChatRequest, config: PruneVidConfig, media: list[tuple[Hashable, Any]], drawing: Drawing | None,
        rows: int,
    ) -> WaitingQuestion:  # fmt: skip
        messages: list[dict[str, Any]] = []
        number = 0
        for each in request.messages:
            if isinstance(each.content, str):
                messages.append({"role": each.role, "content": each.content})
                continue
            items: list[dict[str, Any]] = []
            for item in each.content:
                if item.kind == "text":
                    items.append({"type": "text", "text": item.held})
                else:
                    items.append({"type": item.kind, "number": number})
                    number += 1
            messages.append({"role": each.role, "content": items})
        limit = request.limit or self.rules.limits.answer_tokens
        length = self._length(messages, [each for _, each in media], limit, rows)
        self._check_length(length, config)
        made = [AnswerRow(limit, request.stop) for _ in range(rows)]
        return WaitingQuestion(messages, media, config, request.question, length, made, drawing, request.keep_map)

    def _check_length(self, length: PromptLength, config: PruneVidConfig) -> None:
        most, memory = self.rules.limits.prompt_tokens, self.line.memory
        if length.tokens > most:
            why = f"the prompt has {length.tokens:,} tokens before pruning, and at most {most:,} are taken here"
            raise ApiError(400, f"{why}: send fewer frames", "context_length_exceeded", "messages")
        if not memory.fits(config, [length]):
            needed, free = memory.needed(config, [length]) / 2**30, memory.free / 2**30
            why = f"the prompt needs {needed:.1f} GiB beside the model, and there are {free:.1f}"
            raise ApiError(413, f"{why}: send fewer or smaller frames", "too_large", "messages")

    def _length(self, messages: list[dict[str, Any]], media: list[Any], limit: int, rows: int) -> PromptLength:
        bare = [{"role": each["role"], "content": _bare(each["content"])} for each in messages]
        text = len(self.model.tokenizer(self.model.frontend.text(bare), verbose=False)["input_ids"])
        positions, height, width = 0, 1, 1
        for each in media:
            medium = each.medium if isinstance(each, PreparedMedium) else each
            if isinstance(medium, Medium):
                merge = self.model.frontend.media.merge_size
                t, h, w = (int(side) for side in medium.grid[0])
                positions, height, width = positions + t, max(height, h // merge), max(width, w // merge)
            else:  # the library's processor makes its tokens
                positions += len(medium.frames) if isinstance(medium, Clip) else 1
        return PromptLength(positions, height, width, text, limit, rows)

    def _done(self, request: ChatRequest, question: WaitingQuestion, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the answers, the numbers of tokens, and what is said of the pruning."""
        rows = question.rows * (request.n if len(question.rows) == 1 else 1)
        stats = facts.pop("receipt")
        before, tokens = stats["input"]["prompt_tokens"], stats["tokens"]
        after = (
            before - tokens["visual"] + tokens["after_stage2"] - sum(step["text_dropped"] for step in stats["steps"])
        )
        new = sum(len(row.tokens) for row in rows)
        usage = {
            "prompt_tokens": before, "completion_tokens": new, "total_tokens": before + new,
            "prompt_tokens_after_pruning": after,
            "prompt_tokens_details": {"visual_tokens": tokens["visual"], "visual_tokens_kept": tokens["after_stage2"],
                                      "visual_tokens_layer_average": tokens["layer_average"]},
        }  # fmt: skip
        if "model" in stats:
            stats["model"] = self.rules.name  # a folder of this machine is nobody's business
        if question.drawing is not None:
            facts["seed"] = question.drawing.seed
        choices = [{"text": row.text, "finish_reason": row.ended or "stop"} for row in rows]
        return {"choices": choices, "usage": usage, "prunevid": {**facts, "receipt": stats}}


def _bare(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return a message's content with a word in place of each thing that it shows."""
    if isinstance(content, str):
        return content
    return [item if item["type"] == "text" else {"type": item["type"], item["type"]: "shown"} for item in content]
