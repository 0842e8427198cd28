"""DivPrune (arXiv 2503.02175): the tokens that are farthest from one another, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.divprune import DivPruneOptions
from prunevid_qwen.kernels.cosines import CosineDistances
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap

CANDIDATES = 256
"""Tokens among which picks are made before the distances of all others are brought up to date."""


@register("divprune", DivPruneOptions, stage=1)
@dataclass(frozen=True)
class DivPrune(DivPruneOptions):
    """Keep the tokens of each video or image whose smallest distance from one another is large: max-min diversity.

    Written from the paper's formulas. A video is one set of tokens, whatever its frames. Memory: one piece of the
    distances and three numbers for each token, never N x N.

    Options: see `DivPruneOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep tokens of each video and image that differ from one another.

        Raises:
            ValueError: a video is not whole.
        """

        def diverse(grid: tuple[int, int, int], tokens: Tensor) -> TokenMap:
            size = tokens.shape[0]
            count = count_of(size, self.cluster_ratio, self.keep_tokens)
            if count == size:
                return TokenMap.identity(size, tokens.device)
            return TokenMap.keep(max_min_order(tokens, count).to(tokens.device), size)

        return each_video(seen, self.merge_images, diverse)


def max_min_order(x: Tensor, count: int) -> Tensor:
    """Pick tokens one after the other, each the farthest from the nearest of those before it.

    The first pick is the token that is farthest from its nearest other token. Distance is 1 - cos. Of equal tokens the
    one of the lowest index is picked, and none twice.

    Distances only fall as picks are made. So the tokens with the largest ones are compared among themselves, on the
    host, for as long as one of them is farther than every token outside; then the others are brought up to date with
    all these picks at once.

    Args:
        x: [N, C] of any float dtype.
        count: picks, in [1, N].

    Returns:
        [count] int64 on the CPU, in the order of the picks.
    """
    distances, size = CosineDistances(x), x.shape[0]
    least = distances.nearest_other()
    picks = [int(least.argmax())]
    least.fill_(torch.inf)
    fresh = torch.tensor(picks, device=x.device)
    while len(picks) < count:
        distances.lower(least, fresh)
        least[fresh] = -1.0  # picked: below every distance
        order = least.argsort(descending=True, stable=True)
        if least[order[0]].item() == 0:  # each of the rest equals a pick: they go by index, and no pick changes that
            return torch.cat([torch.tensor(picks, device="cpu"), order[: count - len(picks)].cpu()])
        some = order[:CANDIDATES].sort().values  # the first of equals is the lowest index
        outside = least[order[CANDIDATES]].item() if size > CANDIDATES else -1.0
        near, between, index = least[some].cpu(), distances.among(some).cpu(), some.tolist()
        start = len(picks)
        while len(picks) < count:
            best = int(near.argmax())
            if len(picks) > start and float(near[best]) <= outside:
                break
            picks.append(index[best])
            near = torch.minimum(near, between[best])
            near[best] = -1.0
        fresh = torch.tensor(picks[start:], device=x.device)
    return torch.tensor(picks, device="cpu")
