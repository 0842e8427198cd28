"""What a training run is at any moment, how it starts, and how it is written down so that it can go on."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunevid_qwen.moving_shapes import SHAPES

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Everything that a run is, apart from its options.

    Args:
        model: the library's model.
        heads: what the vision tower is trained through; thrown away in the end.
        rank_head: what visual tokens in the decoder are trained through; thrown away too.
        phase: index into the phases.
        step: steps done in it.
        seconds: time spent so far.
        optimizer: the phase's, or None before its first step.
        recent: shares of right answers in the last reports, by type.
    """

    model: Any
    heads: nn.ModuleDict
    rank_head: nn.Module
    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    optimizer: torch.optim.Optimizer | None = None
    recent: dict[str, deque[float]] = field(default_factory=dict)


class Recipe(Protocol):
    """What is different between toys."""

    def build(self, seed: int) -> Any:
        """Make the library's model with fresh parameters."""

    def heads(self, model: Any) -> nn.ModuleDict:
        """Make what the vision tower is trained through and what is thrown away in the end."""

    def load(self, model: Any, parameters: dict[str, Tensor], seed: int) -> None:
        """Fill the model with a checkpoint's parameters."""

    def change(self, model: Any, phase: Any, seed: int) -> None:
        """Do what a phase without steps does."""

    def batches(self, phase: Any, key: tuple[int, int], model: Any) -> Dataset[Any]:
        """Make the batches of a phase; batch ``s`` is the same whatever was made before it."""

    def loss(self, state: TrainingState, phase: Any, batch: Any) -> tuple[Tensor, dict[str, list[float]]]:
        """Return the loss of a batch, and its figures for the curve."""


def start(
    out: Path, recipe: Recipe, seed: int, resume: bool, device: str, weights: Path | None = None, phase: int = 0
) -> TrainingState:
    """Make the parameters, or take them from the checkpoint; without one from an exported model, if one is named.

    Args:
        out: folder of the run.
        recipe: of the toy.
        seed: of fresh parameters.
        resume: go on from the folder's checkpoint if there is one.
        device: where the model goes.
        weights: folder of an exported model to begin with.
        phase: the phase that ``weights`` are given to.
    """
    model = recipe.build(seed)
    heads = recipe.heads(model)
    rank_head = nn.Linear(
        model.config.text_config.hidden_size, len(SHAPES) + 1
    )  # no scene has more objects than there are shapes
    state = TrainingState(model.to(device), heads.to(device), rank_head.to(device))
    path = out / "checkpoint.pt"
    if not (resume and path.exists()):
        (out / "curve.jsonl").unlink(missing_ok=True)
        if weights is not None:
            exported = type(model).from_pretrained(weights, dtype=torch.float32)
            recipe.load(model, exported.state_dict(), seed)
            state.phase = phase
        return state
    saved = torch.load(path, map_location=device, weights_only=True)
    recipe.load(model, saved["model"], seed)
    heads.load_state_dict(saved["heads"])
    rank_head.load_state_dict(saved["rank_head"])
    state.phase, state.step, state.seconds = saved["phase"], saved["step"], saved["seconds"]
    if saved["optimizer"] is not None:
        state.optimizer = optimizer_of(state, saved["vision"])
        state.optimizer.load_state_dict(saved["optimizer"])
    logger.info("going on at step %d of phase %d", state.step, state.phase)
    return state


def save(out: Path, state: TrainingState) -> None:
    """Write the checkpoint so that an interruption leaves the old one or the new one, never half of one."""
    saved = {
        "model": state.model.state_dict(),
        "heads": state.heads.state_dict(),
        "rank_head": state.rank_head.state_dict(),
        "optimizer": None if state.optimizer is None else state.optimizer.state_dict(),
        "vision": len(_vision_parameters(state)) == _count(state.optimizer),
        "phase": state.phase,
        "step": state.step,
        "seconds": state.seconds,
    }
    partial = out / "checkpoint.partial"
    torch.save(saved, partial)
    os.replace(partial, out / "checkpoint.pt")


def optimizer_of(state: TrainingState, vision: bool) -> torch.optim.Optimizer:
    """AdamW on what the phase trains; vectors (norms, biases) are not decayed."""
    if vision:
        parameters, decay = _vision_parameters(state), 0.02
    else:
        named = state.model.named_parameters()
        parameters, decay = [p for name, p in named if not name.startswith("model.visual")], 0.05
        parameters += state.rank_head.parameters()
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _vision_parameters(state: TrainingState) -> list[nn.Parameter]:
    return [*state.model.model.visual.parameters(), *state.heads.parameters()]


def _count(optimizer: torch.optim.Optimizer | None) -> int:
    return 0 if optimizer is None else sum(len(group["params"]) for group in optimizer.param_groups)
