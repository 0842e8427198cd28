"""A command line that loads nothing, and tells the configs that it would answer under."""

from __future__ import annotations

from typing import Any

import pytest

from prunevid_qwen.cli import ask as answering
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import SetupError


def configs_of(monkeypatch: pytest.MonkeyPatch) -> list[PruneVidConfig]:
    """Let the command line load nothing; the list holds the configs that it would answer under."""
    seen: list[PruneVidConfig] = []

    def load(model: Any, config: PruneVidConfig, shown: Any) -> Any:
        seen.append(config)
        raise SetupError("no model here")

    monkeypatch.setattr(answering, "load", load)
    return seen
