"""PruneVid's stage 2 (arXiv 2412.16117, section 3.2): keep the visual tokens that the question attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.methods import PruneVidOptions
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, register
from prunevid_qwen.stage2_select.topk import stratified_topk, topk_of_each
from prunevid_qwen.tokens import TokenLayout, TokenMap


def max_max_scores(attention: Tensor) -> Tensor:
    """Score each visual token by the most attention that any head of any question token gives it (section 3.2).

    Args:
        attention: [H, Q, N] question -> visual, probabilities or anything that grows with them; H, Q at least 1.

    Returns:
        [N] in the same dtype.
    """
    return attention.amax(dim=(0, 1))


def select_per_group(
    scores: Tensor,
    static_sizes: Tensor | Sequence[int],
    dynamic_sizes: Tensor | Sequence[int],
    window_sizes: Tensor | Sequence[int],
    keep_ratio: float,
) -> Tensor:
    """Select tokens of a stage 1 output in grouped order as the authors' code does: each group by its own budget.

    A segment keeps ``int(static * keep_ratio)`` of its static tokens, each temporal position ``int(n * keep_ratio)`` of
    its n = dynamic / window dynamic ones (prunevid.md section 3).

    Args:
        scores: [N'] in grouped order; ties go to the lower index.
        static_sizes: [S] static tokens of each segment.
        dynamic_sizes: [S] dynamic tokens of each segment, all its positions together.
        window_sizes: [S] temporal positions of each segment.
        keep_ratio: share kept, in (0, 1].

    Returns:
        [K] int64 indices, ascending. K may be 0 here: `PruneVid` sees to it that a video keeps a token.

    Raises:
        ValueError: the sizes do not sum to N', a segment's dynamic tokens do not divide over its positions, or
            ``keep_ratio`` is out of range.
    """
    groups: list[int] = []
    for static, dynamic, window in zip(_ints(static_sizes), _ints(dynamic_sizes), _ints(window_sizes), strict=True):
        if window < 1 or dynamic % window:
            raise ValueError(f"a segment's {dynamic} dynamic tokens do not divide over its {window} positions")
        groups += [static, *[dynamic // window] * window]
    if sum(groups) != scores.numel():
        raise ValueError(f"the sizes describe {sum(groups)} tokens, there are {scores.numel()} scores")
    stratum = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups, dtype=torch.long))
    return stratified_topk(scores, stratum.to(scores.device), keep_ratio)


def _ints(sizes: Tensor | Sequence[int]) -> list[int]:
    return [int(n) for n in sizes]


@register("prunevid", PruneVidOptions)
@dataclass(frozen=True)
class PruneVid(PruneVidOptions):
    """PruneVid's selection: the most attention over heads and question tokens decides.

    Differs from the authors' code: they have "pre_rope" and "per_group" only, may keep no token, and break ties anyhow;
    "global" is what the paper says.
    """

    @property
    def needs(self) -> Needs:
        """Attention, the maximum over heads first; nothing where all are kept."""
        if self.keep_ratio == 1:
            return Needs()
        return Needs(AttentionQuery(self.attention_source, "max", self.attention_aggregation, self.question_tokens))

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the best-attended tokens of each video and image.

        Raises:
            ValueError: the evidence holds no attention.
        """
        if self.keep_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.layout.visual.device)
        if seen.attention is None:
            raise ValueError("prunevid selects by attention: gather what its `needs` asks for")
        if self.selection_scope == "global":
            index = topk_of_each(seen.attention, seen.layout.blocks, self.keep_ratio, self.keep_tokens)
        else:
            groups, blocks = group_strata(seen.layout), seen.layout.block_of
            index = stratified_topk(seen.attention, groups, self.keep_ratio, at_least_one_of=blocks)
        return TokenMap.keep(index, seen.attention.numel())


def group_strata(layout: TokenLayout) -> Tensor:
    """Give the groups with a budget of their own, [N] int64: stage 1's, or the temporal positions where it did not run.

    A block that is still whole and of one stratum is not grouped yet: each temporal position of its grid is a group.
    """
    parts = []
    classes = layout.stratum.new_zeros(())
    for block in layout.blocks:
        own = layout.stratum[block.start : block.stop]
        lowest, highest = own.aminmax()
        t, h, w = block.grid
        if own.numel() == t * h * w + block.unplaced:
            position = torch.arange(own.numel(), device=own.device) // (h * w)
            if block.unplaced:  # a newline or CLS belongs to the temporal position before it
                cells = layout.cell_of[block.start : block.stop]
                position = cells.div(h * w, rounding_mode="floor").cummax(0).values.clamp(min=0)
            own = torch.where(lowest == highest, position + lowest, own)
        own = own - lowest + classes
        parts.append(own)
        classes = own.max() + 1
    return torch.cat(parts)
