"""How many tokens come out of each group of PruneVid's stage 1, for all that compute it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.methods import PruneVidMergeOptions


@dataclass(frozen=True)
class MergeOptions(PruneVidMergeOptions):
    """PruneVid's stage 1 options, and what they say of the size of groups."""

    def clusters_of(self, counts: Tensor, static: int) -> Tensor:
        """Return how many tokens become of each group, under "per_group": [G] int64, on its device.

        ``max(1, int(n * ratio))`` of n tokens: products in fp64 as Python's, cut off as by int(). A group of at most
        ``min_cluster_tokens`` stays as it is.

        Args:
            counts: [G] int64 tokens of each group, those of static locations first.
            static: how many groups are static.
        """
        ratio = torch.full(counts.shape, self.cluster_ratio, dtype=torch.float64, device=counts.device)
        if self.static_cluster_ratio is not None:
            ratio[:static] = self.static_cluster_ratio
        fewer = (counts * ratio).long().clamp(min=1)
        return torch.where(counts <= self.min_cluster_tokens, counts, fewer)
