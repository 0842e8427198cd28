"""What the second toy's vision tower learns from: the objects that its tokens show, and the first toy's tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from prunevid_qwen.moving_shapes import COLORS, DIRECTIONS, SHAPES
from research.bundled_model.batches import VisionBatch, VisionBatches
from research.bundled_model.fast_forward import vision_features as teacher_features
from research.bundled_model.phases import VisionPhase
from research.bundled_qwen3vl.fast_forward import vision_features

_BACKGROUND_WEIGHT = 0.25  # most tokens are background
_LEVEL_WEIGHT = 0.3  # of what DeepStack adds: it is to tell the same, from earlier blocks
_LABELS = {"colors": len(COLORS), "shapes": len(SHAPES), "directions": len(DIRECTIONS)}


@dataclass(frozen=True)
class TaughtVisionBatch:
    """A batch with its labels, and the tokens [N, P / 4, D] float32 that the first toy's tower makes of it."""

    labelled: VisionBatch
    wanted: Tensor


class TaughtVisionBatches(Dataset[TaughtVisionBatch]):
    """Batch ``step`` of a vision phase, seen by the first toy."""

    def __init__(self, phase: VisionPhase, key: tuple[int, int], teacher: Any) -> None:
        self.drawn, self.teacher = VisionBatches(phase, key), teacher

    def __len__(self) -> int:
        """Count the steps of the phase."""
        return len(self.drawn)

    def __getitem__(self, step: int) -> TaughtVisionBatch:
        """Draw the videos of a step and let the first toy look at them."""
        drawn = self.drawn[step]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return TaughtVisionBatch(drawn, teacher_features(self.teacher.model.visual, drawn.patches, *drawn.grid))


def vision_heads(width: int, levels: int) -> nn.ModuleDict:
    """Make the heads that name color, shape and direction of a token, for the tokens and each level of DeepStack."""
    heads = {f"{name}{n}": nn.Linear(width, size + 1) for n in range(levels + 1) for name, size in _LABELS.items()}
    return nn.ModuleDict(heads)


def vision_loss(visual: Any, heads: nn.ModuleDict, batch: TaughtVisionBatch) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of what every token shows, and the distance to the first toy's tokens over their variance."""
    labelled, figures = batch.labelled, {}
    made = vision_features(visual, labelled.patches, *labelled.grid)
    loss = F.mse_loss(made[0], batch.wanted) / batch.wanted.var()
    figures["far"] = [float(loss.detach())]
    for number, tokens in enumerate(made):
        for name in _LABELS:
            logits = heads[f"{name}{number}"](tokens).float().flatten(0, 1)
            labels = getattr(labelled, name).flatten()
            weights = torch.ones(logits.shape[-1])
            weights[0] = _BACKGROUND_WEIGHT
            loss = loss + (_LEVEL_WEIGHT if number else 1.0) * F.cross_entropy(logits, labels, weight=weights)
            figures[f"{name}{number}"] = [float((logits.argmax(-1) == labels)[labels > 0].float().mean())]
    return loss, figures
