"""The fixture that keeps tests off the network lets them reach servers of their own, and nothing else."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("127.0.0.2", 80), ("localhost.example", 80), "/tmp/socket"])
def test_other_machines_are_refused(address: object) -> None:
    with socket.socket() as one, pytest.raises(AssertionError, match="a test tried to reach"):
        one.connect(address)  # type: ignore[arg-type]


def test_this_machine_is_reached() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        client.sendall(b"here")
        with server.accept()[0] as connection:
            assert connection.recv(4) == b"here"
