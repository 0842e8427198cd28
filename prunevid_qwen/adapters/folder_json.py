"""The optional JSON files beside a model: in its folder, or in a hub repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(source: str, name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """Read an optional JSON file of a model folder or hub repository; {} when it has none."""
    from transformers.utils import cached_file

    path = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False, **hub
    )
    if path is None:
        return {}
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
