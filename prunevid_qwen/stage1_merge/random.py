"""Random selection before the decoder: the control that every merger must beat at equal token count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, tokens_of, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap


@register("random", stage=1)
@dataclass(frozen=True)
class RandomMerge:
    """Keep ``max(1, int(n * cluster_ratio))`` tokens of each video, drawn at random, and drop the rest.

    Args:
        cluster_ratio: tokens left per token of a video, in (0, 1].
        seed: the same seed and sizes keep the same tokens, on every device.
        merge_images: reduce images too.
    """

    cluster_ratio: float = 0.5
    seed: int = 0
    merge_images: bool = False

    @classmethod
    def from_config(cls, config: PruneVidConfig) -> RandomMerge:
        """Take ``cluster_ratio``, ``random_seed`` and ``merge_images`` from the flat config."""
        return cls(config.cluster_ratio, config.random_seed, config.merge_images)

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio)

    def plan(self, seen: Evidence) -> TokenMap:
        """Draw the tokens of each video, one after the other from one generator.

        Raises:
            ValueError: a video is not whole, or ``cluster_ratio`` is out of range.
        """
        generator = torch.Generator().manual_seed(self.seed)

        def draw(_grid: tuple[int, int, int], tokens: torch.Tensor) -> TokenMap:
            n = tokens.shape[0]
            drawn = torch.randperm(n, generator=generator)[: tokens_of(n, self.cluster_ratio)]
            return TokenMap.keep(drawn.to(tokens.device), n)

        return each_video(seen, self.merge_images, draw)
