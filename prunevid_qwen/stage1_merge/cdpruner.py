"""CDPruner (arXiv 2506.10967): tokens that are relevant to the question and differ from each other, before the decoder.

Written from the paper and a description of its authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.cdpruner import CDPrunerOptions
from prunevid_qwen.kernels.greedy_dpp import greedy_dpp
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.device import moved

_ROWS = 4096  # tokens that are copied to fp32 at a time
_ABOVE_NOTHING = 1e-6  # what the least relevant token has, so that none is out of the kernel


@register("cdpruner", CDPrunerOptions, stage=1)
@dataclass(frozen=True)
class CDPruner(CDPrunerOptions):
    """Keep ``max(1, int(n * cluster_ratio))`` tokens of each video or image: the greedy set of a conditional DPP.

    The kernel is relevance times cosine times relevance. Relevance is scaled over the whole video or image. A kernel
    spans ``kernel_frames`` temporal positions, whose shares of the budget are equal to one token. Memory grows with the
    number of tokens times those of one kernel, and choosing takes one step for each token that a kernel keeps, for all
    kernels at once.

    Options: see `CDPrunerOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The question's words, or the caller's marks; nothing where all are kept."""
        if self.cluster_ratio == 1 and self.keep_tokens is None:
            return Needs()
        return Needs(marks=True) if self.relevance == "marks" else Needs(question="question")

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Keep the greedy set of each video and image.

        Raises:
            ValueError: a video is not whole, or the evidence lacks the question or the marks.
        """
        if not self.needs.marks and not self.needs.question:
            return TokenMap.identity(seen.layout.visual.numel(), seen.hidden.device)
        if self.relevance == "marks":
            if seen.marks is None:
                raise ValueError("cdpruner reads the caller's marks as relevance: gather what its `needs` asks for")
            raw = seen.marks.to(seen.hidden.device)
        else:
            if not seen.question.shape[0]:
                raise ValueError("cdpruner compares tokens with the question: gather what its `needs` asks for")
            raw = likeness(seen.hidden, seen.question)

        def choose(grid: tuple[int, int, int], tokens: Tensor, own: Tensor) -> TokenMap:
            n, (frames, rows, columns) = tokens.shape[0], grid
            count = count_of(n, self.cluster_ratio, self.keep_tokens)
            size = min(self.kernel_frames, frames) * rows * columns
            return TokenMap.keep(conditional_dpp(tokens, rescaled(own), count, size), n)

        return each_video(seen, self.merge_images, choose, (raw,))


def likeness(tokens: Tensor, text: Tensor) -> Tensor:
    """Compare tokens with a text: the mean over its parts of the cosine.

    Args:
        tokens: [N, C] of any float dtype.
        text: [Q, C] embeddings in the same space: of words, or of segments of a long text.

    Returns:
        [N] fp32. The published relevance is its negative in CLIP's space (equation 5 as coded).
    """
    mean = normalize(text.float(), dim=1).mean(0)
    return torch.cat([normalize(part.float(), dim=1) @ mean for part in torch.split(tokens, _ROWS)])


def rescaled(relevance: Tensor) -> Tensor:
    """Scale relevance [N] so that the least is just above 0 and the range is 1; all 1 where all are equal."""
    low, high = relevance.min(), relevance.max()
    return torch.where(high > low, (relevance - low + _ABOVE_NOTHING) / (high - low), 1.0)


def conditional_dpp(tokens: Tensor, relevance: Tensor, count: int, size: int) -> Tensor:
    """Choose tokens by the kernels ``relevance_i * cos(i, j) * relevance_j`` of consecutive tokens.

    Args:
        tokens: [N, C] of any float dtype.
        relevance: [N] fp32, positive.
        count: tokens chosen of all, in [1, N].
        size: tokens of a kernel, at least 1; the last kernel has the rest. The first n tokens have the share
            ``int(count * n / N)`` of the choice, where n ends a kernel.

    Returns:
        [count] int64, kernel by kernel in the order of choice. What adds nothing to a kernel follows by relevance.
    """
    n, kernels = tokens.shape[0], -(-tokens.shape[0] // size)
    padding = kernels * size - n
    places = torch.arange(kernels * size, device=tokens.device).view(kernels, size)
    if padding:
        tokens = pad(tokens, (0, 0, 0, padding))
        relevance = pad(relevance, (0, padding), value=1.0)
    ends = torch.arange(1, kernels + 1, device="cpu").mul(size).clamp(max=n)
    shares = (count * ends // n).diff(prepend=ends.new_zeros(1))
    most = int(shares.max())
    valid = places < n if padding else None
    chosen = greedy_dpp(relevance.log().view(kernels, size), tokens.view(kernels, size, -1), most, valid)
    taken = (torch.arange(most, device="cpu") < shares[:, None]).flatten().nonzero()[:, 0]  # known on the host
    return (chosen + places[:, :1]).flatten().index_select(0, moved(taken, chosen.device))
