"""The registry of methods as a fixture, and a command line that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prunevid_qwen.cli import answer as answering
from prunevid_qwen.config import PruneVidConfig, table
from prunevid_qwen.errors import SetupError
from prunevid_qwen.reducer import (
    _REDUCERS,
)


@pytest.fixture
def registry() -> Iterator[None]:
    """Takes out again what a test registers."""
    reducers, classes = dict(_REDUCERS), {part: dict(known) for part, known in table._CLASSES.items()}
    yield
    _REDUCERS.clear()
    _REDUCERS.update(reducers)
    for part, known in classes.items():
        table._CLASSES[part].clear()
        table._CLASSES[part].update(known)


def configs_of(monkeypatch: pytest.MonkeyPatch) -> list[PruneVidConfig]:
    """Let the command line load nothing; the list holds the configs that it would answer under."""
    seen: list[PruneVidConfig] = []

    def load(request: Any) -> Any:
        seen.append(request.config)
        raise SetupError("no model here")

    monkeypatch.setattr(answering, "load", load)
    return seen
