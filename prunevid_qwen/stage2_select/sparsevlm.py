"""SparseVLM (arXiv 2410.04417), version 1.5: text tokens that resemble the picture rate it; what is cut is recycled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid_qwen.config.schedules import PAPER_TOKENS, RANK, TABLE, SparseVLMOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.kernels.dpc_knn import dpc_knn
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.stage2_select.raters import raters
from prunevid_qwen.stage2_select.schedule import Schedules, between, check_budget, entered, spending
from prunevid_qwen.tokens import TokenMap

_OF_A_CLUSTER = 10  # pooled tokens to a recycled one


@register("sparsevlm", SparseVLMOptions)
@dataclass(frozen=True)
class SparseVLM(SparseVLMOptions):
    """SparseVLM's selection and recycling, written from the paper and a description of its authors' code.

    Raters are chosen once, at the decoder's door. A recycled token takes the position of its cluster's centre, unless
    the plan packs positions as the authors' code does. Each video or image has its own budget, where the paper has one
    image. Equal densities go by index, where the code adds noise.

    Options: see `SparseVLMOptions`.
    """

    several: ClassVar[bool] = True

    @property
    def merges(self) -> bool:
        """Whether dropped tokens are recycled."""
        return self.merges_inside

    @property
    def needs(self) -> Needs:
        """A row of the layer's own attention for each text token, mean over heads; at the door the text's embeddings.

        Nothing if all are kept.
        """
        if self.keep_ratio == 1:
            return Needs()
        return Needs(AttentionQuery("post_rope", heads="mean", rows="each"), question="all")

    def check_places(self, places: Sequence[int], depth: int) -> None:
        """Refuse a number of cuts that the schedule is not for, and a budget that these cuts cannot meet.

        Raises:
            ConfigError: so it is.
        """
        if self.keep_ratio is not None or self.keep_tokens is not None:
            if len(places) not in (1, len(TABLE[192])):
                raise ConfigError(f"sparsevlm spends a budget at 3 steps or at one, and has {len(places)} here")
            check_budget(self._schedules(len(places)), self, places, depth, "sparsevlm")
        elif self.schedule == "table" and len(places) != len(self.kept or TABLE[192]):
            raise ConfigError(
                f"sparsevlm has a schedule of {len(self.kept or TABLE[192])} cuts and {len(places)} steps: give `kept` "
                "for each"
            )

    def prepare(self, seen: Evidence) -> Tensor:
        """Choose the raters, [Q] bool: see `raters`."""
        return raters(seen)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep of each video and image what the raters attend to most, and recycle a share of the rest.

        Raises:
            ValueError: the evidence holds no row of attention for each text token, or not what `prepare` returned.
            ConfigError: ``keep_tokens`` is below what the layers before the first cut see.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None or seen.attention.dim() != 2 or seen.note is None:
            raise ValueError("sparsevlm reads a row of attention for each text token, and as note what it prepared")
        rated = seen.attention.masked_fill(~seen.note.to(seen.attention.device)[:, None], -math.inf)
        score = rated.logsumexp(0)  # grows with the mean over raters
        maps = []
        for block, tokens in zip(seen.layout.blocks, entered(seen), strict=True):
            own = slice(block.start, block.stop)
            kept = self._kept(tokens, seen, rated[:, own])
            if self.keep_ratio is None and self.keep_tokens is None:
                kept = min(kept, block.stop - block.start - 1)  # as in the authors' code, one is always cut
            maps.append(self._cut(score[own], seen.hidden[own], kept))
        step = TokenMap.concat(maps)
        return seen.layout.by_run(step)

    def _cut(self, score: Tensor, hidden: Tensor, kept: int) -> TokenMap:
        """Map one video or image: the ``kept`` best in order, then the recycled ones, the best centre's first."""
        n = score.numel()
        kept, pooled, clusters = _divided(n, kept, self.recycle)
        order = score.argsort(descending=True, stable=True)
        best, pool = order[:kept].sort().values, order[kept : kept + pooled]
        if not pooled:
            return TokenMap.keep(best, n)
        found = dpc_knn(hidden[pool][None], clusters, clusters)
        target = torch.full_like(order, -1)
        target[best] = torch.arange(kept, device=order.device)
        target[pool] = kept + found.labels[0]
        return TokenMap.trusted(target, torch.cat([best, pool[found.centres[0]]]))

    def _kept(self, tokens: int, seen: Evidence, rated: Tensor) -> int:
        """How many of a video's or image's tokens the schedule keeps at this cut, without recycled ones.

        ``rated``: [Q, n] its attention, which of text that does not rate is nothing and adds no rank.
        """
        if self.schedule == "rank":
            scale, bias = RANK[self.retained_tokens]
            rank = int(torch.linalg.matrix_rank(rated.exp()))  # the host has to know: its one question at this cut
            return int((rank * scale + bias) * tokens / PAPER_TOKENS)
        if self.kept is not None:
            own = self.kept[seen.step]
            return own if isinstance(own, int) else int(tokens * own)
        if self.keep_ratio is None and self.keep_tokens is None:
            return tokens * TABLE[self.retained_tokens][seen.step] // PAPER_TOKENS
        cuts = len(seen.steps_at) or 1
        return between(spending(self._schedules(cuts), self, tokens, seen), tokens, cuts, TABLE)[seen.step]

    def _schedules(self, cuts: int) -> Schedules:
        """What each cut leaves, recycled tokens included."""

        def left(tokens: int, x: float) -> list[int]:
            out, n = [], tokens
            for kept in between(x, tokens, cuts, TABLE):
                kept, _, clusters = _divided(n, kept, self.recycle)
                n = kept + clusters
                out.append(n)
            return out

        return left


def _divided(n: int, kept: int, recycle: float) -> tuple[int, int, int]:
    """Divide ``n`` tokens into those that are kept, those that are pooled and the clusters that these become.

    As in the authors' code one more of the cut tokens than the share is pooled, and a cluster more is made than one for
    each ten.
    """
    kept = min(max(kept, 0 if recycle else 1), n)
    if not recycle or kept == n:
        return kept, 0, 0
    pooled = min(int(recycle * (n - kept)) + 1, n - kept)
    return kept, pooled, pooled // _OF_A_CLUSTER + 1
