"""Determinantal point process: keep what the question attends to, and of what looks alike only one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.methods import DPPOptions
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.tokens import TokenMap

_EXHAUSTED = 1e-6  # a variance below which a token adds nothing to those chosen: the rest goes by attention
_SIMILARITY_BYTES = 2**28  # up to which all similarities are made at once; above it, those of each chosen token
_LEAST = -1e4  # stands for the logarithm of an attention of 0, so that such tokens still rank below all others


def greedy_dpp(log_quality: Tensor, features: Tensor, count: int) -> Tensor:
    """Choose a set of large determinant of L_ij = q_i cos(x_i, x_j) q_j, one best point after the other.

    Kulesza and Taskar (arXiv 1207.6083) for the kernel of quality and similarity, Chen, Zhang and Zhou (arXiv
    1709.05135) for the greedy step, which extends a Cholesky factor by one row.

    Args:
        log_quality: [N] natural logarithm of q.
        features: [N, D]; directions count, lengths do not. A zero vector is like nothing.
        count: points, in [1, N].

    Returns:
        [count] int64 in the order of choice; ties go to the lower index. Points that add nothing any more (the rank of
        the kernel is used up) follow by quality.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    gain = 2 * log_quality.double().clamp(min=_LEAST)
    variance = torch.ones_like(gain)  # of each point, given those chosen
    every = unit @ unit.T if unit.shape[0] ** 2 * unit.element_size() <= _SIMILARITY_BYTES else None
    factor = torch.zeros(count, len(gain), dtype=torch.float64, device=gain.device)
    chosen = torch.zeros(count, dtype=torch.long, device=gain.device)
    for step in range(count):
        best = (gain + variance.clamp(min=_EXHAUSTED).log()).argmax(dim=0, keepdim=True)  # [1]: a 0-d index waits
        chosen[step : step + 1] = best
        own = variance.index_select(0, best)
        known = factor[:step].index_select(1, best)[:, 0]
        alike = unit @ unit.index_select(0, best)[0] if every is None else every.index_select(0, best)[0]
        row = alike - known @ factor[:step]
        factor[step] = torch.where(own > _EXHAUSTED, row / own.clamp(min=_EXHAUSTED).sqrt(), 0.0)
        variance = variance - factor[step].square()
        gain.index_fill_(0, best, -torch.inf)
    return chosen


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
