"""Distinct: tokens that are rare in the video, and unlike everything that is kept near them in place and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.distinct import DistinctOptions
from prunevid_qwen.kernels.cosines import SAME, CosineDistances
from prunevid_qwen.kernels.products import names_its_dtypes
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap

CANDIDATES = 256
"""Tokens among which picks are made before the distances of all others are brought up to date."""


@register("distinct", DistinctOptions, stage=1)
@dataclass(frozen=True)
class Distinct(DistinctOptions):
    """Keep the tokens of each video or image that are rare, and unlike the kept tokens near them: max-min diversity.

    Ours; the nearest published methods are DivPrune (arXiv 2503.02175), whose distance knows looks alone, and VidCom2
    (arXiv 2505.14454), which keeps what is unlike the mean of its video. A token is worth ``r_i * min_j d_ij`` over
    the tokens j kept before it:

    - ``r_i = 1 - cos(x_i, mean of the video)``, its rarity;
    - ``d_ij = 1 - cos(x_i, x_j) * exp(-|dt| / time_reach) * exp(-|dp| / space_reach)``, their distance.

    So the same thing is kept again where it has moved, or after a while: this is how an answer knows when and where.
    The first token kept is the rarest. Memory: the tokens in fp32 (of a
    large video some of them), one piece of the distances and about ten numbers for each token.

    Options: see `DistinctOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep tokens of each video and image that are rare and differ from one another.

        Raises:
            ValueError: a video is not whole.
        """

        def distinct(grid: tuple[int, int, int], tokens: Tensor) -> TokenMap:
            size = tokens.shape[0]
            count = count_of(size, self.cluster_ratio, self.keep_tokens)
            if count == size:
                return TokenMap.identity(size, tokens.device)
            order = distinct_order(tokens, grid, count, self.time_reach, self.space_reach)
            return TokenMap.keep(order.to(tokens.device), size)

        return each_video(seen, self.merge_images, distinct)


class PlacedDistances(CosineDistances):
    """1 - cos * nearness of the tokens of one video or image.

    Args:
        x: [T*h*w, C] tokens of any float dtype, in raster order.
        grid: (T, h, w).
        time_reach, space_reach: see `DistinctOptions`.
    """

    def __init__(self, x: Tensor, grid: tuple[int, int, int], time_reach: float, space_reach: float) -> None:
        super().__init__(x)
        t, h, w = grid
        index = torch.arange(t * h * w, device=x.device)
        self.at, self.row, self.column = index // (h * w), index // w % h, index % w
        # by tables: the same offset has the same nearness on every device, and ties stay ties
        across = torch.stack(torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")).double()
        self.in_time = (-torch.arange(t).double() / time_reach).exp().float().to(x.device)
        self.in_space = (-across.square().sum(0).sqrt() / space_reach).exp().float().to(x.device)  # [h, w]

    def rarity(self) -> Tensor:
        """1 - cos of each token and the mean of all, [N] fp32."""
        total = torch.stack([self.x[piece].to(self.dtype).sum(0) for piece in self.pieces]).sum(0)
        unit = total / torch.linalg.vector_norm(total).clamp(min=torch.finfo(torch.float32).tiny)
        rarity = torch.cat([unlike(self._unit(piece), unit[None])[:, 0] for piece in self.pieces])
        return rarity[self.first_equal().to(rarity.device)]  # equal tokens are equally rare, however sums are rounded

    def among(self, index: Tensor) -> Tensor:
        """Distances between some tokens, [B, B] fp32, of their indices [B]."""
        rows = self._unit(index)
        return self._placed(index, index, rows, rows)

    def lower(self, least: Tensor, index: Tensor) -> None:
        """Lower ``least``, [N] fp32, in place, to each token's distance from the nearest of some, [B] indices."""
        chosen = self._unit(index)
        for piece in self.pieces:
            near = self._placed(piece, index, self._unit(piece), chosen).amin(dim=1)
            least[piece] = torch.minimum(least[piece], near)

    def _placed(self, some: Tensor | slice, others: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        apart = (self.at[some][:, None] - self.at[others]).abs()
        down = (self.row[some][:, None] - self.row[others]).abs()
        aside = (self.column[some][:, None] - self.column[others]).abs()
        return unlike(rows, columns, self.in_time[apart] * self.in_space[down, aside])


@names_its_dtypes
def unlike(rows: Tensor, columns: Tensor, nearness: Tensor | float = 1.0) -> Tensor:
    """1 - cos * nearness of unit rows [A, C] and [B, C], [A, B] fp32; 0 where fp32 cannot tell it from 0."""
    d = 1 - (rows @ columns.T).float() * nearness
    return d.masked_fill_(d < SAME, 0.0)


def distinct_order(x: Tensor, grid: tuple[int, int, int], count: int, time_reach: float, space_reach: float) -> Tensor:
    """Pick tokens one after the other, each of the largest rarity times distance from the nearest of those before it.

    Of equal worth the lowest index is picked, and none twice. Worth only falls as picks are made. So the tokens of the
    largest worth are compared among themselves, on the host, for as long as one of them is worth more than every token
    outside; then the others are brought up to date with all these picks at once.

    Args:
        x: [T*h*w, C] of any float dtype, in raster order.
        grid: (T, h, w).
        count: picks, in [1, T*h*w].
        time_reach, space_reach: see `DistinctOptions`.

    Returns:
        [count] int64 on the CPU, in the order of the picks.
    """
    distances, size = PlacedDistances(x, grid, time_reach, space_reach), x.shape[0]
    rarity = distances.rarity()
    picks = [int(rarity.argmax())]
    least = torch.full_like(rarity, torch.inf)
    taken = torch.zeros_like(rarity, dtype=torch.bool)
    fresh = torch.tensor(picks, device=x.device)
    while len(picks) < count:
        distances.lower(least, fresh)
        taken[fresh] = True
        worth = (rarity * least).masked_fill_(taken, -1.0)  # picked: below every worth
        order = worth.argsort(descending=True, stable=True)
        if worth[order[0]].item() == 0:  # nothing is rare any more, or all equals a pick: by index
            return torch.cat([torch.tensor(picks, device="cpu"), order[: count - len(picks)].cpu()])
        some = order[:CANDIDATES].sort().values  # the first of equals is the lowest index
        outside = worth[order[CANDIDATES]].item() if size > CANDIDATES else -1.0
        near, weight, between = (each.cpu() for each in (least[some], rarity[some], distances.among(some)))
        gone, index, start = taken[some].cpu(), some.tolist(), len(picks)
        while len(picks) < count:
            now = (weight * near).masked_fill_(gone, -1.0)
            best = int(now.argmax())
            if len(picks) > start and not float(now[best]) > outside:  # nor where one is no number
                break
            picks.append(index[best])
            near = torch.minimum(near, between[best])
            gone[best] = True
        fresh = torch.tensor(picks[start:], device=x.device)
    return torch.tensor(picks, device="cpu")
