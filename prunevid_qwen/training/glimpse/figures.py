"""The figures of some samples: mean losses, and how well the predictor finds the tokens that matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunevid_qwen.training.glimpse.losses import MaskCounts, localisation
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.trainee import TrainingOutcome


@dataclass
class Figures:
    """Sums over samples; those of different processes and steps add up.

    Args:
        samples: how many.
        lm: their language model losses.
        dice: their Dice losses.
        bce: their cross-entropies against the boxes.
        counts: their tokens.
    """

    samples: int = 0
    lm: float = 0.0
    dice: float = 0.0
    bce: float = 0.0
    counts: MaskCounts = field(default_factory=MaskCounts)

    def add(self, outcome: TrainingOutcome, dice: Tensor, bce: Tensor) -> None:
        """Count the samples of a forward; ``dice`` and ``bce`` are their means."""
        count = len(outcome.masks)
        lm, d, b = torch.stack([outcome.lm.detach().float(), dice.detach(), bce.detach()]).tolist()
        self.samples += count
        self.lm, self.dice, self.bce = self.lm + count * lm, self.dice + count * d, self.bce + count * b
        for logits, mask in zip(outcome.logits, outcome.masks, strict=True):
            self.counts += MaskCounts.of(logits.detach(), mask)

    def numbers(self) -> list[float]:
        """Return all that it holds as numbers; the reverse of `of`."""
        c = self.counts
        return [float(x) for x in (self.samples, self.lm, self.dice, self.bce, c.hit, c.spare, c.missed, c.tokens)]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Figures:
        """Make it of the numbers that `numbers` gave."""
        samples, lm, dice, bce, *counts = numbers
        return cls(int(samples), lm, dice, bce, MaskCounts(*(int(count) for count in counts)))

    def line(self) -> dict[str, float]:
        """Return means over samples, and precision, recall, F1, IoU and share kept over all their tokens."""
        n = max(1, self.samples)
        return {"lm": self.lm / n, "dice": self.dice / n, "bce": self.bce / n, **self.counts.figures}


def loss_of(recipe: GlimpseRecipe, outcome: TrainingOutcome) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of a forward (the mean over its samples), and of it Dice and cross-entropy against the boxes."""
    dice, bce = localisation(outcome.logits, outcome.masks)
    total = recipe.lm_weight * outcome.lm + recipe.dice_weight * dice + recipe.bce_weight * bce
    return total, dice, bce
