"""Determinantal point process: keep what the question attends to, and of what looks alike only one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import DPPOptions
from prunevid_qwen.kernels.greedy_dpp import greedy_dpp as greedy_dpp
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.tokens import TokenMap


@register("dpp", DPPOptions)
@dataclass(frozen=True)
class DPP(DPPOptions):
    """Selection by a determinantal point process: attention is the quality, hidden states tell what is alike.

    CDPruner (arXiv 2506.10967, section 3) conditions diversity on the question in this way, before the decoder and with
    CLIP's relevance; here it is PruneVid's attention inside it. Each video or image keeps ``max(1, int(n *
    keep_ratio))`` tokens. What all its tokens share is no likeness: their mean is taken off before the cosine.

    Options: see `DPPOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Attention as for `PruneVid`; nothing where all are kept."""
        if self.keep_ratio == 1:
            return Needs()
        return Needs(AttentionQuery(self.attention_source, "max", self.attention_aggregation, self.question_tokens))

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep tokens of each video and image that the question attends to and that differ from one another.

        Raises:
            ValueError: the evidence holds no attention, or ``keep_ratio`` is out of range.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None:
            raise ValueError("dpp selects by attention: gather what its `needs` asks for")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is a share in (0, 1], got {self.keep_ratio}")
        kept = []
        for block in seen.layout.blocks:
            own = slice(block.start, block.stop)
            size = block.stop - block.start
            states = seen.hidden[own].double()
            attention = seen.attention[own].to(states.device)
            count = count_of(size, self.keep_ratio, self.keep_tokens)
            if count == size:
                kept.append(torch.arange(block.start, block.stop, device=states.device))
                continue
            kept.append(block.start + greedy_dpp(attention, states - states.mean(dim=0), count))
        return TokenMap.keep(torch.cat(kept), seen.layout.visual.numel())
