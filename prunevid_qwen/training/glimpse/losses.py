"""What the predictor is trained for (GlimpsePrune, arXiv 2508.01548), and how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH = 1e-6


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - (2 sum(p g) + 1e-6) / (sum(p) + sum(g) + 1e-6) of one sample, p = sigmoid(logits), in fp32.

    Args:
        logits: [N].
        mask: [N] bool, the tokens that matter.
    """
    p, g = logits.float().sigmoid(), mask.float()
    return 1 - (2 * (p * g).sum() + _SMOOTH) / (p.sum() + g.sum() + _SMOOTH)


def bce(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the binary cross-entropy of one sample, the mean over its tokens, in fp32."""
    return F.binary_cross_entropy_with_logits(logits.float(), mask.float())


def localisation(logits: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return Dice and cross-entropy, each the mean over samples: [N] logits and [N] bool masks, one a sample."""
    pairs = list(zip(logits, masks, strict=True))
    return torch.stack([dice(*pair) for pair in pairs]).mean(), torch.stack([bce(*pair) for pair in pairs]).mean()


@dataclass(frozen=True)
class MaskCounts:
    """Tokens counted over samples, at a probability of one half; counts of two sets of samples add up.

    Args:
        hit: kept, and they matter.
        spare: kept, and they do not.
        missed: dropped, and they matter.
        tokens: all of them.
    """

    hit: int = 0
    spare: int = 0
    missed: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, logits: Tensor, mask: Tensor) -> MaskCounts:
        """Count one sample: [N] logits, [N] bool."""
        kept = logits > 0
        parts = [(kept & mask).sum(), (kept & ~mask).sum(), (~kept & mask).sum()]
        hit, spare, missed = torch.stack(parts).tolist()
        return cls(hit, spare, missed, mask.numel())

    def __add__(self, other: MaskCounts) -> MaskCounts:
        return MaskCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def figures(self) -> dict[str, float]:
        """Precision, recall, F1 and IoU over all tokens counted (0 where there is nothing to divide by), share kept."""
        kept, shown = self.hit + self.spare, self.hit + self.missed
        return {
            "precision": self.hit / kept if kept else 0.0,
            "recall": self.hit / shown if shown else 0.0,
            "f1": 2 * self.hit / (kept + shown) if kept + shown else 0.0,
            "iou": self.hit / (kept + self.missed) if kept + self.missed else 0.0,
            "kept": kept / self.tokens if self.tokens else 0.0,
        }
