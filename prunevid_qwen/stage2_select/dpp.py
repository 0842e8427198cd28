"""Determinantal point process: keep what the question attends to, and of what looks alike only one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import DPPOptions
from prunevid_qwen.kernels.greedy_dpp import greedy_dpp as greedy_dpp
from prunevid_qwen.kernels.greedy_dpp import greedy_sets
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
        return self.plan_together([seen])[0]

    def plan_together(self, seen: Sequence[Evidence]) -> list[TokenMap]:
        """Decide as `plan` for each of several samples; a GPU chooses from all of their videos and images at once."""
        if self.keep_ratio == 1:
            return [TokenMap.identity(each.layout.visual.numel(), each.layout.visual.device) for each in seen]
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio is a share in (0, 1], got {self.keep_ratio}")
        attention, states, counts = list[Tensor](), list[Tensor](), list[int]()  # of each video and image
        for each in seen:
            if each.attention is None:
                raise ValueError("dpp selects by attention: gather what its `needs` asks for")
            for block in each.layout.blocks:
                own, size = slice(block.start, block.stop), block.stop - block.start
                count = count_of(size, self.keep_ratio, self.keep_tokens)
                if count < size:
                    attention.append(each.attention[own].to(each.hidden.device))
                    states.append(each.hidden[own])
                    counts.append(count)
        chosen = iter(greedy_sets(attention, states, counts, centred=True) if counts else ())
        return [self._kept(each, chosen) for each in seen]

    def _kept(self, seen: Evidence, chosen: Iterator[Tensor]) -> TokenMap:
        kept = []
        for block in seen.layout.blocks:
            size = block.stop - block.start
            if count_of(size, self.keep_ratio, self.keep_tokens) >= size:
                kept.append(torch.arange(block.start, block.stop, device=seen.hidden.device))
            else:
                kept.append(block.start + next(chosen))
        return TokenMap.keep(torch.cat(kept), seen.layout.visual.numel())
