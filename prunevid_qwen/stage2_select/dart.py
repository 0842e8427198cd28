"""DART (arXiv 2502.11494): keep a few pivots, and what resembles them least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.dart import DARTOptions
from prunevid_qwen.kernels.cosines import PIECE_BYTES, exact_dtype
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.tokens import TokenMap


def least_duplicated(features: Tensor, norms: Tensor, pivots: int, others: Tensor, count: int) -> Tensor:
    """Choose pivots, and then for one pivot after another the tokens that resemble it least.

    The pivots share what is left of the count equally; where that does not come out even, the first ones get one more.
    Memory: one fp32 number for each token and pivot, and `PIECE_BYTES`.

    Args:
        features: [N, D] of the tokens; their cosine says how much two resemble each other.
        norms: [N] size of each token's key: the largest are pivots, of equal ones the first.
        pivots: number of pivots among the tokens; at most ``count`` are taken.
        others: [P, D] features of pivots that are no such tokens, which follow.
        count: tokens kept, pivots included, in [1, N].

    Returns:
        [count] int64: the pivots by falling norm, then what is chosen for each pivot, least similar first, of equal
        ones the lower index.
    """
    chosen = norms.argsort(descending=True, stable=True)[: min(pivots, count)]
    dtype, step = exact_dtype(), max(1, PIECE_BYTES // (8 * features.shape[1]))
    rows = F.normalize(torch.cat([features.index_select(0, chosen), others]).to(dtype), dim=1)
    parts = [rows @ F.normalize(part.to(dtype), dim=1).T for part in torch.split(features, step)]
    similar = torch.cat(parts, dim=1).float()
    share, more = divmod(count - chosen.numel(), len(rows))
    similar.index_fill_(1, chosen, torch.inf)
    kept = [chosen]
    for i in range(len(rows)):
        least = similar[i].argsort(stable=True)[: share + (i < more)]
        similar.index_fill_(1, least, torch.inf)
        kept.append(least)
    return torch.cat(kept)


@register("dart", DARTOptions)
@dataclass(frozen=True)
class DART(DARTOptions):
    """DART's selection: no attention is read, so what a token means to the question does not matter.

    Each video or image has pivots and a budget of its own, ``max(1, int(n * keep_ratio))`` of its n tokens. The text's
    pivots are the same for all.

    Options: see `DARTOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The keys of the visual tokens, and states and keys of the text for its pivots; nothing if all are kept."""
        if self.keep_ratio == 1:
            return Needs()
        return Needs(question="all" if self.pivot_text_tokens else "", keys=True)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the pivots of each video and image and the tokens that resemble them least.

        Raises:
            ValueError: the evidence holds no keys.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.keys is None or (self.pivot_text_tokens and seen.question_keys is None):
            raise ValueError("dart chooses pivots by their keys: gather what its `needs` asks for")
        norms, others = _sizes(seen.keys), seen.question[:0]
        if seen.question_keys is not None:
            best = _sizes(seen.question_keys).argsort(descending=True, stable=True)[: self.pivot_text_tokens]
            others = seen.question.index_select(0, best)
        kept = []
        for block in seen.layout.blocks:
            own = slice(block.start, block.stop)
            count = count_of(block.stop - block.start, self.keep_ratio, self.keep_tokens)
            chosen = least_duplicated(seen.hidden[own], norms[own], self.pivot_tokens, others, count)
            kept.append(chosen + block.start)
        return TokenMap.keep(torch.cat(kept), seen.layout.visual.numel())


def _sizes(keys: Tensor) -> Tensor:
    """Sums of the absolute values of keys [Hkv, n, d] over all heads, [n] fp32."""
    return keys.float().abs().sum(dim=(0, 2))
