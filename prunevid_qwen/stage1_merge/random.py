"""Random selection before the decoder: the control that every merger must beat at equal token count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import RandomMergeOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap


@register("random", RandomMergeOptions, stage=1)
@dataclass(frozen=True)
class RandomMerge(RandomMergeOptions):
    """Keep ``max(1, int(n * cluster_ratio))`` tokens of each video, drawn at random, and drop the rest.

    Options: see `RandomMergeOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Draw the tokens of each video, one after the other from one generator.

        Raises:
            ValueError: a video is not whole, or ``cluster_ratio`` is out of range.
        """
        generator = torch.Generator().manual_seed(self.random_seed)

        def draw(_grid: tuple[int, int, int], tokens: torch.Tensor) -> TokenMap:
            n = tokens.shape[0]
            drawn = torch.randperm(n, generator=generator)[: count_of(n, self.cluster_ratio, self.keep_tokens)]
            return TokenMap.keep(drawn.to(tokens.device), n)

        return each_video(seen, self.merge_images, draw)
