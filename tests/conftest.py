"""What holds for every test: no network but this machine's own, one thread, the same on a laptop and in CI."""

from __future__ import annotations

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported anywhere
os.environ.setdefault("OMP_NUM_THREADS", "1")  # what tests start, too: where cores are busy, threads burn time waiting
os.environ["TRITON_INTERPRET"] = os.environ.get("TRITON_INTERPRET", "1")  # before torch imports triton

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.stage2_select import prunevid
from prunevid_qwen.stage2_select.threshold import Budget
from tests.benchmark_fixtures import clips, empty_cache, whole  # noqa: F401  # fixtures
from tests.benchmark_runs import answered, dozen, finished, sets, shapes, stub, stubbed  # noqa: F401  # fixtures
from tests.poison import poisoned
from tests.tolerances import apart

# models of 64 channels: a second thread costs more than it brings, and sums keep one order everywhere
torch.set_num_threads(int(os.environ.get("PRUNEVID_TEST_THREADS", "1")))  # tools/test_cpus.py asks for two

LOOPBACK = ("127.0.0.1", "::1")  # where a test may start a server of its own


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where pytest-timeout cannot be installed, as on the lent GPU machine, its settings are known and do nothing."""
    parser.addoption("--reference", type=Path, help="test_method_reference: all cases of this file of authors' answers")
    if importlib.util.find_spec("pytest_timeout") is None:
        for name in ("timeout", "timeout_method"):
            parser.addini(name, "of pytest-timeout, which is not installed")


def pytest_configure() -> None:
    """Let hypothesis, where it is installed, not fail a test for being slow, which a busy machine is."""
    if importlib.util.find_spec("hypothesis") is not None:
        from hypothesis import HealthCheck, settings

        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file that imports torch compares numbers, or decides by them."""
    for item in items:
        if isinstance(item, pytest.Function) and getattr(item.module, "torch", None) is torch:
            item.add_marker(pytest.mark.numeric)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that opens a connection to another machine is told so."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] in LOOPBACK:
            return connect(self, address)
        raise AssertionError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def scores_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that compare kept tokens of two routes: no score may lie so near to another that rounding decides."""

    def top(real: Any) -> Any:
        def checked(score: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
            apart(lambda each: real(each, *rest, **more).sort().values, score)
            return real(score, *rest, **more)

        return checked

    def choose(self: Budget, score: torch.Tensor, probability: torch.Tensor, layout: Any) -> torch.Tensor:
        slope = 1 / 4  # a sigmoid's, at most
        apart(lambda each: budget(self, each, probability + slope * (each - score), layout).sort().values, score)
        return budget(self, score, probability, layout)

    for name in ("stratified_topk", "topk_of_each"):
        monkeypatch.setattr(prunevid, name, top(getattr(prunevid, name)))
    budget = Budget.choose
    monkeypatch.setattr(Budget, "choose", choose)


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Signals do what they do to a program in a terminal's foreground: a job in the background finds SIGINT ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


@pytest.fixture
def registry() -> Iterator[None]:
    """Takes out again what a test registers."""
    from prunevid_qwen.config import option_classes
    from prunevid_qwen.reducer import _REDUCERS

    reducers, classes = dict(_REDUCERS), {part: dict(known) for part, known in option_classes._CLASSES.items()}
    yield
    _REDUCERS.clear()
    _REDUCERS.update(reducers)
    for part, known in classes.items():
        option_classes._CLASSES[part].clear()
        option_classes._CLASSES[part].update(known)
