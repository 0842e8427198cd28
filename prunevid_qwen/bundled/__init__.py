"""What comes with the package: two toys that know moving shapes alone, a glimpse predictor of the first, and clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BUNDLED = "bundled"
TOYS = {BUNDLED: "model", f"{BUNDLED}-qwen3vl": "qwen3vl"}
"""Name that stands for a path -> folder in here. The first is the default of the commands."""


def is_bundled(source: Any) -> bool:
    """Tell whether ``source`` is the name of a bundled toy, not a hub id, a folder or a loaded model."""
    return isinstance(source, (str, Path)) and str(source) in TOYS


def bundled_model(name: str = BUNDLED) -> str:
    """Return the folder of a bundled toy; `KeyError` for a name that is none of `TOYS`."""
    return str(Path(__file__).parent / TOYS[name])


def source_of(model_path: str) -> str:
    """Return the folder that ``model_path`` names if it is a bundled toy's name, else ``model_path`` as it came."""
    return bundled_model(model_path) if is_bundled(model_path) else model_path
