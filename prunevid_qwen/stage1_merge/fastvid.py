"""FastVID: in each segment of a video, salient tokens stay and the others merge into anchors of a few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunevid_qwen.config.method_options import FastVIDOptions
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

LONGEST = 128
"""Frames of a segment at most; a longer one is cut evenly. Every token of a segment joins an anchor of each of its
anchor frames, so without a limit memory would grow with tokens times frames."""

_NEIGHBOURS = 4  # of the anchors' density
_BYTES = 2**26  # of a copy of some tokens, or of their products with anchors: they are made in parts


@register("fastvid", FastVIDOptions, stage=1)
@dataclass(frozen=True)
class FastVID(FastVIDOptions):
    """Keep the salient tokens of each frame, and merge the others of a segment into anchors.

    Shen and others, "FastVID" (arXiv 2503.11187). Salience is the attention that a token gets, in the block of the
    vision tower that features are made of, from the mean query of its frame. Every token that is not salient joins the
    most similar anchor in each anchor frame of its segment. An anchor becomes a weighted mean with the tokens that
    join it. Memory: N / 4 rows of at most LONGEST numbers with the default ``anchor_step``, and copies of some tokens.

    Differs from the authors' code: equal densities go by index (theirs: noise); a segment has at most LONGEST frames;
    fewer frames than ``segments``, and more anchors than a frame has other tokens, are no error.

    Options: see `FastVIDOptions`. ``run_threshold=0.95, segment_threshold=0.84`` are the authors' for Qwen2.5-VL,
    ``run_threshold=None, segment_threshold=0.9`` for LLaVA-OneVision and LLaVA-Video.
    """

    @property
    def needs(self) -> Needs:
        """The attention of the mean query of each frame."""
        return Needs(vision=VisionQuery((FEATURES,), what="pooled"))

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or frames of a single token."""
        grids = grids_of(blocks, self.merge_images)
        if not grids:
            return IMAGES_PASS
        if self.cluster_ratio == 1:
            return "nothing to do: cluster_ratio=1 asks for every token"
        if all(h * w == 1 for _, h, w in grids):
            return "nothing to do: one token is the least that a temporal position adds to the budget"
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Merge each whole video.

        Raises:
            ValueError: a video is not whole.
        """
        assert seen.vision is not None

        def merge(grid: tuple[int, int, int], tokens: Tensor, salience: Tensor) -> TokenMap:
            if self.cluster_ratio == 1:
                return TokenMap.identity(tokens.shape[0], tokens.device)
            frames = grid[0], grid[1] * grid[2]
            return fastvid(tokens.view(*frames, -1), salience.view(*frames), self)

        return each_video(seen, self.merge_images, merge, (seen.vision["pooled"][0],))


class Segment(NamedTuple):
    """The budget of some frames in a row.

    Args:
        start: its first frame.
        salient: number of salient tokens of each frame.
        anchors: number of anchors of each frame.
    """

    start: int
    salient: list[int]
    anchors: list[int]

    @property
    def stop(self) -> int:
        """The frame after its last one."""
        return self.start + len(self.salient)


def segments_of(similarity: list[float], tokens: int, own: FastVIDOptions) -> list[Segment]:
    """Cut a video into segments and share out their budgets.

    Args:
        similarity: of each frame with the next one.
        tokens: of a frame.
        own: the options.
    """
    out, start = [], 0
    for length in segment_lengths(similarity, own.segments, own.segment_threshold):
        parts = -(-length // LONGEST)
        for part in range(parts):
            stop = start + (part + 1) * length // parts - part * length // parts
            inside = similarity[start : stop - 1]
            if own.run_threshold is None:
                counts = _for_each_frame(stop - start, tokens, own)
            else:
                counts = _for_each_run([value >= own.run_threshold for value in inside], tokens, own)
            out.append(Segment(start, *counts))
            start = stop
    return out


def _for_each_frame(frames: int, tokens: int, own: FastVIDOptions) -> tuple[list[int], list[int]]:
    """Every frame has its share of salient tokens, and the anchor frames share out the rest."""
    budget = own.budget_of(tokens)
    context = int(own.context_ratio * budget)
    places = range(frames - 1, -1, -own.anchor_step)
    salient, anchors = [budget - context] * frames, [0] * frames
    for frame in places:
        anchors[frame] = min(frames * context // len(places), tokens - salient[frame])
    return salient, anchors


def _for_each_run(alike: list[bool], tokens: int, own: FastVIDOptions) -> tuple[list[int], list[int]]:
    """Of frames that are like the next one (``alike``) the last alone has tokens; a frame takes a limited number."""
    frames = len(alike) + 1
    budget = frames * own.budget_of(tokens)
    context = max(int(budget * own.context_ratio), 1)
    salient, anchors = [0] * frames, [0] * frames
    if frames == 1:
        return [budget - context], [context]
    valid = [frame for frame in range(frames) if frame == frames - 1 or not alike[frame]]
    places = valid[:: -own.anchor_step]
    for number, frame in enumerate(places):
        anchors[frame] = min(context // len(places) + (number < context % len(places)), max(1, tokens // 2))
    for number, frame in enumerate(valid):
        share = (budget - context) // len(valid) + (number < (budget - context) % len(valid))
        salient[frame] = min(share, tokens - anchors[frame])
    return salient, anchors


@names_its_dtypes
def fastvid(tokens: Tensor, salience: Tensor, own: FastVIDOptions, frames: Tensor | None = None) -> TokenMap:
    """Decide about a video.

    Args:
        tokens: [F, p, C] of any float dtype.
        salience: [F, p] larger is more salient; of equal tokens the first.
        own: the options.
        frames: [F, C'] a vector for each frame, by which the video is cut; None: the mean of its tokens.

    Returns:
        A map of the F*p tokens in raster order. Salient tokens and anchors stand where they stood.
    """
    count, size, _ = tokens.shape
    device, tokens = tokens.device, tokens.detach()
    segments = segments_of(frame_similarity(frame_means(tokens) if frames is None else frames), size, own)
    salient = [each for segment in segments for each in segment.salient]
    wanted = [each for segment in segments for each in segment.anchors]
    column = torch.arange(size, device=device)
    order = salience.argsort(dim=1, descending=True, stable=True)
    stays = column < tensor_on(salient, device)[:, None]
    is_salient = torch.zeros_like(stays).scatter_(1, order, stays)
    anchors = _anchors(tokens, is_salient, salient, wanted)  # [A, M] raster index, -1 beyond a frame's own
    slots = anchors.flatten().ge(0).byte().argsort(descending=True, stable=True)[: sum(wanted)]
    kept = is_salient.flatten().clone()
    kept[anchors.flatten()[slots]] = True
    rep = kept.byte().argsort(descending=True, stable=True)[: sum(salient) + sum(wanted)]
    group = torch.full((count * size,), -1, dtype=torch.long, device=device)
    group[rep] = torch.arange(len(rep), device=device)
    target = group.clone()
    single = is_salient.flatten().byte().argsort(descending=True, stable=True)[: sum(salient)]
    mix = [(single, group[single], torch.ones(len(single), dtype=torch.float32, device=device))]
    row = 0  # of the anchors
    for segment in segments:
        rows = sum(each > 0 for each in segment.anchors)
        if rows:
            joined = _Joined(tokens, is_salient, segment, anchors[row : row + rows], own)
            target[joined.tokens] = group[joined.nearest]
            mix += [(token, group[anchor], weight) for token, anchor, weight in joined.entries()]
        row += rows
    target[rep] = group[rep]
    return TokenMap(target, rep, None, Mix(*(torch.cat(part) for part in zip(*mix, strict=True))))


def _anchors(tokens: Tensor, is_salient: Tensor, salient: list[int], wanted: list[int]) -> Tensor:
    """Choose the centres of density peaks among the tokens of each anchor frame that are not salient.

    Returns:
        [A, M] int64 raster indices for A anchor frames in order, the best first; -1 beyond a frame's own number.
    """
    _, size, width = tokens.shape
    places = [frame for frame, number in enumerate(wanted) if number]
    most = max(wanted, default=0)
    out = torch.full((len(places), most), -1, dtype=torch.long, device=tokens.device)
    step = max(1, _BYTES // (4 * size * width))
    column = torch.arange(size, device=tokens.device)
    for first in range(0, len(places), step):
        frames = places[first : first + step]
        at = tensor_on(frames, tokens.device)
        others = is_salient[at].byte().argsort(dim=1, stable=True)  # those that are not salient, in order, come first
        left = tensor_on([size - salient[frame] for frame in frames], tokens.device)
        points = tokens[at[:, None], others]
        clusters = tensor_on([wanted[frame] for frame in frames], tokens.device)
        centres = dpc_knn(points, clusters, _NEIGHBOURS, column < left[:, None]).centres
        chosen = at[:, None] * size + others.gather(1, centres.clamp(min=0))
        out[first : first + len(frames), : centres.shape[1]] = torch.where(centres < 0, -1, chosen)
    return out


class _Joined:
    """The tokens of a segment that are not salient, and the anchors that they join.

    Args:
        tokens: [F, p, C].
        is_salient: [F, p] bool.
        segment: the segment, with anchors.
        anchors: [A, M] raster indices of its anchors, -1 beyond a frame's own number.
        own: the options.
    """

    def __init__(
        self, tokens: Tensor, is_salient: Tensor, segment: Segment, anchors: Tensor, own: FastVIDOptions
    ) -> None:
        self.segment, self.anchors, self.own = segment, anchors, own
        size = tokens.shape[1]
        others = is_salient[segment.start : segment.stop].flatten().byte().argsort(stable=True)
        others = others[: (segment.stop - segment.start) * size - sum(segment.salient)]
        self.tokens = others + segment.start * size  # [R] raster indices
        flat, real, dtype = tokens.flatten(0, 1), anchors >= 0, exact_dtype()
        towards = normalize(flat[anchors.clamp(min=0)].to(dtype), dim=2, eps=1e-12).flatten(0, 1)  # [A * M, C]
        step = max(1, _BYTES // (dtype.itemsize * max(towards.shape)))
        best, which = [], []
        for part in torch.split(self.tokens, step):
            # a token's own length does not change which anchor is the most similar
            products = (flat[part].to(dtype) @ towards.T).view(-1, *anchors.shape).masked_fill(~real, -torch.inf)
            which.append(products.argmax(dim=2))  # of equal ones the first
            best.append(products.gather(2, which[-1][..., None])[..., 0])
        self.slot = torch.cat(which)  # [R, A] which of an anchor frame's anchors
        first = torch.cat(best).argmax(dim=1, keepdim=True)
        self.nearest = anchors[first[:, 0], self.slot.gather(1, first)[:, 0]]  # [R] raster index of the nearest anchor

    def entries(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (tokens, anchors, weights) of the means, all raster indices."""
        rows, columns = self.anchors.shape
        anchor, count = self.anchors.flatten(), sum(self.segment.anchors)
        real = anchor.ge(0).byte().argsort(descending=True, stable=True)[:count]
        frame = torch.arange(rows, device=anchor.device)
        place = (frame * columns + self.slot).flatten()  # [R * A] index among all anchors
        token = self.tokens.repeat_interleave(rows)
        if self.own.run_threshold is not None:  # a frame's own anchors do not join one of it
            mine = torch.searchsorted(self.tokens, anchor[real]) * rows + real.div(columns, rounding_mode="floor")
            others = torch.ones_like(place, dtype=torch.bool)
            others[mine] = False
            order = others.byte().argsort(descending=True, stable=True)[: len(place) - count]
            place, token = place[order], token[order]
        members = torch.zeros_like(anchor).scatter_add_(0, place, torch.ones_like(place))
        weight = members.float().add(1).reciprocal().clamp(min=self.own.anchor_weight)  # 1 without members
        each = (1 - weight) / members.clamp(min=1)
        return [(token, anchor[place], each[place]), (anchor[real], anchor[real], weight[real])]
