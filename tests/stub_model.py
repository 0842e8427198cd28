"""A model that answers "red" at once and remembers how it was asked, in place of the command line's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import ask as answering
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig


def receipt(pruned: bool = True, **seconds: float) -> dict[str, Any]:
    """A receipt as the API gives it, with figures that are easy to recognise."""
    kept, merged = (40, 100) if pruned else (200, 200)
    off = None if pruned else "off"
    return {
        "input": {
            "videos": [
                {
                    "source": "clip.mp4", "backend": "pyav", "frames": 16, "timestamps": [0.0, 0.5],
                    "seconds_per_grid": 1.0, "size": [112, 112], "grid": [8, 8, 8], "warnings": ["cut short"],
                }
            ],
            "images": [],
            "prompt_tokens": 230,
        },
        "stage1": {
            "enabled": pruned, "applied": pruned, "note": off, "original_tokens": 200, "compressed_tokens": merged,
            "merger": "prunevid", "tau": 0.8, "static_ratio": 0.31,
            "reduction_percentage": 50.0, "requested_ratio": 0.5, "achieved_ratio": 0.5,
        },
        "stage2": {
            "enabled": pruned, "applied": pruned, "note": off, "selector": "prunevid", "layer": 1,
            "original_tokens": merged, "kept_tokens": kept, "compressed_tokens": kept, "requested_ratio": 0.4,
            "achieved_ratio": 0.4,
        },
        "stage3": {
            "enabled": pruned, "applied": pruned, "note": off, "original_length": 130, "compressed_length": 70,
            "reduction_ratio": 0.46, "cache_lengths": [70] * 4, "cache_bytes": 7168 if pruned else 23552,
            "cache_bytes_unpruned": 23552,
        },
        "tokens": {"visual": 200, "after_stage1": merged, "after_stage2": kept, "layer_average": 70.0},
        "seconds": {
            "read": 0.1, "vision": 0.2, "merge": 0.01, "prefill": 0.1, "select": 0.01, "compact": 0.0,
            "decode_per_token": 0.01, "total": 0.5, **seconds,
        },
        "generated_tokens": 1, "position_scheme": "reference", "versions": {"python": "3.11"}, "device": "cpu",
        "dtype": "float32", "attn_implementation": "sdpa", "config": {"tau": 0.8}, "model": "bundled",
    }  # fmt: skip


class Shown(dict[str, Any]):
    """What was read: the arguments of the call."""

    encoded = ()


class StubModel:
    """Answers "red" at once and remembers how it was asked."""

    tokenizer = None

    def __init__(self, config: PruneVidConfig, error: BaseException | None = None) -> None:
        self.config, self.error = config, error
        self.asked: list[dict[str, Any]] = []
        self.prepared: list[dict[str, Any]] = []

    def with_config(self, config: PruneVidConfig) -> StubModel:
        other = StubModel(config, self.error)
        other.asked, other.prepared = self.asked, self.prepared
        return other

    def prepare(self, **arguments: Any) -> dict[str, Any]:
        self.prepared.append(Shown(arguments))
        return self.prepared[0]

    def answer(self, prepared: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        assert prepared is self.prepared[0]
        return self.generate(**prepared, **arguments, streamer=None)

    def generate(self, **arguments: Any) -> dict[str, Any]:
        self.asked.append({**arguments, "config": self.config})
        if self.error is not None:
            raise self.error
        sys.stdout.write("a library talks\n")
        if arguments["streamer"] is not None:
            arguments["streamer"].on_finalized_text("red", stream_end=True)
        return {"answer": "red", "stats": receipt(pruned=self.config.enable_stage1)}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> list[StubModel]:
    """Let the command line load a stub; the list holds those it loaded."""
    loaded: list[StubModel] = []

    def load(model: Any, config: PruneVidConfig, shown: Any) -> StubModel:
        loaded.append(StubModel(config))
        return loaded[-1]

    monkeypatch.setattr(answering, "load", load)
    return loaded


@pytest.fixture
def clip(tmp_path: Path) -> str:
    path = tmp_path / "clip ü.mp4"
    path.write_bytes(b"not empty; the stub does not look inside")
    return str(path)


def ask(*words: str) -> int:
    return main(["ask", *words])
