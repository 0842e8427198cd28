"""HoliTom's outer merging (arXiv 2505.21334): what stays the same over a window of time is merged, the rest is chosen.

Written from the paper and a description of its authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from prunevid_qwen.config.method_options.holitom import HoliTomMergeOptions
from prunevid_qwen.kernels.dpc_knn import dpc_knn
from prunevid_qwen.needs import FEATURES
from prunevid_qwen.reducer import Evidence, Needs, VisionQuery, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.stage1_merge.frame_by_frame import places_of
from prunevid_qwen.tokens import Block, Mix, TokenMap
from prunevid_qwen.tokens.device import tensor_on

_ROWS = 16  # temporal positions that are copied to fp32 at a time
_BLOCK_BYTES = 2**26  # of means of windows, or copies of frames, that are clustered at a time

Window = tuple[int, int]
"""The first and the last temporal position of a window."""


@register("holitom", HoliTomMergeOptions, stage=1)
@dataclass(frozen=True)
class HoliTomMerge(HoliTomMergeOptions):
    """Merge static locations over windows of time and cluster them; keep of the others what gets most attention.

    The windows save as many tokens as windows can. The share of what is left then falls to the budget. Memory grows
    with the tokens of a video: similarities and choices are numbers a token, distances are those inside a frame, and
    the values of windows are as many as the frames times the longest window.

    Options: see `HoliTomMergeOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The attention that each token gets in the block of which features are made; nothing for all tokens."""
        return Needs() if self.cluster_ratio == 1 else Needs(vision=VisionQuery((FEATURES,), what="received"))

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, the whole budget, or frames too small for their share to round."""
        grids = grids_of(blocks, self.merge_images)
        if not grids:
            return IMAGES_PASS
        if self.cluster_ratio == 1:
            return "nothing to do: cluster_ratio=1 asks for every token"
        if all(ceil(rows * columns * self.cluster_ratio) == rows * columns for _, rows, columns in grids):
            return (
                f"nothing merged: the share cluster_ratio={self.cluster_ratio:g} of each frame is rounded up to all of "
                f"its tokens, and nothing stays the same over time (tau={self.threshold:g})"
            )
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Merge and choose in each video.

        Raises:
            ValueError: a video is not whole, or the evidence holds no attention of the vision tower.
        """
        if self.cluster_ratio == 1:
            return TokenMap.identity(seen.layout.visual.numel(), seen.hidden.device)
        if seen.vision is None or "received" not in seen.vision:
            raise ValueError("holitom chooses by the vision tower's attention: gather what its `needs` asks for")

        def merge(grid: tuple[int, int, int], tokens: Tensor, attention: Tensor) -> TokenMap:
            frames, places = grid[0], grid[1] * grid[2]
            return merged_over_windows(tokens.view(frames, places, -1), attention.view(frames, places), self)

        return each_video(seen, self.merge_images, merge, (seen.vision["received"][0],))


def similarity(tokens: Tensor) -> Tensor:
    """Compare each token with that of its place one frame later, by cosine: [T, p, C] -> [T - 1, p] fp32, at most 1."""
    parts = [tokens.new_zeros(0, tokens.shape[1], dtype=torch.float32)]
    for first in range(0, tokens.shape[0] - 1, _ROWS):
        part = torch.nn.functional.normalize(tokens[first : first + _ROWS + 1].float(), dim=2, eps=1e-12)
        parts.append((part[1:] * part[:-1]).sum(dim=2).clamp(max=1.0))
    return torch.cat(parts)


def followers(alike: Tensor) -> Tensor:
    """Count the frames in a row that follow and look the same, at each place.

    Args:
        alike: [T - 1, p] bool: a place of frame t looks as in frame t + 1.

    Returns:
        [T, p] int64.
    """
    frames, places = alike.shape[0] + 1, alike.shape[1]
    time = torch.arange(frames, device=alike.device)[:, None]
    changes = torch.full((frames, places), frames - 1, device=alike.device)  # the frame behind which a place changes
    changes[:-1] = torch.where(alike, frames - 1, time[:-1])
    return changes.flip(0).cummin(0).values.flip(0) - time


def window_counts(follow: Tensor, longest: int) -> Tensor:
    """Count the static places of every window.

    Args:
        follow: [T, p] int64 of `followers`.
        longest: frames in a window at most, at least 1.

    Returns:
        [T, min(T, longest)] int64: entry (t, m) counts the places that stay the same from frame t to frame t + m. Entry
        (t, 0) is 0, for nothing is static in a window of one frame; so are those that would end after the last frame.
    """
    frames = follow.shape[0]
    longest = min(frames, longest)
    lasting = follow.clamp(max=longest - 1)
    of_length = torch.zeros(frames, longest, dtype=torch.long, device=follow.device)
    of_length.scatter_add_(1, lasting, torch.ones_like(lasting))
    counts = of_length.flip(1).cumsum(1).flip(1)
    counts[:, 0] = 0
    return counts


def best_windows(counts: Tensor) -> tuple[list[Window], int]:
    """Cut the frames into the windows that save the most tokens, by dynamic programming over their ends.

    A window of m + 1 frames with n static places saves n * m tokens. Of equal partitions that with the shortest last
    window is taken.

    Args:
        counts: [T, L] int64 of `window_counts`, on the CPU.

    Returns:
        The windows in order, and the number of tokens that they save together.
    """
    frames, longest = counts.shape
    sizes = torch.arange(longest, device="cpu")
    saves = counts * sizes
    best, length = counts.new_zeros(frames + 1), [1] * (frames + 1)
    for end in range(1, frames + 1):
        starts = end - 1 - sizes[:end]  # the shortest window first
        value = best[starts] + saves[starts, sizes[:end]]
        length[end] = int(value.argmax()) + 1
        best[end] = value[length[end] - 1]
    windows, end = [], frames
    while end:
        windows.append((end - length[end], end - 1))
        end -= length[end]
    return windows[::-1], int(best[frames])


def left_share(tokens: int, saved: int, share: float) -> float:
    """Return the share of what windows leave of so many tokens that keeps ``share`` of them all; 1 at most."""
    return min(share / ((tokens - saved) / tokens), 1)


def merged_over_windows(tokens: Tensor, attention: Tensor, options: HoliTomMergeOptions) -> TokenMap:
    """Decide about one video: windows, clusters of what is static in each, and the best of each frame's other tokens.

    Args:
        tokens: [T, p, C] of any float dtype.
        attention: [T, p] that each token gets in the vision tower.
        options: the method's.

    Returns:
        A map of the T * p tokens in raster order. A static token stands at its centre's place in the first frame of its
        window. The host waits for the device for the windows, and once for each block of clusters.
    """
    (frames, places), device = tokens.shape[:2], tokens.device
    follow = followers(similarity(tokens) > options.threshold)
    counts = window_counts(follow, options.max_window).cpu()
    windows, saved = best_windows(counts)
    share = left_share(frames * places, saved, options.cluster_ratio)
    still = [int(counts[first, last - first]) for first, last in windows]
    clusters = [round(n * share) for n in still]
    in_frame = [n for (first, last), n in zip(windows, still, strict=True) for _ in range(first, last + 1)]
    left = [ceil((places - n) * share) for n in in_frame]
    if not any(clusters) and not any(left):
        clusters[0] = 1  # a video keeps at least one token
    chosen = [round(n * (1 - options.clustered_share)) for n in left]

    starts, lengths = (tensor_on(each, device) for each in zip(*[(a, b - a) for a, b in windows], strict=True))
    static = (follow[starts] >= lengths[:, None]) & (lengths[:, None] > 0)  # [W, p]
    window_of = torch.arange(len(windows), device=device).repeat_interleave(lengths + 1, output_size=frames)
    moving = ~static[window_of]  # [T, p]
    best = attention.float().masked_fill(~moving, -torch.inf).argsort(dim=1, descending=True, stable=True)
    keep = torch.zeros_like(moving)
    keep.scatter_(1, best, torch.arange(places, device=device) < tensor_on(chosen, device)[:, None])

    own = torch.arange(frames * places, device=device).view(frames, places)
    rep, weight = torch.where(keep, own, -1), keep.float()  # the token whose place each takes, and what it counts there

    def means(some: list[int]) -> Tensor:
        return torch.stack([tokens[windows[w][0] : windows[w][1] + 1].mean(0, dtype=torch.float32) for w in some])

    centre, part = _clustered(means, static, clusters, options)
    found = centre[window_of]
    rep = torch.where(found < 0, rep, found + (starts * places)[window_of][:, None])
    weight = torch.where(found < 0, weight, part[window_of] / (lengths + 1)[window_of][:, None])
    rest = [n - best_ones for n, best_ones in zip(left, chosen, strict=True)]
    centre, part = _clustered(lambda some: tokens[some], moving & ~keep, rest, options)
    rep, weight = torch.where(centre < 0, rep, centre + own[:, :1]), torch.where(centre < 0, weight, part)

    stands = (rep == own).flatten()
    places_left = places_of(stands, sum(clusters) + sum(left))
    if not any(clusters) and not any(rest):
        return TokenMap.keep(places_left, frames * places)
    number = stands.long().cumsum(0) - 1
    target = torch.where(rep < 0, -1, number[rep.clamp(min=0)]).flatten()
    if options.beta is None:
        return TokenMap(target, places_left)
    members = sum(n * (b - a + 1) for (a, b), n, some in zip(windows, still, clusters, strict=True) if some)
    members += sum(places - n - one if some else 0 for n, one, some in zip(in_frame, chosen, rest, strict=True))
    source = places_of(target >= 0, members + sum(chosen))
    return TokenMap(target, places_left, mix=Mix(source, target[source], weight.flatten()[source]))


def _clustered(
    points: Callable[[list[int]], Tensor], valid: Tensor, counts: list[int], options: HoliTomMergeOptions
) -> tuple[Tensor, Tensor]:
    """Cluster the valid places of each group, of frames or windows, by density peaks.

    Args:
        points: the features [g, p, C] of some groups by their numbers.
        valid: [G, p] bool, as many as clusters at least.
        counts: clusters of each group; a group of none is left out.
        options: the method's.

    Returns:
        [G, p] int64 the place of the centre that a place belongs to, -1 for none; and [G, p] fp32 its weight there.
    """
    centre, weight = torch.full(valid.shape, -1, device=valid.device), torch.zeros(valid.shape, device=valid.device)
    for neighbours in range(1, options.dpc_knn_k + 1):  # as in the authors' code no more than there are clusters
        some = [g for g, count in enumerate(counts) if count and min(count, options.dpc_knn_k) == neighbours]
        step = max(1, _BLOCK_BYTES // (4 * points(some[:1]).numel())) if some else 1
        for block in (some[at : at + step] for at in range(0, len(some), step)):
            inside = valid[block]
            wanted = tensor_on([counts[g] for g in block], valid.device)
            found = dpc_knn(points(block), wanted, neighbours, inside)
            label = found.labels.clamp(min=0)
            of_place = found.centres.gather(1, label)
            members = torch.zeros_like(found.centres).scatter_add_(1, label, inside.long()).gather(1, label)
            share = 1 / members
            if options.beta is not None:
                heads = of_place == torch.arange(valid.shape[1], device=valid.device)
                others = (1 - options.beta) / (members - 1).clamp(min=1)
                share = torch.where(members == 1, 1.0, torch.where(heads, options.beta, others))
            centre[block], weight[block] = torch.where(inside, of_place, -1), torch.where(inside, share, 0.0)
    return centre, weight
