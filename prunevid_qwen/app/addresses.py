"""Refuses requests of a browser that name a file which was not uploaded, or an address, before anything opens it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from prunevid_qwen.app.uploads import uploaded
from prunevid_qwen.errors import ConfigError

MOST_BYTES = 2**20
"""Of a request that is no upload: a question and the values of the controls have far fewer."""

_Receive = Callable[[], Awaitable[dict[str, Any]]]
_NAMES = ("path", "url", "data")  # of a file, in Gradio's messages
_ADDRESSES = ("/file=http:", "/file=https:", "/proxy=")


class UploadsAlone:
    """ASGI middleware around Gradio's application.

    Gradio fetches an address that a message gives as a file's path, and moves files of allowed folders into its own. A
    message of this page names uploaded files alone; any other is answered by 400, and what it names is not touched.

    Args:
        app: Gradio's application.
        folder: of uploads.
    """

    def __init__(self, app: Any, folder: Path) -> None:
        self._app, self._folder = app, folder

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope.get("path", "")).lower()
        if any(each in path for each in _ADDRESSES):
            await _refuse(send, "this page opens no addresses")
            return
        kinds = [value.lower() for name, value in scope["headers"] if name.lower() == b"content-type"]
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or any(each.startswith(b"multipart/") for each in kinds):
            await self._app(scope, receive, send)
            return
        body, whole = b"", False
        while not whole:
            message = await receive()
            if message["type"] != "http.request":
                return  # the browser has gone
            body += message.get("body", b"")
            whole = not message.get("more_body", False)
            if len(body) > MOST_BYTES:
                await _refuse(send, f"a message to this page has at most {MOST_BYTES} bytes")
                return
        try:
            self.check(json.loads(body) if body else None)
        except (ValueError, RecursionError) as error:
            await _refuse(send, str(error) if isinstance(error, ConfigError) else "this is no message of the page")
            return
        read = False

        async def again() -> dict[str, Any]:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    def check(self, message: Any) -> None:
        """Refuse a message that names a file which was not uploaded.

        Raises:
            ConfigError: as it says.
        """
        for file in _files(message):
            url = file.get("url")
            if isinstance(url, str) and "/file=" in url:  # where the browser shows it from: that very file
                file = {**file, "url": unquote(url.rpartition("/file=")[2])}
            for name in _NAMES:
                if file.get(name) is not None:
                    uploaded(str(file[name]), self._folder)


def _files(message: Any) -> Iterator[dict[str, Any]]:
    """Yield what a message has that may be a file, at any depth."""
    if isinstance(message, dict):
        meta = message.get("meta")
        if "path" in message or "url" in message or (isinstance(meta, dict) and "_type" in meta):
            yield message
        for each in message.values():
            yield from _files(each)
    elif isinstance(message, list):
        for each in message:
            yield from _files(each)


async def _refuse(send: Any, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": head})
    await send({"type": "http.response.body", "body": body})
