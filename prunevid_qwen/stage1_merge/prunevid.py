"""PruneVid's stage 1 (arXiv 2412.16117, section 3.1): segments, static and dynamic tokens, clusters, one TokenMap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.kernels.dpc_knn import Clusters, dpc_knn
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import each_video
from prunevid_qwen.stage1_merge.segments import temporal_segments
from prunevid_qwen.stage1_merge.static import frame_means, static_locations, time_means
from prunevid_qwen.tokens import TokenMap

_GATHER_BYTES = 2**24  # tokens copied at a time for clustering
_MASKED_SHARE = 0.75  # from this share of dynamic locations on, clustering all with a mask is cheaper than a copy


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
        static_ratio: share of the (t, h, w) cells that are static.
    """

    features: Tensor
    positions: Tensor
    static_sizes: Tensor
    dynamic_sizes: Tensor
    window_sizes: Tensor
    token_map: TokenMap
    static_ratio: float


@register("prunevid", stage=1)
@dataclass(frozen=True)
class PruneVidMerge:
    """PruneVid's spatial-temporal merging of each video on its own; images pass unless ``merge_images``.

    Args:
        tau, cluster_ratio, temporal_segment_ratio, dpc_knn_k, min_cluster_tokens, merged_position, token_order,
            merge_images: as in `PruneVidConfig`.

    Differs from the authors' code: the similarity over time is clamped at 1, so that ``tau=1`` leaves nothing static;
    ``cluster_ratio=1`` leaves the tokens in their order; "spatiotemporal" order is not theirs ("grouped" is).
    """

    tau: float = 0.8
    cluster_ratio: float = 0.5
    temporal_segment_ratio: float = 0.25
    dpc_knn_k: int = 5
    min_cluster_tokens: int = 14
    merged_position: str = "center"
    token_order: str = "spatiotemporal"
    merge_images: bool = False

    @classmethod
    def from_config(cls, config: PruneVidConfig) -> PruneVidMerge:
        """Take stage 1's options from the flat config."""
        return cls(
            tau=config.tau,
            cluster_ratio=config.cluster_ratio,
            temporal_segment_ratio=config.temporal_segment_ratio,
            dpc_knn_k=config.dpc_knn_k,
            min_cluster_tokens=config.min_cluster_tokens,
            merged_position=config.merged_position,
            token_order=config.token_order,
            merge_images=config.merge_images,
        )

    @property
    def needs(self) -> Needs:
        """Nothing beyond the tokens themselves."""
        return Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        """Merge every whole video of the sample.

        Raises:
            ValueError: a video has already lost tokens, so that it is no (T, H, W) grid.
        """
        return each_video(
            seen, self.merge_images, lambda grid, tokens: _Merge(tokens.view(*grid, -1), self).token_map()
        )

    def clusters_of(self, size: int) -> int:
        """Return how many tokens become of ``size`` that compete for clusters."""
        if size <= self.min_cluster_tokens:
            return size
        return max(1, int(size * self.cluster_ratio))


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
    merge = _Merge(features, PruneVidMerge.from_config(config))
    token_map = merge.token_map()
    t, h, w, width = features.shape
    rep = token_map.rep
    static, dynamic = merge.out[: len(merge.windows)], merge.out[len(merge.windows) :]
    return MergedVideo(
        features=token_map.mean(features.reshape(t * h * w, width)),
        positions=torch.stack([rep // (h * w), rep // w % h, rep % w], dim=1),
        static_sizes=static,
        dynamic_sizes=torch.zeros_like(static).index_add_(0, merge.segment_of, dynamic),
        window_sizes=torch.tensor(merge.windows, device=features.device),
        token_map=token_map,
        static_ratio=sum(n * w for n, w in zip(merge.static_counts, merge.windows, strict=True)) / (t * h * w),
    )


class _Merge:
    """One video while its map is made. A row is a group: first the S static ones, then the T dynamic ones, L wide."""

    def __init__(self, features: Tensor, options: PruneVidMerge) -> None:
        if features.dim() != 4 or not features.is_floating_point() or 0 in features.shape[:3]:
            raise ValueError(f"a video's features are [T, H, W, C] floats, got {list(features.shape)} {features.dtype}")
        self.options = options
        self.grid = features.shape[:3]
        self.device = features.device
        self.tokens = features.detach().reshape(features.shape[0], -1, features.shape[3])  # [T, L, C]
        frames = frame_means(self.tokens)
        self.windows = temporal_segments(frames, options.temporal_segment_ratio, options.dpc_knn_k)
        static = static_locations(self.tokens, self.windows, options.tau)  # [S, L]
        self.static_counts: list[int] = static.sum(dim=1).tolist()
        self.segment_of = torch.arange(len(self.windows), device=self.device).repeat_interleave(
            torch.tensor(self.windows, device=self.device)
        )
        self.static_of = static[self.segment_of]  # [T, L]
        self.member = torch.cat([static, ~self.static_of])  # [S + T, L]
        locations = self.tokens.shape[1]
        dynamic = [locations - n for n, w in zip(self.static_counts, self.windows, strict=True) for _ in range(w)]
        sizes = [options.clusters_of(n) for n in (*self.static_counts, *dynamic)]
        self.out = torch.tensor(sizes, device=self.device)  # [S + T] tokens that come out of each group
        # every member for itself, until it is clustered
        self.label = self.member.long().cumsum(dim=1) - 1
        self.centre = (~self.member).byte().argsort(dim=1, stable=True)  # [S + T, L] location of each label's centre
        self._cluster_static()
        self._cluster_dynamic()

    def _cluster_static(self) -> None:
        todo = [s for s, n in enumerate(self.static_counts) if self.options.clusters_of(n) < n]
        starts = _starts(self.windows)
        todo.sort(key=lambda s: self.static_counts[s])
        while todo:  # groups of like size share a batch: padding at most doubles the distances
            most = self.static_counts[todo[-1]]
            bucket = [s for s in todo if self.static_counts[s] >= 0.7 * most]
            todo = todo[: -len(bucket)]
            points = self.tokens.new_zeros(len(bucket), most, self.tokens.shape[2], dtype=torch.float32)
            for i, s in enumerate(bucket):
                means = time_means(self.tokens[starts[s] : starts[s] + self.windows[s]])
                n = self.static_counts[s]
                torch.index_select(means, 0, self.centre[s, :n], out=points[i, :n])
            rows = torch.tensor(bucket, device=self.device)
            valid = torch.arange(most, device=self.device) < self.member[rows].sum(dim=1, keepdim=True)
            found = dpc_knn(points, self.out[rows], self.options.dpc_knn_k, valid)
            self._enter(rows, self.centre[rows, :most], found)

    def _cluster_dynamic(self) -> None:
        segments, locations = len(self.windows), self.tokens.shape[1]
        for start, stop, count in self._dynamic_runs():
            clusters = self.options.clusters_of(count)
            if clusters == count:
                continue
            if count >= _MASKED_SHARE * locations:
                step = stop - start
                columns = torch.arange(locations, device=self.device)
            else:
                step = max(1, _GATHER_BYTES // (count * self.tokens.shape[2] * self.tokens.element_size()))
                columns = self.centre[segments + start, :count].clone()
            for a in range(start, stop, step):
                b = min(a + step, stop)
                rows = torch.arange(segments + a, segments + b, device=self.device)
                points = self.tokens[a:b]
                valid = None if count == locations else self.member[segments + a : segments + b]
                if columns.numel() < locations:
                    points, valid = points.index_select(1, columns), None
                found = dpc_knn(points, clusters, self.options.dpc_knn_k, valid)
                self._enter(rows, columns.expand(b - a, -1), found)

    def _dynamic_runs(self) -> Iterator[tuple[int, int, int]]:
        """Positions [start, stop) with the same dynamic locations, and how many: segments, or several all dynamic."""
        run: tuple[int, int, int] | None = None
        for start, window, static in zip(_starts(self.windows), self.windows, self.static_counts, strict=True):
            count = self.tokens.shape[1] - static
            if run is not None and static == 0 and run[2] == count:
                run = (run[0], start + window, count)
                continue
            if run is not None:
                yield run
            run = (start, start + window, count)
        if run is not None:
            yield run

    def _enter(self, rows: Tensor, columns: Tensor, found: Clusters) -> None:
        """Note the clusters of some groups, whose points stand at ``columns`` [B, N]."""
        old = self.label[rows]
        padded = torch.where(found.labels >= 0, found.labels, old.gather(1, columns))
        self.label[rows] = old.scatter(1, columns, padded)
        centres = columns.gather(1, found.centres.clamp(min=0))
        self.centre[rows, : centres.shape[1]] = centres

    def token_map(self) -> TokenMap:
        """Number the groups in the authors' order, find their places, and sort by these if asked."""
        segments = len(self.windows)
        order_list: list[int] = []  # each segment's static row, then its positions' dynamic rows
        for s, (start, window) in enumerate(zip(_starts(self.windows), self.windows, strict=True)):
            order_list += [s, *range(segments + start, segments + start + window)]
        order = torch.tensor(order_list, device=self.device)
        base = torch.empty_like(self.out)
        base[order] = self.out[order].cumsum(dim=0) - self.out[order]
        number = base[:, None] + self.label  # [S + T, L]
        target = torch.where(self.static_of, number[:segments][self.segment_of], number[segments:]).flatten()
        rep = self._places(target, order)
        stratum = order.repeat_interleave(self.out[order])
        if self.options.token_order == "spatiotemporal":
            by_place = rep.argsort(stable=True)
            rank = torch.empty_like(by_place)
            rank[by_place] = torch.arange(by_place.numel(), device=self.device)
            target, rep, stratum = rank[target], rep[by_place], stratum[by_place]
        return TokenMap(target, rep, stratum)

    def _places(self, target: Tensor, order: Tensor) -> Tensor:
        """[N'] raster index of the cell whose position each group takes (prunevid.md section 6)."""
        t, h, w = self.grid
        index = torch.arange(t * h * w, device=self.device)
        n_out = int(self.out.sum())
        if self.options.merged_position == "first":
            return torch.full((n_out,), t * h * w, device=self.device).scatter_reduce(0, target, index, "amin")
        if self.options.merged_position == "mean":
            cell = torch.stack([index // (h * w), index // w % h, index % w], dim=1)
            total = torch.zeros(n_out, 3, dtype=torch.long, device=self.device).index_add_(0, target, cell)
            count = torch.bincount(target, minlength=n_out)[:, None]
            mean = (2 * total + count) // (2 * count)  # floor(mean + 0.5), exactly
            return (mean[:, 0] * h + mean[:, 1]) * w + mean[:, 2]
        middles = [a + (n - 1) // 2 for a, n in zip(_starts(self.windows), self.windows, strict=True)]
        time = torch.tensor([*middles, *range(t)], device=self.device)
        place = time[:, None] * (h * w) + self.centre
        real = torch.arange(h * w, device=self.device) < self.out[:, None]
        return place[order][real[order]]


def _starts(windows: list[int]) -> list[int]:
    return [0, *accumulate(windows[:-1])]
