"""VScan's stage 1 (arXiv 2505.22654): half of the tokens by a shallow block and window by window, half by the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.vscan import VScanMergeOptions
from prunevid_qwen.kernels.cosines import nearest_by_cosine
from prunevid_qwen.needs import FEATURES
from prunevid_qwen.reducer import Evidence, Needs, VisionQuery, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.stage1_merge.frame_by_frame import column, counts_of_frames, merged_map, rank_in_frame
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.device import tensor_on

SHALLOW = 7 / 32
"""Of the tower's depth: block 7 of the 32 of Qwen2.5-VL, block 5 of CLIP's 24."""


@register("vscan", VScanMergeOptions, stage=1)
@dataclass(frozen=True)
class VScanMerge(VScanMergeOptions):
    """Keep tokens by the salience of two blocks of the vision tower, and average each with what is most like it.

    Salience is the attention of the CLS token, as published for CLIP, or the attention that a token receives where
    there is no CLS token, as published for Qwen2.5-VL. A video is decided frame by frame, and frames have equal
    budgets. Memory: a few numbers for each token, and copies of some frames in fp32 at a time.

    Options: see `VScanMergeOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Salience in two blocks of the vision tower; nothing if all are kept."""
        if self._keeps_all:
            return Needs()
        return Needs(vision=VisionQuery((SHALLOW, FEATURES), what="salience"))

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Choose and average tokens of each frame of each video and image.

        Raises:
            ValueError: the evidence holds no salience, or a video is not whole.
        """

        if self._keeps_all:
            return TokenMap.identity(seen.layout.visual.numel(), seen.hidden.device)
        if seen.vision is None:
            raise ValueError("vscan reads the vision tower: gather what its `needs` asks for")

        def scanned(grid: tuple[int, int, int], tokens: Tensor, *salience: Tensor) -> TokenMap:
            frames, height, width = grid
            size = tokens.shape[0]
            count = count_of(size, self.cluster_ratio, self.keep_tokens)
            if count == size:
                return TokenMap.identity(size, tokens.device)
            shallow, last = (each.view(frames, -1) for each in salience)
            counts = counts_of_frames(count, frames)
            windows, halves = windows_of(height, width, self.window_size), [each // 2 for each in counts]
            if self.window_budget == "cap":
                local = best_under_a_cap(shallow, windows, halves)
            else:
                local = best_of_each(shallow, windows, halves)
            kept = local | best_of_others(last, local, counts)
            into = nearest_by_cosine(tokens.view(frames, height * width, -1), kept, max(counts))
            own = torch.arange(height * width, device=kept.device)
            return merged_map(kept, torch.where(kept, own, into), count)

        return each_video(seen, self.merge_images, scanned, list(seen.vision["salience"]))

    @property
    def _keeps_all(self) -> bool:
        return self.cluster_ratio == 1 and self.keep_tokens is None


def windows_of(height: int, width: int, side: int) -> Tensor:
    """Number the windows of a frame: [h * w] int64. Rows and columns left over belong to the last windows.

    Args:
        height, width: of the frame, in tokens. A frame smaller than a window is one window.
        side: of a window.
    """
    rows, columns = (
        (torch.arange(size, device="cpu") // side).clamp(max=max(1, size // side) - 1) for size in (height, width)
    )
    return (rows[:, None] * max(1, width // side) + columns).flatten()


def best_under_a_cap(score: Tensor, windows: Tensor, counts: Sequence[int]) -> Tensor:
    """Choose the best tokens of each frame, of each window at most its share, rounded up: [F, n] bool.

    Where windows are too small for their shares, the best of what they leave out makes up the number.

    Args:
        score: [F, n] fp32, higher is better; equal scores go to the lower index.
        windows: [n] int64 on the CPU, of `windows_of`.
        counts: [F] tokens chosen of each frame, at most n.
    """
    number = int(windows.max()) + 1
    cap = column([-(-count // number) for count in counts], score.device)
    over = _rank_in_window(score, windows) >= cap
    order = score.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, over.gather(1, order).byte().argsort(dim=1, stable=True))
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places) < column(counts, score.device)


def best_of_each(score: Tensor, windows: Tensor, counts: Sequence[int]) -> Tensor:
    """Choose the best tokens of each window, its share of the frame's number, rounded down: [F, n] bool.

    Args:
        score, windows, counts: as of `best_under_a_cap`; fewer tokens are chosen.
    """
    number = int(windows.max()) + 1
    return _rank_in_window(score, windows) < column([count // number for count in counts], score.device)


def best_of_others(score: Tensor, chosen: Tensor, counts: Sequence[int]) -> Tensor:
    """Choose the best tokens that are not chosen yet, up to the number of each frame: [F, n] bool.

    Args:
        score: [F, n] fp32, higher is better; equal scores go to the lower index.
        chosen: [F, n] bool, of each frame at most its number.
        counts: [F] tokens of each frame, those chosen among them.
    """
    rank = rank_in_frame(score.masked_fill(chosen, -torch.inf))
    return rank < column(counts, score.device) - chosen.long().sum(dim=1, keepdim=True)


def _rank_in_window(score: Tensor, windows: Tensor) -> Tensor:
    """Place of each token in its window by score, highest first: [F, n] int64."""
    sizes = torch.bincount(windows)
    starts = tensor_on((sizes.cumsum(0) - sizes).tolist(), score.device)
    own = tensor_on(windows.tolist(), score.device).expand_as(score)
    order = score.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, own.gather(1, order).argsort(dim=1, stable=True))  # by window, then by score
    places = torch.arange(score.shape[1], device=score.device).expand_as(order) - starts[own.gather(1, order)]
    return torch.empty_like(order).scatter_(1, order, places)
