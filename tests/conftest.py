"""What holds for every test: no network but this machine's own, one thread, the same on a laptop and in CI."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
os.environ["TRITON_INTERPRET"] = os.environ.get("TRITON_INTERPRET", "1")  # before torch imports triton

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.benchmark_runs import finished, sets, shapes  # noqa: F401  # fixtures of several files
from tests.poison import poisoned

# models of 64 channels: a second thread costs more than it brings, and sums keep one order everywhere
torch.set_num_threads(1)

LOOPBACK = ("127.0.0.1", "::1")  # where a test may start a server of its own


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that opens a connection to another machine is told so."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] in LOOPBACK:
            return connect(self, address)
        raise AssertionError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written to the real home's cache, by tests or by what they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """A kernel that leaves a part of its output unwritten gives NaN, not what happened to stand there."""
    with poisoned():
        yield
