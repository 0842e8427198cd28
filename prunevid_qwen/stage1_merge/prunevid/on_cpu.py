"""One video on its way through PruneVid's stage 1: its groups, their clusters, and the map that comes of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from prunevid_qwen.kernels.dpc_knn import Clusters, denser_distances, dpc_knn
from prunevid_qwen.kernels.temporal_similarity import frame_means, time_means
from prunevid_qwen.stage1_merge.prunevid.merge_options import MergeOptions
from prunevid_qwen.stage1_merge.prunevid.segments import temporal_segments
from prunevid_qwen.stage1_merge.prunevid.static import static_locations
from prunevid_qwen.tokens import TokenMap

_GATHER_BYTES = 2**24  # tokens copied at a time for clustering
_MASKED_SHARE = 0.75  # from this share of dynamic locations on, clustering all with a mask is cheaper than a copy

Batch = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Groups to be clustered together: their rows [B], columns [B, N] of their points [B, N, C], and which are valid."""


class VideoMerge:
    """One video while its map is made. A row is a group: first the S static ones, then the T dynamic ones, L wide."""

    def __init__(self, features: Tensor, options: MergeOptions) -> None:
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
        self.counts = [*self.static_counts, *dynamic]  # members of each group
        self.sizes: list[int] = options.clusters_of(torch.tensor(self.counts), static=len(self.windows)).tolist()
        self.out = torch.tensor(self.sizes, device=self.device)  # [S + T] tokens that come out of each group
        # every member for itself, until it is clustered
        self.label = self.member.long().cumsum(dim=1) - 1
        self.centre = (~self.member).byte().argsort(dim=1, stable=True)  # [S + T, L] location of each label's centre
        if options.cluster_scope == "video":
            self._share_clusters()
        for rows, columns, points, valid in self._batches():
            self._enter(rows, columns, dpc_knn(points, self.out[rows], options.dpc_knn_k, valid))

    def _share_clusters(self) -> None:
        """Spend the clusters of all groups on the video's largest distances to a denser point; each group keeps one.

        That is, cut the longest links of all groups' density trees, as quick shift does with one length for all.
        """
        values = self.tokens.new_full(self.member.shape, -torch.inf, dtype=torch.float64)
        todo = [row for row, n in enumerate(self.counts) if self.sizes[row] < n]
        if not todo:
            return
        for rows, columns, points, valid in self._batches():
            found = denser_distances(points, self.options.dpc_knn_k, valid)
            values[rows] = values[rows].scatter(1, columns, found)
        values.scatter_(1, values.argmax(dim=1, keepdim=True), -torch.inf)  # each group's densest point is free
        budget = sum(self.sizes[row] for row in todo) - len(todo)
        best = values.flatten().argsort(descending=True, stable=True)[:budget]
        self.out[todo] = 1
        self.out += torch.bincount(best // values.shape[1], minlength=len(self.out))

    def _batches(self) -> Iterator[Batch]:
        """All groups that have fewer clusters than members, like beside like."""
        yield from self._static_batches()
        yield from self._dynamic_batches()

    def _static_batches(self) -> Iterator[Batch]:
        todo = [s for s, n in enumerate(self.static_counts) if self.sizes[s] < n]
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
            yield rows, self.centre[rows, :most], points, valid

    def _dynamic_batches(self) -> Iterator[Batch]:
        segments, locations = len(self.windows), self.tokens.shape[1]
        for start, stop, count in self._dynamic_runs():
            if self.sizes[segments + start] == count:
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
                yield rows, columns.expand(b - a, -1), points, valid

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

    def segment_sizes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the segments' static tokens, dynamic tokens and lengths, [S] each."""
        windows = torch.tensor(self.windows, device=self.device)
        static, dynamic = self.out[: len(windows)], self.out[len(windows) :]
        return static, torch.zeros_like(static).index_add_(0, self.segment_of, dynamic), windows

    @property
    def static_cells(self) -> int:
        """How many (t, h, w) cells are static."""
        return sum(n * w for n, w in zip(self.static_counts, self.windows, strict=True))

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
