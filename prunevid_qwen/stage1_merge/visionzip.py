"""VisionZip (arXiv 2412.04467): dominant tokens stay, the others go into contextual tokens among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.method_options.visionzip import VisionZipOptions
from prunevid_qwen.kernels.cosines import nearest_by_cosine
from prunevid_qwen.needs import FEATURES
from prunevid_qwen.reducer import Evidence, Needs, VisionQuery, register
from prunevid_qwen.stage1_merge.blocks import each_video, why_share_unchanged
from prunevid_qwen.stage1_merge.frame_by_frame import added_map, column, counts_of_frames, parts_of, rank_in_frame
from prunevid_qwen.tokens import Block, TokenMap


@register("visionzip", VisionZipOptions, stage=1)
@dataclass(frozen=True)
class VisionZip(VisionZipOptions):
    """Keep the tokens that the vision tower attends to, and merge the others by the likeness of their keys.

    The block of the tower is that of which features are made. The score is the attention of its CLS token, as published
    for CLIP, or the attention that a token receives where there is no CLS token, as published for Qwen2.5-VL. A video
    is decided frame by frame, and frames have equal budgets. Memory: a few numbers for each token, and copies of some
    frames in fp32 at a time.

    Options: see `VisionZipOptions`.
    """

    @property
    def needs(self) -> Needs:
        """Salience and keys of the vision tower; nothing if all are kept."""
        if self._keeps_all:
            return Needs()
        return Needs(vision=VisionQuery((FEATURES,), what=("salience", "keys")))

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a single token each."""
        return why_share_unchanged(blocks, self.merge_images, self.cluster_ratio, self.keep_tokens)

    def plan(self, seen: Evidence) -> TokenMap:
        """Choose dominant and contextual tokens of each frame of each video and image.

        Raises:
            ValueError: the evidence holds no salience, or a video is not whole.
        """

        if self._keeps_all:
            return TokenMap.identity(seen.layout.visual.numel(), seen.hidden.device)
        if seen.vision is None:
            raise ValueError("visionzip reads the vision tower: gather what its `needs` asks for")

        def zipped(grid: tuple[int, int, int], tokens: Tensor, salience: Tensor, keys: Tensor) -> TokenMap:
            frames, size = grid[0], tokens.shape[0]
            count = count_of(size, self.cluster_ratio, self.keep_tokens)
            if count == size:
                return TokenMap.identity(size, tokens.device)
            counts = counts_of_frames(count, frames)
            contextual = parts_of(counts, self._contextual(count))
            dominant = [whole - part for whole, part in zip(counts, contextual, strict=True)]
            score = salience.view(frames, -1)
            kept, into = zipped_frames(score, keys.view(*score.shape, -1), dominant, contextual)
            lost = sum(score.shape[1] - own for own, some in zip(counts, contextual, strict=True) if not some)
            return added_map(kept, into, count, lost)

        return each_video(seen, self.merge_images, zipped, [seen.vision[kind][0] for kind in ("salience", "keys")])

    @property
    def _keeps_all(self) -> bool:
        return self.cluster_ratio == 1 and self.keep_tokens is None

    def _contextual(self, count: int) -> int:
        """Return how many of the tokens left are contextual: at least one, where there is another one beside it."""
        return min(count - 1, max(1, int(count * self.contextual_share))) if self.contextual_share else 0


def zipped_frames(
    score: Tensor, metric: Tensor, dominant: Sequence[int], contextual: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Choose the dominant tokens of each frame, its targets, and the target of each of the others.

    Args:
        score: [F, n] fp32, higher is better; equal scores go to the lower index.
        metric: [F, n, d]: what goes into a target is like it by its direction here.
        dominant: [F] number of dominant tokens of each frame.
        contextual: [F] number of targets, equally spaced among the tokens that are not dominant; with the dominant ones
            at most n.

    Returns:
        [F, n] bool: dominant tokens and targets. [F, n] int64: the place in its frame of the target that a token goes
        into, its own for a dominant token or target, -1 in a frame without targets.
    """
    device, n = score.device, score.shape[1]
    leads = rank_in_frame(score) < column(dominant, device)
    targets = column(contextual, device)
    step = ((n - column(dominant, device)) // targets.clamp(min=1)).clamp(min=1)
    place = (~leads).long().cumsum(dim=1) - 1  # among the tokens that are not dominant
    is_target = ~leads & (place % step == 0) & (place // step < targets)
    into = nearest_by_cosine(metric, is_target, max(1, *contextual))
    kept = leads | is_target
    return kept, torch.where(kept, torch.arange(n, device=device), into)
