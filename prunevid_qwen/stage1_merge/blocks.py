"""What all mergers share: each video is decided on its own, images pass, and a grid falls into equal cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.reducer import Evidence
from prunevid_qwen.tokens import Block, Mix, TokenMap

CellBox = tuple[range, range, range]
"""Temporal positions, rows and columns of a cell."""

IMAGES_PASS = "nothing to do: images pass unmerged"


def each_video(
    seen: Evidence, merge_images: bool, decide: Callable[..., TokenMap], beside: Sequence[Tensor] = ()
) -> TokenMap:
    """Decide about every whole video (and image, if these are merged) of a sample by itself.

    Tokens without a place in a grid, such as newlines, stay as they are.

    Args:
        seen: the sample.
        merge_images: images are decided about too; else they pass.
        decide: from the grid (T, h, w), the tokens [T*h*w, C] and their rows of ``beside``, all in raster order, to a
            map over these.
        beside: [N, ...] other evidence of each token, which ``decide`` is given after the tokens.

    Raises:
        ValueError: a video has already lost tokens, so that it is no (T, h, w) grid.
    """
    maps = []
    for block in seen.layout.blocks:
        size = block.stop - block.start
        if block.kind != "video" and not merge_images:
            maps.append(TokenMap.identity(size, seen.hidden.device))
            continue
        grid, own = _whole_grid(block), [x[block.start : block.stop] for x in (seen.hidden, *beside)]
        if not block.unplaced or seen.layout.cells is None:
            maps.append(decide(grid, *own))
            continue
        cells = seen.layout.cells[block.start : block.stop]
        order = (cells < 0).byte().argsort(stable=True)  # how many have a place, the host knows
        placed, others = order[: size - block.unplaced], order[size - block.unplaced :]
        placed = placed[cells[placed].argsort(stable=True)]  # in raster order
        maps.append(around(decide(grid, *(x.index_select(0, placed) for x in own)), placed, others))
    return seen.layout.by_run(TokenMap.concat(maps)) if maps else TokenMap.identity(0, seen.hidden.device)


def around(inner: TokenMap, placed: Tensor, others: Tensor) -> TokenMap:
    """Lift a map over some tokens of a block to all of them; the others stay, alone and where they stand.

    Args:
        inner: over ``placed``, n of them.
        placed: [n] int64 places in the block.
        others: [m] int64 places in the block, in order: with ``placed`` all of them.

    Returns:
        A map over n + m tokens, whose groups stand in the order of ``inner``; the others among them by their place.
    """
    rep = torch.cat([placed[inner.rep], others])
    keys = torch.cat([placed[inner.rep].cummax(0).values, others])
    order = keys.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel(), device=order.device)
    inside, outside = rank[: inner.n_out], rank[inner.n_out :]
    target = torch.empty(placed.numel() + others.numel(), dtype=torch.long, device=rep.device)
    target[placed] = torch.where(inner.target < 0, -1, inside[inner.target.clamp(min=0)])
    target[others] = outside
    stratum, mix = inner.stratum, inner.mix
    if stratum is not None:  # the others compete for a budget of their own
        stratum = torch.cat([stratum, (stratum.max() + 1).expand(others.numel())])[order]
    if mix is not None:
        one = torch.ones(others.numel(), device=rep.device, dtype=mix.weight.dtype)
        mix = Mix(
            torch.cat([placed[mix.source], others]), torch.cat([inside[mix.group], outside]),
            torch.cat([mix.weight, one]),
        )  # fmt: skip
    whole = TokenMap(target, rep[order], stratum, mix)
    return whole._in_order() if inner._only_drops else whole


def grids_of(blocks: Sequence[Block], merge_images: bool) -> list[tuple[int, int, int]]:
    """Return the grids (T, h, w) that `each_video` decides about."""
    return [block.grid for block in blocks if block.kind == "video" or merge_images]


def why_share_unchanged(
    blocks: Sequence[Block], merge_images: bool, cluster_ratio: float, keep_tokens: int | None = None
) -> str | None:
    """Say why a control that leaves `count_of` each video may leave all; None: it may not."""
    sizes = [t * h * w for t, h, w in grids_of(blocks, merge_images)]
    if not sizes:
        return IMAGES_PASS
    if keep_tokens is not None:
        enough = all(size <= keep_tokens for size in sizes)
        return f"nothing to do: no video has more than keep_tokens={keep_tokens} tokens" if enough else None
    if cluster_ratio == 1:
        return "nothing to do: cluster_ratio=1 asks for every token"
    if all(count_of(size, cluster_ratio) == size for size in sizes):
        return "nothing to do: one token is the least that is left of a video"
    return None


def _whole_grid(block: Block) -> tuple[int, int, int]:
    t, h, w = block.grid
    size = block.stop - block.start
    if size != t * h * w + block.unplaced:
        raise ValueError(f"stage 1 merges whole blocks: {size} tokens are left of a {t} x {h} x {w} {block.kind}")
    return block.grid


def equal_boxes(grid: tuple[int, int, int], count: int) -> list[CellBox]:
    """Cut a grid into exactly ``count`` boxes of about the same size and about as long as they are high and wide.

    Time is cut into stretches, each stretch into bands of rows, each band into boxes side by side. All three axes are
    cut into parts of about ``(T*h*w / count) ** (1/3)`` cells; what does not divide is spread evenly.

    Args:
        grid: (T, h, w), each at least 1.
        count: boxes, in [1, T*h*w].

    Returns:
        The boxes, which partition the grid, in the order of their middles in the raster.
    """
    t, h, w = grid
    boxes = []
    stretches = _parts(t, t * (count / (t * h * w)) ** (1 / 3), ceil(count / (h * w)), count)
    for times, in_stretch in zip(_cut(t, stretches), _deal(count, stretches), strict=True):
        bands = _parts(h, h * (in_stretch / (h * w)) ** 0.5, ceil(in_stretch / w), in_stretch)
        for rows, in_band in zip(_cut(h, bands), _deal(in_stretch, bands), strict=True):
            boxes += [(times, rows, columns) for columns in _cut(w, in_band)]
    return boxes


def middle(grid: tuple[int, int, int], box: CellBox) -> int:
    """Return the raster index of a box's middle cell, the earlier and lower one of two."""
    _, h, w = grid
    t, y, x = (part[(len(part) - 1) // 2] for part in box)
    return (t * h + y) * w + x


def _parts(length: int, ideal: float, least: int, count: int) -> int:
    """How many parts to cut ``length`` into: none empty, none without one of ``count``, and room for all of these."""
    return min(max(round(ideal), least, 1), length, count)


def _cut(length: int, parts: int) -> list[range]:
    return [range(i * length // parts, (i + 1) * length // parts) for i in range(parts)]


def _deal(count: int, parts: int) -> list[int]:
    return [len(share) for share in _cut(count, parts)]
