"""HoliTom's inner merge (arXiv 2505.21334): inside the decoder the other tokens are merged into those kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.holitom_inner import HoliTomOptions
from prunevid_qwen.kernels.cosines import nearest_by_cosine
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.tokens import Mix, TokenMap


def merged_in_turn(score: Tensor, features: Tensor, count: int) -> TokenMap:
    """Keep the best tokens, and merge the others one after another into the kept token that they resemble most.

    Each merge leaves half of what the kept token was and half of the one that comes, so of m tokens the i-th (from 0)
    has a weight of 2^(i - m), and the kept token itself 2^-m. Memory: that of `nearest_by_cosine`, which is the features
    in fp32 and `PIECE_BYTES`.

    Args:
        score: [N] of any real dtype, higher is better; equal scores go to the lower index.
        features: [N, D]; the cosine of features as they came says which kept token is resembled most, of equal ones the
            first.
        count: tokens kept, in [1, N].

    Returns:
        A map whose groups are the kept tokens in order, with the weights of their members.
    """
    n, device = score.numel(), score.device
    if count == n:
        return TokenMap.identity(n, device)
    order = score.argsort(descending=True, stable=True)
    kept, rest = order[:count].sort().values, order[count:].sort().values
    among = torch.zeros(n, dtype=torch.bool, device=device).index_fill_(0, kept, True)
    target = among.long().cumsum(0).sub_(1)  # of a kept token its group
    target = target[nearest_by_cosine(features[None], among[None], count)[0]].where(~among, target)
    into = target[rest]
    in_group = into.argsort(stable=True)  # in sequence order inside each group
    sizes = torch.zeros_like(kept).scatter_add_(0, into, torch.ones_like(into))
    first = sizes.cumsum(0) - sizes
    turn = torch.empty_like(into)
    turn[in_group] = torch.arange(n - count, device=device) - first[into[in_group]]
    weight = torch.cat([-sizes, turn - sizes[into]]).float().exp2()
    mix = Mix(torch.cat([kept, rest]), torch.cat([target[kept], into]), weight)
    return TokenMap.trusted(target, kept, mix=mix)


@register("holitom", HoliTomOptions)
@dataclass(frozen=True)
class HoliTom(HoliTomOptions):
    """HoliTom's merge inside the decoder, written from a description of its authors' code.

    The attention of the last token in the layer before decides which tokens are kept, as in FastV. Each video or image
    is left with ``max(1, int(n * keep_ratio))`` of its n tokens. A merged token keeps the place of the kept one.

    Options: see `HoliTomOptions`.
    """

    @property
    def merges(self) -> bool:
        """Whether tokens are merged."""
        return self.merges_inside

    @property
    def needs(self) -> Needs:
        """The model's own attention from the last token of the question, mean over heads; nothing if all are kept."""
        return Needs(AttentionQuery(heads="mean", rows="last")) if self.merges_inside else Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep what the last question token attends to most, and merge the rest of each video and image into it.

        Raises:
            ValueError: the evidence holds no attention.
        """
        if not self.merges_inside:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None:
            raise ValueError("holitom selects by attention: gather what its `needs` asks for")
        maps = []
        for block in seen.layout.blocks:
            own = slice(block.start, block.stop)
            count = count_of(block.stop - block.start, self.keep_ratio, self.keep_tokens)
            maps.append(merged_in_turn(seen.attention[own], seen.hidden[own], count))
        return TokenMap.concat(maps)
