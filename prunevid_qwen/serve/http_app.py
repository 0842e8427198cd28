"""The routes of the server, on FastAPI: OpenAI's chat completions, its list of models, health and metrics."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from prunevid_qwen.errors import PruneVidError
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.serve.api_errors import ApiError, api_error
from prunevid_qwen.serve.chat_request import ChatRequest, read_request
from prunevid_qwen.serve.gate import Gate
from prunevid_qwen.serve.media_addresses import MediaAddresses, MediaContent
from prunevid_qwen.serve.request_rules import RequestRules
from prunevid_qwen.serve.served_model import AnswerPart
from prunevid_qwen.serve.watching import Watching, logger

GONE = 499
"""The status in the log of a request whose client went away."""


class AnswersRequests(Protocol):
    """One model here, or several behind Ray Serve."""

    async def start(self) -> None:
        """Get ready."""
        ...

    async def stop(self) -> None:
        """Answer what waits, and end."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what is told of it in /health."""
        ...

    def answer(self, request: ChatRequest, contents: list[MediaContent]) -> AsyncGenerator[AnswerPart, None]:
        """Yield the parts of a request's answers, and at last all of them."""
        ...


def served(
    engine: AnswersRequests, rules: RequestRules, addresses: MediaAddresses, *, key: str | None = None,
    local: bool = True, log_prompts: bool = False, draining: Callable[[], bool] = lambda: False,
) -> Gate:  # fmt: skip
    """Return the ASGI application.

    Args:
        engine: answers.
        rules: what requests may ask for.
        addresses: which addresses of media are opened.
        key: as in `Gate`.
        local: as in `Gate`.
        log_prompts: as in `Watching`.
        draining: as in `Gate`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    watching = Watching(lambda: gate.inside, log_prompts)
    gate = Gate(app, rules.limits, key, local, draining, watching.refused)
    began = int(time.time())
    known = {"id": rules.name, "object": "model", "created": began, "owned_by": "prunevid_qwen"}

    @app.exception_handler(HTTPException)
    async def not_there(_: Request, error: HTTPException) -> JSONResponse:
        return _refused(ApiError(error.status_code, f"{error.detail}: POST /v1/chat/completions answers", "not_found"))

    @app.get("/health")
    async def health() -> JSONResponse:
        ending = draining()
        state = {"status": "draining" if ending else "ok", "inside": gate.inside, **engine.facts()}
        return JSONResponse(state, 503 if ending else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(watching.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [known]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        if name != rules.name:
            return _refused(
                ApiError(404, f"this server has the model {rules.name!r} alone", "model_not_found", "model")
            )
        return JSONResponse(known)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _Call(engine, rules, addresses, watching, gate).answer(request)

    return gate


class _Call:
    """One request on its way."""

    def __init__(
        self, engine: AnswersRequests, rules: RequestRules, addresses: MediaAddresses, watching: Watching, gate: Gate
    ) -> None:
        self._engine, self._rules, self._addresses, self._watching = engine, rules, addresses, watching
        self._gate, self._held = gate, 0
        self._id, self._began = f"chatcmpl-{uuid.uuid4().hex}", time.perf_counter()
        self._asked: ChatRequest | None = None
        self._first: float | None = None

    async def answer(self, request: Request) -> Response:
        """Answer it whole, or begin to."""
        try:
            self._asked = asked = read_request(await request.body())
            self._rules.check(asked)
            parts = self._parts(asked)
            begin = asyncio.ensure_future(anext(parts) if asked.stream else _last(parts))
            if not await _there_first(request, begin):
                await parts.aclose()
                self._end(GONE, why="gone")
                return Response(status_code=GONE)
            first = begin.result()
        except Exception as error:
            return self._failed(error)
        if asked.stream:
            self._first = time.perf_counter()
            return StreamingResponse(self._events(asked, first, parts), media_type="text/event-stream",
                                     headers={"cache-control": "no-cache", "x-accel-buffering": "no"})  # fmt: skip
        done = first.done or {}
        self._end(200, done)
        return JSONResponse(self._whole(done))

    async def _parts(self, asked: ChatRequest) -> AsyncGenerator[AnswerPart, None]:
        """Yield the answers' parts, within the time of a request."""
        ends = self._began + self._rules.limits.request_seconds
        try:
            contents = [await asyncio.wait_for(self._content(item), ends - time.perf_counter()) for item in asked.shown]
            parts = self._engine.answer(asked, contents)
            try:
                while True:
                    try:
                        part = await asyncio.wait_for(anext(parts), max(0.001, ends - time.perf_counter()))
                    except StopAsyncIteration:
                        return
                    yield part
            finally:
                await parts.aclose()
        except (TimeoutError, asyncio.TimeoutError):
            raise ApiError(504, f"the answer was not there within {self._rules.limits.request_seconds:g} s: ask for a "
                           "shorter one", "timeout") from None  # fmt: skip
        finally:
            self._gate.hold(-self._held)
            self._held = 0

    async def _content(self, item: Item) -> MediaContent:
        """Return the bytes of what is shown; those of all requests together are bounded, wherever they come from."""
        content = await self._addresses.content(item)
        size = sum(map(len, content.files))
        self._held += size
        self._gate.hold(size)
        if self._held > self._rules.limits.media_megabytes * 10**6:
            raise ApiError(413, f"a request shows at most {self._rules.limits.media_megabytes} MB here", "too_large")
        return content

    async def _events(self, asked: ChatRequest, first: AnswerPart, parts: Any) -> AsyncIterator[bytes]:
        status = GONE
        why: str | None = "gone"
        done: dict[str, Any] | None = None
        try:
            for index in range(asked.n):
                yield self._event([_choice(index, {"role": "assistant", "content": ""})])
            part = first
            while part.done is None:
                yield self._event([_choice(part.index, {"content": part.text})])
                part = await anext(parts)
            done = part.done
            status, why = 200, None
            for index, each in enumerate(done["choices"]):
                more = {"prunevid": done["prunevid"]} if index == len(done["choices"]) - 1 else {}
                yield self._event([_choice(index, {}, each["finish_reason"])], **more)
            if asked.usage:
                yield self._event([], usage=done["usage"])
            yield b"data: [DONE]\n\n"
        except Exception as error:
            told = _told(error, self._id)
            status, why = told.status, told.code
            yield f"data: {json.dumps(told.body)}\n\n".encode()
        finally:
            self._end(status, done, why)
            await parts.aclose()

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return f"data: {json.dumps(self._head('chat.completion.chunk') | {'choices': choices} | more)}\n\n".encode()

    def _whole(self, done: dict[str, Any]) -> dict[str, Any]:
        choices = [
            {"index": index, "message": {"role": "assistant", "content": each["text"], "refusal": None},
             "finish_reason": each["finish_reason"], "logprobs": None}
            for index, each in enumerate(done["choices"])
        ]  # fmt: skip
        return self._head("chat.completion") | {
            "choices": choices, "usage": done["usage"], "prunevid": done["prunevid"]}  # fmt: skip

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": int(time.time()), "model": self._rules.name}

    def _failed(self, error: Exception) -> JSONResponse:
        told = _told(error, self._id)
        self._end(told.status, why=told.code)
        return _refused(told)

    def _end(self, status: int, done: Any = None, why: str | None = None) -> None:
        self._watching.ended(self._id, self._began, status, self._asked, done, why, self._first)


def _told(error: Exception, number: str) -> ApiError:
    told = api_error(error)
    if not isinstance(error, (ApiError, PruneVidError)):
        logger.error(json.dumps({"id": number, "error": type(error).__name__}), exc_info=error)
    return told


def _choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


def _refused(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _there_first(request: Request, begin: asyncio.Future[AnswerPart]) -> bool:
    """Wait for an answer, and tell whether it came before the client had gone; then it is given up."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(left())
    try:
        both: set[asyncio.Future[Any]] = {gone, begin}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return begin.done()
    finally:
        gone.cancel()
        if not begin.done():
            begin.cancel()
            with suppress(asyncio.CancelledError):
                await begin


async def _last(parts: AsyncGenerator[AnswerPart, None]) -> AnswerPart:
    part = await anext(parts)
    while part.done is None:
        part = await anext(parts)
    return part
