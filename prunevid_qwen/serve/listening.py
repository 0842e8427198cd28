"""Open the server: listen, and end in good order when SIGTERM or Ctrl-C comes."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import SetupError

NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client", "httpx": "httpx"}
"""Modules of the extra, and the packages that have them."""


def check_installed() -> None:
    """Refuse to go on without the packages of the extra, before a model is loaded.

    Raises:
        SetupError: as it says.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SetupError(f"the server needs {', '.join(missing)}, not installed: pip install 'prunevid_qwen[serve]'")


@dataclass(frozen=True)
class ListensAt:
    """Where clients find the server.

    Args:
        host: a loopback address lets nobody but this machine in.
        port: 0 takes a free one.
        drain_seconds: that answers may take after SIGTERM.
        connections: that are open at once; more are closed with 503.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    drain_seconds: int = 30
    connections: int = 512

    @property
    def local(self) -> bool:
        """Nobody but this machine gets in."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def listening(self) -> socket.socket:
        """Return the socket, before a model is loaded.

        Raises:
            SetupError: the port is taken, or the host is none of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # named TCP, or asyncio leaves Nagle's algorithm on: each answer would wait 40 ms for the client's ACK
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((self.host, self.port))
        except OSError as error:
            made.close()
            raise SetupError(
                f"cannot listen on {self.host}:{self.port} ({error.strerror or error}): pass another --port, or 0 for "
                "a free one"
            ) from None
        return made


def run(
    make: Callable[[Callable[[], bool]], Any], at: ListensAt, listening: socket.socket, ready: Callable[[str], None]
) -> None:
    """Serve until a signal comes, then answer what is inside, for at most ``drain_seconds``.

    Args:
        make: called with what tells that the server is about to end; returns the ASGI application.
        at: where.
        listening: its socket.
        ready: called with the address once requests are answered.
    """
    import uvicorn

    class Listening(uvicorn.Server):
        """Says when it listens."""

        async def startup(self, sockets: Any = None) -> None:
            """Start, and say so."""
            await super().startup(sockets)
            if self.started:
                host, port = listening.getsockname()[:2]
                ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    server: Any = None
    app = make(lambda: bool(server is not None and server.should_exit))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", server_header=False, date_header=True, ws="none",
        limit_concurrency=at.connections, timeout_graceful_shutdown=at.drain_seconds, timeout_keep_alive=5,
        http="h11", loop="asyncio",
    )  # fmt: skip
    server = Listening(config)
    with suppress(KeyboardInterrupt):  # uvicorn drains first, and raises the signal again afterwards
        asyncio.run(server.serve([listening]))
    if not server.started:
        raise SetupError("the server did not start: see the lines above")


def log_to(stream: Any = None) -> None:
    """Write the log of requests as lines, to stderr if nothing is said."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    own = logging.getLogger("prunevid_qwen.serve")
    own.handlers, own.propagate = [handler], False
    own.setLevel(logging.INFO)
