"""PruneVid's stage 1 for one video on a GPU: every decision is taken there, and the host waits once, at the end.

`VideoMerge` (video.py) is the law: the same `TokenMap` comes out. It asks the device how long the segments are, how
many locations look alike in each and how many tokens come out; here tables have room for as many as there can be, and
the host learns three numbers when all is queued. That question cannot be captured in a CUDA graph, nor stage 1 with it.

The clock, by counting (nothing of it was measured): 64 positions x 140 tokens x 3584 in bf16 are 64 MB, read twice and
gathered once more for the products, 15 us each at 4.8 TB/s; products of 9 GFLOP on the matrix units, 30 us; time means
of 16 segments by differences in fp32, 0.1 to 0.3 ms; about 100 launches of 3 to 5 us, 0.5 ms. Where every pair of a
video is a near duplicate, differences instead of products add about 0.5 ms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.kernels.dpc_knn_triton import Points, ragged_clusters, ragged_denser_distances
from prunevid_qwen.kernels.temporal_similarity_triton import over_space, over_time
from prunevid_qwen.kernels.triton_segments import contiguous_segments
from prunevid_qwen.stage1_merge.prunevid.merge_options import MergeOptions
from prunevid_qwen.tokens import TokenMap


class DeviceMerge:
    """One video while its map is made. A row is a group: first room for S static ones, then the T dynamic ones.

    Args:
        features: [T, H, W, C] of any float dtype (fp64 is computed in fp32).
        options: as of `PruneVidMerge`.

    Raises:
        ValueError: ``features`` is not a [T, H, W, C] float tensor, or holds no token.
    """

    def __init__(self, features: Tensor, options: MergeOptions) -> None:
        if features.dim() != 4 or not features.is_floating_point() or 0 in features.shape[:3]:
            raise ValueError(f"a video's features are [T, H, W, C] floats, got {list(features.shape)} {features.dtype}")
        self.options = options
        self.grid = features.shape[:3]
        self.device = features.device
        tokens = features.detach().reshape(features.shape[0], -1, features.shape[3])
        tokens = (tokens.float() if tokens.dtype == torch.float64 else tokens).contiguous()  # [T, L, C]
        t, locations, _ = tokens.shape
        self.times, self.locations = self._count_to(t), self._count_to(locations)
        frames, norm = over_space(tokens)
        self._cut(frames)
        similarity, means = over_time(tokens, norm, self.segments.start, self.segments.length)
        static = similarity.clamp(max=1.0) > options.tau  # [S, L]; of one position: NaN, which is above nothing
        self.static_of = static.index_select(0, self.segment_of)  # [T, L]
        self.member = torch.cat([static, ~self.static_of])  # [S + T, L]
        self.counts = self.member.sum(dim=1)
        self.place = (~self.member).byte().argsort(dim=1, stable=True)  # [S + T, L] the members' locations, then others
        sizes = options.clusters_of(self.counts, static=self.room)
        self.clustered = sizes < self.counts
        rows = self.place + torch.cat([self._count_to(self.room), self.times])[:, None] * locations
        self.parts = [
            Points(means.flatten(0, 1), rows[: self.room]),
            Points(tokens.flatten(0, 1), rows[self.room :]),
        ]
        self.active = torch.where(self.clustered, self.counts, 0)
        self.out = self._shared(sizes) if options.cluster_scope == "video" else sizes
        self._cluster()

    def _count_to(self, n: int) -> Tensor:
        return torch.arange(n, device=self.device)

    def _cut(self, frames: Tensor) -> None:
        """Find the temporal segments, with room for S of them."""
        t = frames.shape[0]
        counts = torch.full((1,), t, device=self.device)
        wanted = torch.full((1,), count_of(t, self.options.temporal_segment_ratio), device=self.device)
        points = [Points(frames, self.times[None])]
        labels = ragged_clusters(points, counts, wanted, self.options.dpc_knn_k).labels[0]
        self.segments = contiguous_segments(labels)
        self.room = self.segments.start.numel()
        self.segment_of = torch.searchsorted(self.segments.start, self.times, right=True) - 1  # [T]

    def _shared(self, sizes: Tensor) -> Tensor:
        """Spend the clusters of all groups on the video's largest deltas (`VideoMerge._share_clusters`)."""
        delta = ragged_denser_distances(self.parts, self.active, self.options.dpc_knn_k)
        delta = torch.where(self.locations < self.active[:, None], delta, -torch.inf)
        delta.scatter_(1, delta.argmax(dim=1, keepdim=True), -torch.inf)  # each group's densest point is free
        budget = torch.where(self.clustered, sizes - 1, 0).sum()
        best = delta.flatten().argsort(descending=True, stable=True)
        row = best // delta.shape[1]
        chosen = (self._count_to(row.numel()) < budget).long()
        return torch.where(self.clustered, 1, sizes).scatter_add_(0, row, chosen)

    def _cluster(self) -> None:
        """Find each location's label, and the location of each label's centre."""
        found = ragged_clusters(self.parts, self.active, self.out, self.options.dpc_knn_k)
        labels = torch.where(self.clustered[:, None], found.labels, self.locations)
        rank = (self.member.cumsum(dim=1) - 1).clamp(min=0)
        self.label = labels.gather(1, rank)  # [S + T, L]; means nothing where the location is no member
        self.real = self.locations < self.out[:, None]  # [S + T, L] whether the row has a j-th label
        known = self.clustered[:, None] & self.real
        self.centre = self.place.gather(1, torch.where(known, found.centres, self.locations))

    def token_map(self) -> TokenMap:
        """Number the groups in the authors' order, find their places, and sort by these if asked: one host sync."""
        t, locations = self.static_of.shape
        cells = t * locations
        order = torch.cat([self.segments.start + self._count_to(self.room), self.times + self.segment_of + 1])
        in_order = torch.empty_like(self.out).scatter_(0, order, self.out)  # empty rows of segments come last
        base = (in_order.cumsum(dim=0) - in_order).index_select(0, order)
        number = base[:, None] + self.label
        static_number = number[: self.room].index_select(0, self.segment_of)
        target = torch.where(self.static_of, static_number, number[self.room :]).flatten()
        slot = torch.where(self.real, base[:, None] + self.locations, cells).flatten()  # what is not real goes beyond
        number_of_row = torch.cat([self._count_to(self.room), self.times + self.segments.number])
        stratum = self._at(slot, number_of_row[:, None].expand(-1, locations))
        rep = self._places(target, slot)
        if self.options.token_order == "spatiotemporal":
            rep, by_place = rep.sort(stable=True)  # beyond the last token stands a place beyond the last cell
            rank = torch.empty_like(by_place).scatter_(0, by_place, self._count_to(cells))
            target, stratum = rank.index_select(0, target), stratum.index_select(0, by_place)
        static = self.counts[: self.room] * self.segments.length
        answer = torch.stack([self.out.sum(), self.segments.number[0], static.sum()])
        n_out, self.n_segments, self.static_cells = answer.tolist()  # the host sync
        return TokenMap.trusted(target, rep[:n_out], stratum[:n_out])

    def _at(self, slot: Tensor, values: Tensor) -> Tensor:
        """Put values [S + T, L] at their slots, [T * L]; beyond the last token stands T * L."""
        cells = self.static_of.numel()
        return torch.full((cells + 1,), cells, device=self.device).scatter_(0, slot, values.flatten())[:cells]

    def _places(self, target: Tensor, slot: Tensor) -> Tensor:
        """[T * L] raster index of the cell whose position each group takes (prunevid.md section 6)."""
        t, h, w = self.grid
        cells, locations = t * h * w, h * w
        if self.options.merged_position == "center":
            middle = self.segments.start + (self.segments.length - 1).clamp(min=0) // 2
            return self._at(slot, torch.cat([middle, self.times])[:, None] * locations + self.centre)
        index = self._count_to(cells)
        if self.options.merged_position == "first":
            return torch.full_like(index, cells).scatter_reduce(0, target, index, "amin")
        cell = torch.stack([index // locations, index // w % h, index % w], dim=1)
        total = torch.zeros_like(cell).index_add_(0, target, cell)
        count = torch.zeros_like(index).scatter_add_(0, target, torch.ones_like(index))
        mean = (2 * total + count[:, None]) // (2 * count[:, None]).clamp(min=1)  # floor(mean + 0.5), exactly
        return torch.where(count > 0, (mean[:, 0] * h + mean[:, 1]) * w + mean[:, 2], cells)

    def segment_sizes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the segments' static tokens, dynamic tokens and lengths, [S] each; after `token_map`."""
        dynamic = torch.zeros_like(self.segments.length).index_add_(0, self.segment_of, self.out[self.room :])
        s = self.n_segments
        return self.out[:s], dynamic[:s], self.segments.length[:s]
