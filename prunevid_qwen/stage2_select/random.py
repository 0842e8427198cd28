"""Random selection: the control that every selector must beat at equal budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunevid_qwen.config.methods import RandomOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage2_select.topk import topk_of_each
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.device import moved


@register("random", RandomOptions)
@dataclass(frozen=True)
class Random(RandomOptions):
    """Keep ``max(1, int(n * keep_ratio))`` tokens of each video or image, drawn at random.

    Options: see `RandomOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        """Draw the tokens of each video and image."""
        visual = seen.layout.visual
        drawn = torch.Generator().manual_seed(self.random_seed)
        score = torch.rand(visual.numel(), generator=drawn, dtype=torch.float32)
        index = topk_of_each(moved(score, visual.device), seen.layout.blocks, self.keep_ratio, self.keep_tokens)
        return TokenMap.keep(index, visual.numel())
