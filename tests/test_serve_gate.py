"""The gate: places, keys, names, sizes and times; a slow or vanished client takes nothing from the others."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from prunevid_qwen.serve import gate
from prunevid_qwen.serve.api_errors import ApiError
from prunevid_qwen.serve.gate import Gate
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.served_model import AnswerPart
from tests.serving import Served, rules, running

TALK: Any = [{"role": "user", "content": "What?"}]
BODY = json.dumps({"model": "bundled", "messages": TALK}).encode()
DONE = {
    "choices": [{"text": "red", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4, "prompt_tokens_after_pruning": 2,
              "prompt_tokens_details": {"visual_tokens": 2, "visual_tokens_kept": 1}},
    "prunevid": {"batch": {"requests": 1, "near_ties": 0}},
}  # fmt: skip


class Answers:
    """An engine without a model: it answers "red" once it may, and says how many it has under way."""

    def __init__(self, limits: ServeLimits, free: bool = True) -> None:
        self.rules, self.inside, self.ended, self._free = rules(limits), 0, 0, free
        self.failing: Exception | None = None

    async def start(self) -> None:
        self.loop, self.go, self.changed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Condition()
        if self._free:
            self.go.set()

    async def stop(self) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {}

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self.go.set)

    def until(self, inside: int | None = None, ended: int | None = None) -> None:
        """Wait until so many are under way, or have ended."""

        async def wait() -> None:
            async with self.changed:
                await self.changed.wait_for(
                    lambda: (inside is None or self.inside == inside) and (ended is None or self.ended == ended)
                )

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result(60)

    async def _count(self, inside: int, ended: int) -> None:
        async with self.changed:
            self.inside, self.ended = self.inside + inside, self.ended + ended
            self.changed.notify_all()

    async def answer(self, request: Any, contents: Any) -> AsyncIterator[AnswerPart]:
        await self._count(1, 0)
        try:
            if request.stream:
                yield AnswerPart(0, "re")
            await self.go.wait()
            if self.failing is not None:
                raise self.failing
            yield AnswerPart(0, "d" if request.stream else "red")
            yield AnswerPart(done=json.loads(json.dumps(DONE)))
        finally:
            await asyncio.shield(self._count(-1, 1))


def connection(server: Served) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.url.split("//")[1].split("/")[0], timeout=60)


def post(
    server: Served, body: bytes = BODY, path: str = "/v1/chat/completions", **headers: str
) -> tuple[int, Any, Any]:
    asked = connection(server)
    named = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    asked.request("POST", path, body, named)
    answer = asked.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())


def raw(server: Served, text: bytes) -> socket.socket:
    host, port = server.url.split("//")[1].split("/")[0].split(":")
    made = socket.create_connection((host, int(port)), 60)
    made.sendall(text)
    return made


def head(length: int = len(BODY), **more: str) -> bytes:
    lines = {"host": "localhost", "content-type": "application/json", "content-length": str(length), **more}
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        + "".join(f"{k}: {v}\r\n" for k, v in lines.items()).encode()
        + b"\r\n"
    )


def test_a_full_house_is_429_at_once_and_a_place_is_free_again() -> None:
    engine = Answers(ServeLimits(batch=1, waiting=1), free=False)
    with running(engine) as server:
        inside = [raw(server, head() + BODY) for _ in range(2)]
        engine.until(inside=2)
        status, headers, body = post(server)
        assert status == 429 and int(headers["retry-after"]) >= 1 and body["error"]["code"] == "queue_full"
        with pytest.raises(openai.RateLimitError):
            server.client().chat.completions.create(model="bundled", messages=TALK)
        inside.pop().close()  # who goes away frees its place
        engine.until(inside=1)
        inside.append(raw(server, head() + BODY))
        engine.until(inside=2)
        engine.release()
        for each in inside:
            assert each.recv(12) == b"HTTP/1.1 200"


def test_one_that_sends_slowly_has_a_place_for_a_time_alone() -> None:
    engine = Answers(ServeLimits(batch=1, waiting=0, body_seconds=0.2))
    with running(engine) as server:
        slow = raw(server, head() + BODY[:5])
        assert slow.recv(12) == b"HTTP/1.1 408"
        server.gate._limits = ServeLimits(batch=1, waiting=0)  # this machine may be slow, too
        assert post(server)[0] == 200


def test_one_that_vanishes_while_it_sends_frees_its_place() -> None:
    engine = Answers(ServeLimits(batch=1, waiting=0))
    with running(engine) as server:
        gone = raw(server, head() + BODY[:5])
        while not server.gate.inside:
            pass
        gone.close()
        while server.gate.inside:
            pass
        assert post(server)[0] == 200
        engine.until(ended=1)


def test_one_that_leaves_a_stream_is_forgotten() -> None:
    engine = Answers(ServeLimits(), free=False)
    with running(engine) as server:
        body = json.dumps({"model": "bundled", "messages": TALK, "stream": True}).encode()
        stream = raw(server, head(len(body)) + body)
        assert b"200" in stream.recv(100)
        stream.close()
        engine.until(inside=0, ended=1)
        while server.gate.inside:
            pass


def test_an_answer_that_takes_too_long_is_504_and_in_a_stream_an_error() -> None:
    engine = Answers(ServeLimits(request_seconds=0.6), free=False)
    with running(engine) as server:
        status, _, body = post(server)
        assert status == 504 and body["error"]["code"] == "timeout"
        with pytest.raises(openai.APIError) as raised:
            list(server.client().chat.completions.create(model="bundled", messages=TALK, stream=True))
        assert raised.value.code == "timeout"
        engine.until(inside=0, ended=2)


def test_bodies_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_LINGER", 0.2)
    engine = Answers(ServeLimits(body_megabytes=1))
    with running(engine) as server:
        large = raw(server, head(2 * 10**6))  # told by its length, before it is sent
        assert large.recv(12) == b"HTTP/1.1 413"
        chunked = raw(server, head(0).replace(b"content-length: 0", b"transfer-encoding: chunked"))
        chunk = b"20000\r\n" + b"x" * 0x20000 + b"\r\n"
        for _ in range(9):  # which has no length
            chunked.sendall(chunk)
        assert chunked.recv(12) == b"HTTP/1.1 413"
        large.close()
        chunked.close()
        # who reads nothing before all is sent finds its answer, too
        monkeypatch.setattr(gate, "_LINGER", 60.0)
        assert post(server, b" " * (4 * 10**6))[0] == 413
        assert post(server)[0] == 200
        engine.until(ended=1)


def test_keys() -> None:
    with running(Answers(ServeLimits()), key="secret") as server:
        for given in ({}, {"authorization": "Bearer other"}, {"authorization": "secret"}, {"authorization": "Bearer "}):
            assert post(server, **given)[0] == 401
        assert post(server, authorization="Bearer secret")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        assert server.client(api_key="secret").models.list().data
        asked = connection(server)
        asked.request("GET", "/health")
        assert asked.getresponse().status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),  # a form of another site's page
        ({"content_type": "multipart/form-data"}, 415),
        ({"host": "evil.example"}, 403),  # a name that means this machine
        ({"host": "evil.example:8000"}, 403),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "127.0.0.5:8000"}, 200),
        ({"host": "10.0.0.1:8000"}, 403),
        ({"host": ""}, 403),
    ],
)
def test_pages_of_other_sites(headers: dict[str, str], status: int) -> None:
    answered = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        answered.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY}

    named = {"host": "localhost", "content_type": "application/json", **headers}
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": sent}
    asyncio.run(Gate(app, ServeLimits())(scope, receive, send))
    assert answered[0]["status"] == status


def test_a_server_that_ends_takes_no_more() -> None:
    ending = []
    with running(Answers(ServeLimits()), draining=lambda: bool(ending)) as server:
        assert post(server)[0] == 200
        ending.append(True)
        status, headers, body = post(server)
        assert status == 503 and body["error"]["code"] == "draining" and headers["retry-after"]


def test_faults_of_the_server_are_told_without_their_words(caplog: pytest.LogCaptureFixture) -> None:
    engine = Answers(ServeLimits())
    with running(engine) as server:
        engine.failing = RuntimeError("the secret of another request")
        status, _, body = post(server)
        assert status == 500 and "secret" not in json.dumps(body)
        with pytest.raises(openai.APIError) as raised:
            list(server.client().chat.completions.create(model="bundled", messages=TALK, stream=True))
        assert "secret" not in str(raised.value)
        engine.failing = ApiError(503, "gone", "replica_gone")
        assert post(server)[0] == 503


def test_a_log_has_no_prompts_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "prunevid_qwen.serve")
    for asked in (False, True):
        caplog.clear()
        with running(Answers(ServeLimits()), log_prompts=asked) as server:
            post(
                server,
                json.dumps({"model": "bundled", "messages": [{"role": "user", "content": "my secret"}]}).encode(),
            )
            post(server, b'{"my secret": 1}')
        lines = [json.loads(each.getMessage()) for each in caplog.records if each.name == "prunevid_qwen.serve"]
        assert [each["status"] for each in lines] == [200, 400]
        assert ("my secret" in json.dumps(lines)) is asked


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nothing", b"[" * 100000, b'{"model": "bundled"}', b"\xff", b'{"messages": []}']
)
def test_bodies_that_are_no_request(body: bytes) -> None:
    with running(Answers(ServeLimits())) as server:
        status, _, answer = post(server, body)
        assert status == 400 and answer["error"]["type"] == "invalid_request_error"
        assert post(server, path="/v1/other")[0] == 404
