"""The folder of a training run: its checkpoint, its curves, what came of it. Every write survives a kill."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.store import Lines, keep_lines, read_lines, replace
from prunevid_qwen.receipt import versions
from prunevid_qwen.training.glimpse.recipe import FREE

CHECKPOINT, CURVE, EVALUATION = "checkpoint.pt", "curve.jsonl", "evaluation.jsonl"
RECORD, MODEL = "train.json", "model"

logger = logging.getLogger(__name__)


class TrainingFolder:
    """Where one training run keeps what it needs to go on.

    Args:
        path: made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Remove what a run has written, and nothing else."""
        for name in (CHECKPOINT, CURVE, EVALUATION, RECORD, "curve.svg"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / MODEL, ignore_errors=True)

    def load(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the last checkpoint, or None where there is none.

        Args:
            about: recipe, facts of the model and number of records of the run that wants to go on.

        Raises:
            ConfigError: it is of another run; the option that differs is named.
            SetupError: it cannot be read.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            if any((self.path / name).exists() for name in (CURVE, RECORD)):
                logger.warning("%s has no %s: beginning anew", self.path, CHECKPOINT)
            return None
        saved = read_checkpoint(path)
        _check_same(saved["about"], about, self.path)
        for name, version in _versions().items():
            if saved["versions"].get(name) != version:
                logger.warning("the run began with %s %s, this is %s", name, saved["versions"].get(name), version)
        return saved

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint: an interruption leaves the old one or the new one."""
        self.write(CHECKPOINT, lambda file: torch.save({**state, "versions": _versions()}, file))

    def record(self) -> dict[str, Any] | None:
        """Return what train.json holds, or None where the run is not finished or its predictor is gone."""
        path = self.path / RECORD
        if not path.is_file() or not (self.path / MODEL).is_dir():
            return None
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return held

    def write_record(self, record: Mapping[str, Any]) -> Path:
        """Write train.json and return its path."""
        return self.write(RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def add(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line to a curve; after the return it outlives a kill."""
        self.path.mkdir(parents=True, exist_ok=True)
        with Lines(self.path / name) as lines:
            lines.add(dict(line))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Read a curve, without a last line that a kill has torn."""
        return read_lines(self.path / name)

    def cut(self, step: int) -> None:
        """Take lines that are younger than a checkpoint off the curves: its steps will be done again."""
        for name in (CURVE, EVALUATION):
            keep_lines(self.path / name, lambda line: line["step"] <= step)

    def write(self, name: str, data: str | Callable[[BinaryIO], Any]) -> Path:
        """Write a file whole or not at all, whatever comes in between, and return its path."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace(self.path / name, data.encode() if isinstance(data, str) else data)
        return self.path / name


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values alone.

    Raises:
        SetupError: it is damaged, or of another kind of training.
    """
    reason = "it is damaged"
    try:
        held = torch.load(path, map_location="cpu", weights_only=True) if zipfile.is_zipfile(path) else None
        if isinstance(held, dict) and {"about", "trainee", "optimizer", "step"} <= held.keys():
            return held
        if isinstance(held, dict):
            reason = "it is of another kind of training"
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
    raise SetupError(f"{path} cannot be read ({reason}): pass --restart to begin anew, or another --out")


def _versions() -> dict[str, str]:
    return {name: str(version) for name, version in versions().items()}  # torch's own is no plain text


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise `ConfigError` where a checkpoint is of another run."""
    old, new = ({**about["recipe"], **dict.fromkeys(FREE)} for about in (before, now))
    differ = [
        f"{name} was {old.get(name)!r} and is {new[name]!r}"
        for name in new
        if old.get(name) != new[name] and name not in FREE
    ]
    if not differ:
        rest = [name for name in now if name != "recipe" and before.get(name) != now[name]]
        differ = [f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in rest]
    if differ:
        raise ConfigError(
            f"{folder} holds a run of another recipe ({'; '.join(differ)}): pass another --out, or --restart to throw "
            "that run away"
        )
