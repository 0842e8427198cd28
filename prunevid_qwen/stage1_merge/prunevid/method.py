"""PruneVid's stage 1 (arXiv 2412.16117, section 3.1): segments, static and dynamic tokens, clusters, one TokenMap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.methods import PruneVidMergeOptions
from prunevid_qwen.config.option_classes import names_in
from prunevid_qwen.kernels.launch import MOST_ON_GPU, wants_triton, where_of
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.stage1_merge.prunevid.merge_options import MergeOptions
from prunevid_qwen.stage1_merge.prunevid.on_cpu import VideoMerge
from prunevid_qwen.tokens import Block, TokenMap

if TYPE_CHECKING:
    from prunevid_qwen.stage1_merge.prunevid.on_gpu import DeviceMerge


_WIDEST_ON_GPU = 8192  # channels that the GPU's kernels are compiled and tested for


@dataclass(frozen=True)
class MergedVideo:
    """What stage 1 makes of one video: N' of its T*H*W tokens, in S segments.

    Args:
        features: [N', C] in the input's dtype: the mean of each token's members.
        positions: [N', 3] int64 grid indices (t, h, w).
        static_sizes: [S] int64 static tokens of each segment.
        dynamic_sizes: [S] int64 dynamic tokens of each segment, all its temporal positions together.
        window_sizes: [S] int64 temporal positions of each segment.
        token_map: from the T*H*W tokens in raster order to the N' merged ones. Its strata are one class for a segment's
            static tokens and one for the dynamic tokens of a temporal position.
        static_ratio: share of the (t, h, w) cells that are static: they looked alike over a segment, whatever moved.
    """

    features: Tensor
    positions: Tensor
    static_sizes: Tensor
    dynamic_sizes: Tensor
    window_sizes: Tensor
    token_map: TokenMap
    static_ratio: float


@register("prunevid", PruneVidMergeOptions, stage=1)
@dataclass(frozen=True)
class PruneVidMerge(MergeOptions):
    """PruneVid's spatial-temporal merging of each video on its own; images pass unless ``merge_images``.

    Differs from the authors' code: the similarity over time is clamped at 1, so that ``tau=1`` leaves nothing static;
    ``cluster_ratio=1`` leaves the tokens in their order; "spatiotemporal" order is not theirs ("grouped" is).
    """

    @property
    def needs(self) -> Needs:
        """Nothing beyond the tokens themselves."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: nothing need look alike, and no position's tokens need be clustered.

        What looks alike over a segment is merged over time; where nothing does, each position clusters all its tokens.
        """
        grids = grids_of(blocks, self.merge_images)
        if not grids:
            return IMAGES_PASS
        alike = f"nothing merged: nothing looked alike over time (tau={self.tau:g})"
        if self.cluster_ratio == 1:
            return f"{alike}, and cluster_ratio=1 clusters nothing"
        least = max(1, self.min_cluster_tokens)
        if all(h * w <= least for _, h, w in grids):
            return f"{alike}, and no group has more than {least} tokens (min_cluster_tokens={self.min_cluster_tokens})"
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Merge every whole video of the sample.

        Raises:
            ValueError: a video has already lost tokens, so that it is no (T, H, W) grid.
        """
        if self.tau >= 1 and self.cluster_ratio == 1:  # nothing is static and every token its own cluster
            return TokenMap.identity(seen.hidden.shape[0], seen.hidden.device)
        return each_video(seen, self.merge_images, lambda grid, tokens: self._merge(tokens.view(*grid, -1)).token_map())

    def _merge(self, features: Tensor) -> VideoMerge | DeviceMerge:
        """Take a video [T, H, W, C] up: on a GPU without asking it, where its kernels take a video of that size."""
        t, h, w, width = features.shape if features.dim() == 4 else (0, 0, 0, 0)
        if wants_triton(features) and max(t, h * w) <= MOST_ON_GPU and width <= _WIDEST_ON_GPU:
            from prunevid_qwen.stage1_merge.prunevid.on_gpu import DeviceMerge

            with where_of(features):
                return DeviceMerge(features, self)
        return VideoMerge(features, self)


def merge_video(features: Tensor, config: PruneVidConfig) -> MergedVideo:
    """Merge one video's tokens over space and time (arXiv 2412.16117, section 3.1; prunevid.md sections 2 and 6).

    Args:
        features: [T, H, W, C] of any float dtype, T, H and W at least 1.
        config: tau, cluster_ratio, temporal_segment_ratio, dpc_knn_k, min_cluster_tokens, merged_position and
            token_order are read; whether stage 1 is enabled is not.

    Raises:
        ValueError: ``features`` is not a [T, H, W, C] float tensor, or holds no token.

    Differs from the authors' code: see `PruneVidMerge`.
    """
    merge = PruneVidMerge(**{name: getattr(config, name) for name in names_in(PruneVidMergeOptions)})._merge(features)
    token_map = merge.token_map()
    t, h, w, width = features.shape
    rep = token_map.rep
    static, dynamic, windows = merge.segment_sizes()
    return MergedVideo(
        features=token_map.mean(features.reshape(t * h * w, width)),
        positions=torch.stack([rep // (h * w), rep // w % h, rep % w], dim=1),
        static_sizes=static,
        dynamic_sizes=dynamic,
        window_sizes=windows,
        token_map=token_map,
        static_ratio=merge.static_cells / (t * h * w),
    )
