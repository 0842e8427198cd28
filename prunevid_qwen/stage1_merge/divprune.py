"""DivPrune (arXiv 2503.02175): the tokens that are farthest from one another, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.divprune import DivPruneOptions
from prunevid_qwen.kernels.cosines import CosineDistances
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap

CANDIDATES = 256
"""Tokens among which picks are made before others are brought up to date."""
_SURE = 8  # the share of them that is up to date before picks are made
_PICKED = -1.0  # below every distance

Index = npt.NDArray[np.int64]


@register("divprune", DivPruneOptions, stage=1)
@dataclass(frozen=True)
class DivPrune(DivPruneOptions):
    """Keep the tokens of each video or image whose smallest distance from one another is large: max-min diversity.

    Written from the paper's formulas. A video is one set of tokens, whatever its frames. Memory: the tokens in fp32 (of
    a large video: some of them), one piece of the distances, and three numbers for each token, never N x N.

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

    Distances only fall as picks are made, so an old one is a bound of the present one. The tokens with the largest ones
    are brought up to date and compared among themselves, on the host, for as long as one of them is farther than the
    bound of every token outside.

    Args:
        x: [N, C] of any float dtype.
        count: picks, in [1, N].

    Returns:
        [count] int64 on the CPU, in the order of the picks.
    """
    distances = CosineDistances(x)
    first = distances.first_equal().numpy()
    picks = [int(first[distances.most_alone()])]
    least = _Least(distances, picks)
    while len(picks) < count:
        order = least.order()
        if least.bound[order[0]] == 0:  # each of the rest equals a pick: they go by index, and no pick changes that
            return torch.cat([torch.tensor(picks, device="cpu"), torch.from_numpy(order[: count - len(picks)])])
        head = order[:CANDIDATES]
        stale = ~least.exact(head)
        some = np.sort(head[: stale.argmax()] if stale.any() else head)  # the first of equals is the lowest index
        next_one = int(order[len(some)]) if len(some) < len(order) else -1  # outside: the lowest index of equal bounds
        outside = least.bound[next_one] if next_one >= 0 else 2 * _PICKED
        near = least.bound[some]
        between = distances.among(torch.from_numpy(some).to(x.device)).cpu().numpy()
        while len(picks) < count:
            best = int(near.argmax())
            if near[best] < outside or (near[best] == outside and some[best] > next_one):
                break
            # of equal tokens, none of which is picked unless their distance is 0
            picks.append(int(first[some[best]] if near[best] > 0 else some[best]))
            near = np.minimum(near, between[best])
            near[some == picks[-1]] = _PICKED
        least.note(some, near)
        least.note(np.array(picks), np.full(len(picks), _PICKED, dtype=np.float32))
    return torch.tensor(picks, device="cpu")


class _Least:
    """The distance of each token to the nearest pick, as it was when it was last looked at."""

    def __init__(self, distances: CosineDistances, picks: list[int]) -> None:
        self.distances, self.picks = distances, picks
        first = torch.tensor(picks, device=distances.x.device)
        self.bound = distances.nearest(None, first).cpu().numpy()
        self.bound[picks] = _PICKED
        self.known = np.full(len(self.bound), len(picks))  # the number of picks then

    def order(self) -> Index:
        """Tokens, the farthest first and equal ones by their index; the first of them are up to date."""
        most = 2 * CANDIDATES
        while True:
            order = np.argsort(-self.bound, kind="stable")
            if self.exact(order[: max(1, CANDIDATES // _SURE)]).all():
                return order
            head = order[:most]
            self._look(head[~self.exact(head)])
            most *= 4

    def exact(self, index: Index) -> npt.NDArray[np.bool_]:
        """Say which of some tokens are up to date: nothing is nearer to a pick than a pick or what equals one."""
        exact: npt.NDArray[np.bool_] = (self.known[index] == len(self.picks)) | (self.bound[index] <= 0)
        return exact

    def note(self, index: Index, distance: npt.NDArray[np.float32]) -> None:
        """Write the distances of some tokens to the picks made so far."""
        self.bound[index], self.known[index] = distance, len(self.picks)

    def _look(self, index: Index) -> None:
        device = self.distances.x.device
        missed = np.frexp(len(self.picks) - self.known[index])[1]  # up to which power of two: few products, few in vain
        for most in np.unique(missed):
            own = index[missed == most]
            since = torch.tensor(self.picks[self.known[own].min() :], device=device)
            near = self.distances.nearest(torch.from_numpy(own).to(device), since).cpu().numpy()
            self.note(own, np.minimum(self.bound[own], near))
