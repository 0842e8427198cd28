"""Small training runs of the bundled model: what the tests of the trainer share."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.training.glimpse import base
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.train import train
from tests.tolerances import LOGITS, close

SMALL: dict[str, Any] = {
    "model_path": "bundled", "dtype": "float32", "precision": "no", "width": 16, "condition": 16, "vip_heads": 4,
    "data": {"kind": "moving_shapes", "samples": 7, "conditions": {"plain": 1.0}},
    "eval_data": {"kind": "moving_shapes", "samples": 2, "held_out": True, "conditions": {"plain": 1.0}},
    "steps": 5, "effective_batch": 2, "per_device_batch": 1, "warmup_ratio": 0.0, "learning_rate": 1e-3,
    "log_every": 3, "save_every": 2, "eval_every": 3, "eval_samples": 1,
}  # fmt: skip


def small(**changes: Any) -> GlimpseRecipe:
    return GlimpseRecipe.from_dict({**SMALL, **changes})


@cache
def base_model() -> tuple[Any, Any]:
    """The bundled model, loaded once for all tests."""
    return base.load_base(small(), "cpu")


def curves(folder: Path) -> list[dict[str, Any]]:
    """Both curves of a run, without the seconds."""
    lines = []
    for name in ("curve.jsonl", "evaluation.jsonl"):
        path = folder / name
        lines += [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def close_curves(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Steps and learning rates are the same; losses and shares are those of logits by another route."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert {name: one.get(name) for name in ("step", "lr")} == {name: other.get(name) for name in ("step", "lr")}
        assert one.keys() == other.keys()
        names = [name for name in one if name not in ("step", "lr")]
        close(*(torch.tensor([float(line[name]) for name in names]) for line in (one, other)), LOGITS)


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)  # type: ignore[no-any-return]


class Killed(Exception):
    """Stands for a kill: nothing of the package catches it."""


def killed_in_step(recipe: GlimpseRecipe, folder: Path, step: int, die: Any = None) -> None:
    """Train until a step is done, but not saved, and die there."""

    def tell(what: str, done: int, _total: int, _figures: Any) -> None:
        if what == "training" and done == step:
            if die is not None:
                die()
            else:
                raise Killed

    train(recipe, folder, check=False, tell=tell)
