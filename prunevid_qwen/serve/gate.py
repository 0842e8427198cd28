"""Gate: ASGI middleware that lets requests in, as many as there are places for, and their bodies within limits."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from prunevid_qwen.serve.api_errors import ApiError
from prunevid_qwen.serve.limits import ServeLimits

_OPEN = ("/health",)  # without a key
_LINGER, _LINGER_BYTES = 2.0, 2**28  # seconds and bytes that a refused client may still send
_GRACE = 10.0  # seconds beyond the time of a request, in which its answer may still be read


class Gate:
    """Counts requests from their first byte to the last of their answer; what is too much is refused at once.

    Args:
        app: the application.
        limits: of requests.
        key: that a request has to name; None: none.
        local: the server listens on the loopback address alone. Then a page of another site, whose name means this
            machine, is refused by the name.
        draining: tells whether the server is about to end.
        counted: called with the status of each request that is refused here.
    """

    def __init__(
        self, app: Any, limits: ServeLimits, key: str | None = None, local: bool = True,
        draining: Callable[[], bool] = lambda: False, counted: Callable[[int], None] = lambda status: None,
    ) -> None:  # fmt: skip
        self._app, self._limits, self._key, self._local, self._draining = app, limits, key, local, draining
        self._counted = counted
        self.inside = 0
        """Requests that have a place."""
        self.bytes = 0
        """Of their bodies, and of what they show."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sent(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self._check(scope)
            if scope["method"] != "POST":
                await self._app(scope, receive, sent)
                return
            if self.inside >= self._limits.places:
                raise ApiError(429, "all places are taken: try again in a moment", "queue_full", retry_after=1)
            self.inside += 1
            body = bytearray()
            try:
                with anyio.fail_after(self._limits.request_seconds + _GRACE):
                    await self._app(scope, await self._read(body, receive), sent)
            finally:
                self.inside -= 1
                self.bytes -= len(body)
        except TimeoutError:
            if not begun:
                await _refuse(send, ApiError(504, "there was no time to answer this request", "timeout"))
        except ApiError as error:
            self._counted(error.status)
            linger = scope["method"] == "POST" and error.code != "timeout"
            await _refuse(send, error, self._unread(receive) if linger else None)

    def _check(self, scope: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._local and not _means_this_machine(host if host.endswith("]") else host.rpartition(":")[0] or host):
            raise ApiError(403, "this server is for its own machine: ask 127.0.0.1 or localhost", "wrong_host")
        if scope["path"] in _OPEN:
            return
        if self._key is not None:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self._key}".encode()):
                raise ApiError(401, "the key is missing or wrong: send 'Authorization: Bearer KEY'", "invalid_api_key")
        if scope["method"] == "POST":
            if self._draining():
                raise ApiError(503, "this server is ending: ask another", "draining", retry_after=5)
            form = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if form != b"application/json":  # which a page of another site cannot send unasked
                raise ApiError(415, "send the request as application/json", "unsupported_media_type")
            size = headers.get(b"content-length", b"0")
            if not size.isdigit() or int(size) > self._most:
                raise self._too_large()

    @property
    def _most(self) -> int:
        return self._limits.body_megabytes * 10**6

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request has at most {self._limits.body_megabytes} MB here", "too_large")

    def hold(self, size: int) -> None:
        """Count bytes that a request holds, or lets go of.

        Raises:
            ApiError: there is no room for them; they are counted all the same, until they are let go of.
        """
        self.bytes += size
        if size > 0 and self.bytes > self._limits.waiting_megabytes * 10**6 and self.inside > 1:
            raise ApiError(429, "all places are taken: try again in a moment", "queue_full", retry_after=1)

    async def _unread(self, receive: Any) -> None:
        """Read what a refused client still sends, for a moment: only then does it look for its answer."""
        read = 0
        with anyio.move_on_after(_LINGER):
            while read < _LINGER_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return

    async def _read(self, body: bytearray, receive: Any) -> Any:
        """Read the body within its limits; return what hands it on."""
        whole = False
        try:
            with anyio.fail_after(self._limits.body_seconds):
                while not whole:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ApiError(400, "the client has gone", "gone")
                    part = message.get("body", b"")
                    body += part
                    whole = not message.get("more_body", False)
                    self.hold(len(part))
                    if len(body) > self._most:
                        raise self._too_large()
        except TimeoutError:
            raise ApiError(
                408, f"the request was not there within {self._limits.body_seconds:g} s", "timeout"
            ) from None
        handed = False

        async def again() -> Any:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return again


def _means_this_machine(host: str) -> bool:
    """Tell whether a host is a loopback address, or its usual name: another name may mean this machine by its DNS."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def _refuse(send: Any, error: ApiError, unread: Awaitable[None] | None = None) -> None:
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    head = [(name.encode(), value.encode()) for name, value in (headers | error.headers).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if unread is not None:
        await unread
    await send({"type": "http.response.body", "body": b""})
