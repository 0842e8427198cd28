"""Budgets of selectors that give each token a probability: a threshold with a cap and a floor, or a fixed share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import ThresholdOptions
from prunevid_qwen.tokens import TokenLayout


@dataclass(frozen=True)
class Budget:
    """How many tokens are kept (GlimpsePrune, arXiv 2508.01548, and its authors' code).

    Args:
        threshold: probability above which a token is kept, in [0, 1); None keeps exactly ``keep_ratio``.
        keep_ratio: share kept where there is no threshold, in (0, 1].
        max_keep_ratio: share that the threshold may keep, in (0, 1], or None; above it exactly the best
            ``int(n * max_keep_ratio)`` are.
        min_keep_tokens: the best so many are kept in any case, at least 1.
        scope: "sample" counts all images and videos together, as the authors do, so that one of them may lose all of
            its tokens; "image" counts each of them by itself.

        keep_tokens: kept of each image and video instead of ``keep_ratio``, at least 1, whatever the scope; or None.

    Differs from the authors' code: equal scores go to the lower index, theirs to whichever `topk` returns.
    """

    threshold: float | None = 0.5
    keep_ratio: float = 0.4
    max_keep_ratio: float | None = None
    min_keep_tokens: int = 1
    scope: str = "sample"
    keep_tokens: int | None = None

    @classmethod
    def of(cls, options: ThresholdOptions) -> Budget:
        """Take the budget out of a method's options."""
        return cls(
            options.keep_threshold,
            options.keep_ratio,
            options.max_keep_ratio,
            options.min_keep_tokens,
            options.budget_scope,
            options.keep_tokens,
        )

    def choose(self, score: Tensor, probability: Tensor, layout: TokenLayout) -> Tensor:
        """Choose the tokens to keep.

        Args:
            score: [N], higher is better: what orders tokens.
            probability: [N] in [0, 1], which grows with ``score`` (and may be equal where it is not, by rounding).
            layout: of the sample.

        Returns:
            [K] int64 indices, K at least 1.
        """
        blocks = [(b.start, b.stop) for b in layout.blocks if b.stop > b.start]
        spans = [(0, score.numel())] if self.scope == "sample" and self.keep_tokens is None else blocks
        return torch.cat([start + self._best(score[start:stop], probability[start:stop]) for start, stop in spans])

    def _best(self, score: Tensor, probability: Tensor) -> Tensor:
        n, best = score.numel(), score.argsort(descending=True, stable=True)
        least = min(n, self.min_keep_tokens)
        if self.threshold is None:
            return best[: min(n, count_of(n, self.keep_ratio, self.keep_tokens))]
        above = int((probability > self.threshold).sum())  # the one question to the device: how many there are
        if self.max_keep_ratio is not None and above / n > self.max_keep_ratio:
            above = int(n * self.max_keep_ratio)
        return best[: max(above, least)]
