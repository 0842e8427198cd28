"""M-RoPE position ids as Qwen2.5-VL was trained with them. Pure torch.

Since 5.3 transformers starts the text after a video at ``start + max(h, w)``, ignoring the time axis, while decoding
goes on from the maximum; the releases that the model was trained and published with start it at the maximum + 1, and
their time steps came from a float number of seconds. Both schemes are here as arithmetic; the adapter chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TEXT, IMAGE, VIDEO = 0, 1, 2


def runs(types: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (type, start, stop) for every maximal run of equal entries."""
    start = 0
    for at in range(1, len(types) + 1):
        if at == len(types) or types[at] != types[start]:
            yield types[start], start, at
            start = at


def reference_positions(
    types: Tensor,
    valid: Tensor | None,
    image_grids: Sequence[tuple[int, int, int]],
    video_grids: Sequence[tuple[int, int, int]],
    seconds_per_grid: Sequence[float] | None,
    tokens_per_second: float | None,
) -> tuple[Tensor, Tensor]:
    """Give every token its (t, h, w) as trained (specs of Qwen2.5-VL, arXiv 2502.13923, sec. 2.1.2).

    Inside a video ``t_i = floor(i * seconds_per_grid * tokens_per_second)``, computed in fp32 as the trained code did;
    the next text token stands at the maximum of all ids so far + 1.

    Args:
        types: [B, S] int: 0 text, 1 image, 2 video.
        valid: [B, S], 0 or False where padding stands; None when there is none.
        image_grids: merged (T, H, W) of all images of the batch, in order.
        video_grids: merged (T, H, W) of all videos of the batch, in order.
        seconds_per_grid: seconds between two temporal positions of each video; None means 1.0.
        tokens_per_second: temporal ids a second; None (Qwen2-VL) steps one id a temporal position.

    Returns:
        Position ids [3, B, S] int64 (padding: 0), and [B, 1] int64: the next position minus the number of valid tokens.

    Raises:
        ValueError: a run of visual tokens does not fit the next grid, or grids are left over.
    """
    batch, length = types.shape
    out = torch.zeros(3, batch, length, dtype=torch.long, device=types.device)
    deltas = torch.zeros(batch, 1, dtype=torch.long, device=types.device)
    pending = {IMAGE: list(image_grids), VIDEO: list(video_grids)}
    seconds = iter([1.0] * len(video_grids) if seconds_per_grid is None else [float(x) for x in seconds_per_grid])
    for b in range(batch):
        kept = torch.arange(length, device="cpu") if valid is None else valid[b].cpu().bool().nonzero()[:, 0]
        pieces: list[Tensor] = []
        following = 0
        for kind, start, stop in runs(types[b].cpu()[kept].tolist()):
            at = start
            while at < stop:  # two videos without a token between them are one run
                if kind == TEXT:
                    piece = torch.arange(stop - at, device="cpu").expand(3, -1)
                    at = stop
                else:
                    if not pending[kind]:
                        raise ValueError(f"sample {b} has more {'images' if kind == IMAGE else 'videos'} than grids")
                    grid = pending[kind].pop(0)
                    time = torch.arange(grid[0], device="cpu")
                    if kind == VIDEO and tokens_per_second is not None:
                        if (stretch := next(seconds, None)) is None:
                            raise ValueError(f"there are more videos than seconds_per_grid: {len(video_grids)}")
                        step = torch.tensor(stretch, dtype=torch.float32, device="cpu")
                        time = (time * step * tokens_per_second).floor().long()
                    piece = grid_positions(grid, time)
                    at += piece.shape[1]
                    if at > stop:
                        raise ValueError(
                            f"sample {b}: {stop - start} visual tokens stand where grid {grid} has {piece.shape[1]}"
                        )
                pieces.append(piece + following)
                following = int(pieces[-1].max()) + 1
        if pieces:
            out[:, b, kept.to(out.device)] = torch.cat(pieces, dim=1).to(out.device)
        deltas[b, 0] = following - len(kept)
    if pending[IMAGE] or pending[VIDEO]:
        left = f"{len(pending[IMAGE])} image and {len(pending[VIDEO])} video"
        raise ValueError(f"{left} grids are left over: the prompts have fewer placeholders than that")
    return out, deltas


def grid_positions(grid: tuple[int, int, int], time: Tensor | None = None) -> Tensor:
    """Return the (t, h, w) ids of a (T, H, W) raster from 0, [3, T*H*W] int64; ``time`` [T] replaces 0..T-1."""
    t, h, w = grid
    time = torch.arange(t, device="cpu") if time is None else time  # whatever the default device is
    down, across = torch.arange(h, device="cpu"), torch.arange(w, device="cpu")
    return torch.stack(torch.meshgrid(time, down, across, indexing="ij")).reshape(3, -1)


def grid_of(positions: Tensor) -> tuple[int, int, int]:
    """Read a block's merged (T, H, W) off its position ids: the library passes no grid to the decoder.

    Args:
        positions: [3, N] ids of one video or image in raster order, under any scheme.

    Raises:
        ValueError: they are not a raster, as when ``mm_token_type_ids`` was left out and ids are one-dimensional.
    """
    n = positions.shape[1]
    h = int(positions[1].max() - positions[1].min()) + 1
    w = int(positions[2].max() - positions[2].min()) + 1
    t = n // (h * w)
    if t * h * w == n:
        raster = grid_positions((t, h, w)).to(positions.device)
        same = positions[1:] - positions[1:, :1] == raster[1:]
        frames = positions[0].view(t, h * w)
        if bool(same.all()) and bool((frames == frames[:, :1]).all()):
            return t, h, w
    raise ValueError(
        f"the position ids of {n} visual tokens are not a (t, h, w) raster. Hand-made inputs need mm_token_type_ids "
        "(0 text, 1 image, 2 video) and the grids, otherwise transformers counts positions in one dimension"
    )
