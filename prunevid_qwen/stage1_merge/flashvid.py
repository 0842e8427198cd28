"""FlashVID: in each segment of a video, salient and diverse tokens stay, and the others merge along trees over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunevid_qwen.config.method_options import FlashVIDOptions
from prunevid_qwen.kernels.cluster_mean import cluster_mean
from prunevid_qwen.kernels.cosines import exact_dtype
from prunevid_qwen.kernels.dpc_knn import dpc_knn
from prunevid_qwen.kernels.products import names_its_dtypes
from prunevid_qwen.kernels.temporal_similarity import frame_means
from prunevid_qwen.needs import FEATURES, VisionQuery
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.stage1_merge.dyseg import frame_similarity, segment_lengths
from prunevid_qwen.tokens import Block, Mix, TokenMap
from prunevid_qwen.tokens.device import tensor_on

_NEIGHBOURS = 7  # of the clusters' density
_BYTES = 2**26  # of a copy of some frames, or of their products: a long video is read in parts


@register("flashvid", FlashVIDOptions, stage=1)
@dataclass(frozen=True)
class FlashVID(FlashVIDOptions):
    """Keep salient and diverse tokens of each frame, and merge the others along trees over time.

    Fan and others, "FlashVID" (arXiv 2602.08024), its part before the decoder. Of each frame the tokens are selected
    that are far from each other, by cosine distance times the attention that a token receives in the vision tower. Each
    other token joins the most similar one of the frame before, if it is similar enough. A tree of tokens is their mean,
    at the place of its earliest one. Trees that begin in the same frame are clustered to keep to the budget. Memory: a
    few numbers for each of N tokens, and copies of some frames with their tokens' products.

    Differs from the authors' code: a tree is the mean of all its tokens, as in the paper (theirs divides the sum by one
    and the number of the root's direct children); a segment of one frame does not merge its selected tokens once more;
    a budget that the threshold undercuts is met to the token; equal densities go by index (theirs: noise).

    Options: see `FlashVIDOptions`.
    """

    @property
    def needs(self) -> Needs:
        """The attention that a token receives in the block that features are made of."""
        return Needs(vision=VisionQuery((FEATURES,), what="received"))

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, or a share that is rounded up to all tokens."""
        grids = grids_of(blocks, self.merge_images)
        if not grids:
            return IMAGES_PASS
        if all(sum(self.counts_of(h * w)) == h * w for _, h, w in grids):
            return f"nothing to do: cluster_ratio={self.cluster_ratio:g} asks for every token of a frame, rounded up"
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Merge each whole video.

        Raises:
            ValueError: a video is not whole.
        """
        assert seen.vision is not None

        def merge(grid: tuple[int, int, int], tokens: Tensor, received: Tensor) -> TokenMap:
            frames = grid[0], grid[1] * grid[2]
            if sum(self.counts_of(frames[1])) == frames[1]:
                return TokenMap.identity(tokens.shape[0], tokens.device)
            return flashvid(tokens.view(*frames, -1), received.view(*frames), self)

        return each_video(seen, self.merge_images, merge, (seen.vision["received"][0],))


@names_its_dtypes
def flashvid(tokens: Tensor, received: Tensor, own: FlashVIDOptions) -> TokenMap:
    """Decide about a video.

    Args:
        tokens: [F, p, C] of any float dtype.
        received: [F, p] attention that each token receives.
        own: the options.

    Returns:
        A map of the F*p tokens in raster order, of fewer than p tokens a frame.
    """
    count, size, _ = tokens.shape
    device, tokens = tokens.device, tokens.detach()
    means = frame_means(tokens)
    lengths = segment_lengths(frame_similarity(means), own.segments, own.segment_threshold)
    segment = torch.arange(len(lengths), device=device).repeat_interleave(
        tensor_on(lengths, device), output_size=count
    )  # [F]
    selected, merged = own.counts_of(size)
    quality = received.float()
    if own.event_relevance:
        wide = exact_dtype()
        events = cluster_mean(means, segment, len(lengths)).to(wide)  # frames have equally many tokens
        quality = quality * torch.cat(
            [(part.to(wide) @ events[segment[at], :, None])[..., 0].float() for at, part in _parts(tokens)]
        )
    chosen = torch.zeros(count, size, dtype=torch.bool, device=device)
    chosen.scatter_(1, diverse(tokens, quality, selected), True)
    alone = chosen.flatten().byte().argsort(descending=True, stable=True)[: count * selected]
    target = torch.full((count * size,), -1, dtype=torch.long, device=device)
    if not merged:
        return TokenMap.keep(alone, len(target))
    root = trees(tokens, chosen, segment, lengths, own.merge_threshold, (size - selected - merged, size))
    others = chosen.flatten().byte().argsort(stable=True)[: count * (size - selected)]
    roots, tree = torch.unique(root.flatten()[others], return_inverse=True)  # ascending
    of_tree = target.index_put((others,), tree)
    cluster, stands = _clustered(cluster_mean(tokens.flatten(0, 1), of_tree, len(roots)), roots, size, lengths, merged)
    rep = torch.cat([alone, stands])
    order = rep.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=device)
    target[alone] = rank[: len(alone)]
    target[others] = rank[len(alone) + cluster[tree]]
    # each tree of a cluster has the same weight, each token of a tree too
    shares = torch.bincount(cluster, minlength=len(stands))[cluster] * torch.bincount(tree, minlength=len(roots))
    ones = torch.ones(len(alone), dtype=torch.float32, device=device)
    source = torch.cat([alone, others])
    mix = Mix(source, target[source], torch.cat([ones, shares[tree].float().reciprocal()]))
    return TokenMap(target, rep[order], None, mix)


def diverse(tokens: Tensor, quality: Tensor, count: int) -> Tensor:
    """Choose tokens of each frame that are far from each other and of high quality.

    The distance to token i is (1 - cosine) * quality of i. First the token is chosen that is farthest from its nearest
    one, then, again and again, the one that is farthest from its nearest chosen one.

    Args:
        tokens: [F, p, C] of any float dtype.
        quality: [F, p] fp32.
        count: tokens of each frame, in [0, p].

    Returns:
        [F, count] int64 in order of choice; of equal tokens the first.
    """
    frames, size, _ = tokens.shape
    out = torch.empty(frames, count, dtype=torch.long, device=tokens.device)
    if not count:
        return out
    for rows, part in _parts(tokens, size * size):
        unit = normalize(part.to(exact_dtype()), dim=2, eps=1e-12)
        far = (1 - unit @ unit.mT).clamp_(min=0).float() * quality[
            rows, None
        ]  # [f, p, p]: from a row's token to a column's
        free = far.clone()
        free.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest = free.amin(dim=1)
        for step in range(count):
            pick = nearest.argmax(dim=1, keepdim=True)
            out[rows, step] = pick[:, 0]
            row = far.gather(1, pick[..., None].expand(-1, -1, size))[:, 0]
            taken = nearest.isneginf() if step else torch.zeros_like(nearest, dtype=torch.bool)
            nearest = row if not step else torch.minimum(nearest, row)
            nearest = nearest.masked_fill(taken.scatter(1, pick, True), -torch.inf)
    return out


def trees(
    tokens: Tensor, chosen: Tensor, segment: Tensor, lengths: list[int], threshold: float, most: tuple[int, int]
) -> Tensor:
    """Link each token to the most similar one of the frame before, and follow the links to their ends.

    Args:
        tokens: [F, p, C] of any float dtype.
        chosen: [F, p] bool tokens without links.
        segment: [F] int64 number of the frame's segment. No link leaves one.
        lengths: of the segments.
        threshold: the least similarity of a link, exclusive.
        most: links of a segment at most, for each frame; and p. The most similar ones stay.

    Returns:
        [F, p] int64 raster index of the earliest token that a token is linked to, by any number of links.
    """
    frames, size, _ = tokens.shape
    device = tokens.device
    best = torch.full((frames, size), -torch.inf, dtype=torch.float32, device=device)
    parent = torch.arange(frames * size, device=device).view(frames, size)
    own = parent.flatten().clone()
    for rows, part in _parts(tokens[1:], size * size):
        at = slice(rows.start + 1, rows.stop + 1)  # the later frames; ``rows`` are the earlier ones
        one, other = (normalize(x.to(exact_dtype()), dim=2, eps=1e-12) for x in (part, tokens[rows]))
        similar = (one @ other.mT).float().masked_fill(chosen[rows, None], -torch.inf)
        nearest = similar.argmax(dim=2)
        closed = chosen[at] | (segment[at] != segment[rows])[:, None]
        best[at] = similar.gather(2, nearest[..., None])[..., 0].masked_fill(closed, -torch.inf)
        parent[at] = nearest + torch.arange(rows.start, rows.stop, device=device)[:, None] * size
    links = best.flatten()
    order = links.argsort(descending=True, stable=True)
    of_token = segment.repeat_interleave(size)
    order = order[of_token[order].argsort(stable=True)]  # by segment, then by similarity
    counts = tensor_on([length * size for length in lengths], device)
    rank = torch.arange(len(order), device=device) - (counts.cumsum(0) - counts)[of_token[order]]
    few = torch.zeros_like(of_token, dtype=torch.bool)
    few[order] = rank < counts[of_token[order]] // most[1] * most[0]
    up = torch.where(few & (links > threshold), parent.flatten(), own)
    for _ in range((max(lengths) - 1).bit_length()):  # each round doubles how many links are followed
        up = up[up]
    return up.view(frames, size)


def _clustered(means: Tensor, roots: Tensor, size: int, lengths: list[int], merged: int) -> tuple[Tensor, Tensor]:
    """Cluster the trees that begin in each frame until a segment has ``merged`` a frame, rounded up in each frame.

    Args:
        means: [R, C] mean of each tree.
        roots: [R] int64 raster index of its root, ascending.
        size: tokens of a frame.
        lengths: of the segments.
        merged: clusters of a segment for each of its frames, at least 1.

    Returns:
        [R] int64 cluster of each tree, and for each cluster the root of the tree that is its centre.
    """
    frames, device = sum(lengths), means.device
    frame = roots // size
    counts: list[int] = torch.bincount(frame, minlength=frames).tolist()
    wanted: list[int] = []
    for length in lengths:
        inside = counts[len(wanted) : len(wanted) + length]
        share = merged * length / max(1, sum(inside))
        wanted += [ceil(count * share) if share < 1 else count for count in inside]
    first, base = ([0, *accumulate(each)][:frames] for each in (counts, wanted))
    clustered = [at for at in range(frames) if wanted[at] < counts[at]]
    cluster = torch.arange(len(roots), device=device) + (tensor_on(base, device) - tensor_on(first, device))[frame]
    stands = torch.empty(sum(wanted), dtype=torch.long, device=device)
    stay = tensor_on([wanted[at] == counts[at] for at in range(frames)], device)[frame].bool()
    stands[cluster[stay]] = roots[stay]
    for neighbours in sorted({min(wanted[at], _NEIGHBOURS) for at in clustered}):
        some = [at for at in clustered if min(wanted[at], _NEIGHBOURS) == neighbours]
        step = max(1, _BYTES // (4 * size * means.shape[1]))
        for start in range(0, len(some), step):
            own, offset, number, count = (
                tensor_on([each[at] for at in some[start : start + step]], device)[:, None]
                for each in (first, base, wanted, counts)
            )
            column = torch.arange(max(counts[at] for at in some[start : start + step]), device=device)
            valid, tree = column < count, (own + column).clamp(max=len(roots) - 1)
            found = dpc_knn(means[tree], number[:, 0], neighbours, valid)
            cluster[tree[valid]] = (found.labels + offset)[valid]
            real = found.centres >= 0
            place = torch.arange(found.centres.shape[1], device=device) + offset
            stands[place[real]] = roots[tree.gather(1, found.centres.clamp(min=0))[real]]
    return cluster, stands


def _parts(tokens: Tensor, beside: int = 0) -> list[tuple[slice, Tensor]]:
    """Cut a video into parts of some frames, so that a frame's tokens in fp32 and ``beside`` numbers are not many."""
    step = max(1, _BYTES // (4 * max(1, tokens.shape[1] * tokens.shape[2] + 2 * beside)))
    return [
        (slice(at, min(at + step, tokens.shape[0])), tokens[at : at + step]) for at in range(0, tokens.shape[0], step)
    ]
