"""A release of transformers that nobody tested, and a self-check with a given end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.adapters import seams
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.selfcheck import canary, verdicts
from prunevid_qwen.forward.selfcheck.checks import Check, SelfCheck
from tests.models import tiny_model
from tests.test_pruning_equals_masking import TINY

UNTESTED, FAMILY = "5.99.0", "qwen2_5_vl"
CONFIG = PruneVidConfig(**TINY)
Pretend = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def untested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The installed release gets a version that nobody tested; the process knows nothing yet; the cache is empty."""
    monkeypatch.setattr(seams, "transformers_release", lambda: UNTESTED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    new_process(monkeypatch)
    yield tmp_path / "cache" / "prunevid_qwen"


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "_known", {})
    verdicts._say_once.cache_clear()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Replace the check by one with a given end; returns the families that it was asked about."""

    def replace(ok: bool = True, error: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def check(family: str, _attach: Any) -> SelfCheck:
            asked.append(family)
            return SelfCheck(family, UNTESTED, "2.99.0", (Check("as pretended", ok, {"figure": 7.0}, 0.1, error),))

        monkeypatch.setattr(canary, "self_check", check)
        return asked

    return replace


def enter(model: Any = None) -> None:
    with pruned(tiny_model() if model is None else model, CONFIG):
        pass
