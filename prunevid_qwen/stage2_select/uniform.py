"""Uniform selection: equally spaced tokens, the control that needs neither attention nor chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import UniformOptions
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.tokens import TokenMap


@register("uniform", UniformOptions)
@dataclass(frozen=True)
class Uniform(UniformOptions):
    """Keep ``max(1, int(n * keep_ratio))`` equally spaced tokens of each video or image, mid-stride.

    Options: see `UniformOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        """Space the kept tokens of each video and image equally.

        Raises:
            ValueError: ``keep_ratio`` is out of range.
        """
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is a share in (0, 1], got {self.keep_ratio}")
        parts = []
        for block in seen.layout.blocks:
            size = block.stop - block.start
            count = count_of(size, self.keep_ratio, self.keep_tokens)
            step = torch.arange(count, device=seen.layout.visual.device)
            parts.append(block.start + (2 * step + 1) * size // (2 * count))
        return TokenMap.keep(torch.cat(parts), seen.layout.visual.numel())
