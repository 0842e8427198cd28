"""VidCom2: frames unlike the rest of the video keep more tokens, and in each frame the least typical tokens stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.config.method_options import VidCom2Options
from prunevid_qwen.kernels.products import names_its_dtypes, products_are_rounded
from prunevid_qwen.reducer import Evidence, Needs, register
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS, each_video, grids_of
from prunevid_qwen.tokens import Block, TokenMap

_BYTES = 2**26  # of a copy of some frames in fp32: a long video is read in parts
_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # variances of the Gaussians
_TEMPERATURE = 0.01  # of the softmax over frames


@register("vidcom2", VidCom2Options, stage=1)
@dataclass(frozen=True)
class VidCom2(VidCom2Options):
    """Drop the tokens of each frame that are most like the means of the frame and of the video.

    Liu and others, "Video Compression Commander" (arXiv 2505.14454). It keeps at least one token of each frame.
    Memory: a few numbers for each of N tokens, and a copy of some frames.

    Differs from the authors' code: all numbers are fp32 (theirs: the model's type); ``cluster_ratio=1`` keeps all
    tokens (theirs loses some of the frames that are like the video).

    Options: see `VidCom2Options`.
    """

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why nothing may change: only images, ``cluster_ratio=1``, or a share that is rounded to all tokens."""
        grids = grids_of(blocks, self.merge_images)
        if not grids:
            return IMAGES_PASS
        if self.cluster_ratio == 1:
            return "nothing to do: cluster_ratio=1 asks for every token"
        if all(max(1, round(self.cluster_ratio * h * w)) == h * w for _, h, w in grids):
            return f"nothing to do: {self.cluster_ratio:g} of the tokens of a frame is rounded to all of them"
        return None

    def plan(self, seen: Evidence) -> TokenMap:
        """Drop typical tokens of each whole video.

        Raises:
            ValueError: a video is not whole.
        """

        def keep(grid: tuple[int, int, int], tokens: Tensor) -> TokenMap:
            if self.cluster_ratio == 1:
                return TokenMap.identity(tokens.shape[0], tokens.device)
            return TokenMap.keep(outliers(tokens.view(grid[0], grid[1] * grid[2], -1), self.cluster_ratio), len(tokens))

        return each_video(seen, self.merge_images, keep)


def outliers(tokens: Tensor, ratio: float) -> Tensor:
    """Choose the tokens that are left of a video.

    Args:
        tokens: [F, p, C] of any float dtype.
        ratio: share of the tokens, in (0, 1].

    Returns:
        [K] int64 raster indices, ascending; of equally typical tokens of a frame the first stay.
    """
    frames, size, _ = tokens.shape
    of_video, of_frame = typicality(tokens, steady_channels(tokens))
    counts = (frame_ratios(of_video, ratio) * size).round().clamp(min=1)  # halves to even, as Python's
    order = (of_video + of_frame).argsort(dim=1, stable=True)
    stays = torch.arange(size, device=tokens.device) < counts[:, None]
    return torch.zeros_like(stays).scatter_(1, order, stays).view(frames * size).nonzero()[:, 0]


def steady_channels(tokens: Tensor) -> Tensor:
    """Return the half of the channels that varies least over a video.

    Args:
        tokens: [F, p, C] of any float dtype.

    Returns:
        [max(1, C // 2)] int64, ascending; of equal channels the first.
    """
    width, count = tokens.shape[2], tokens.shape[0] * tokens.shape[1]
    mean, spread = (torch.zeros(width, dtype=torch.float64, device=tokens.device) for _ in range(2))
    for _, part in _parts(tokens):
        mean += part.sum(dim=(0, 1))
    centre = (mean / count).to(_dtype())
    for _, part in _parts(tokens):
        spread += (part - centre).square().sum(dim=(0, 1))
    return spread.argsort(stable=True)[: max(1, width // 2)].sort().values


@names_its_dtypes
def typicality(tokens: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Score how near tokens are to the mean of their video and to that of their frame.

    Tokens are unit vectors of some channels. A score is a sum of five Gaussians of the distance, in (0, 5].

    Args:
        tokens: [F, p, C] of any float dtype.
        channels: [C'] int64.

    Returns:
        Two [F, p] fp32: by the video's mean, by the frame's mean.
    """
    frames, size, width = tokens.shape
    used = torch.zeros(width, dtype=_dtype(), device=tokens.device)
    used[channels] = 1
    norm = torch.empty(frames, size, dtype=used.dtype, device=tokens.device)
    centres = torch.empty(frames, width, dtype=used.dtype, device=tokens.device)
    for rows, part in _parts(tokens):
        norm[rows] = (part.square() @ used).sqrt()
        centres[rows] = ((1 / norm[rows].clamp(min=1e-12))[:, None] @ part)[:, 0] * used / size
    centre = centres.mean(dim=0)
    out = torch.empty(2, frames, size, dtype=torch.float32, device=tokens.device)
    for rows, part in _parts(tokens):
        inverse = 1 / norm[rows].clamp(min=1e-12)
        own = (norm[rows] * inverse).square()  # 1, but 0 of a zero vector
        near = (part @ centre) * inverse, (part @ centres[rows, :, None])[..., 0] * inverse
        far = centre.square().sum(), centres[rows].square().sum(dim=1, keepdim=True)
        for which, (product, square) in enumerate(zip(near, far, strict=True)):
            distance = (own - 2 * product + square).clamp(min=0)
            out[which, rows] = sum((-distance / (2 * width)).exp() for width in _WIDTHS).float()  # type: ignore[union-attr]
    return out[0], out[1]


def frame_ratios(of_video: Tensor, ratio: float) -> Tensor:
    """Return the share of its tokens that each frame keeps: more where it is unlike the video.

    Args:
        of_video: [F, p] `typicality` by the video's mean.
        ratio: share of all tokens, in (0, 1].

    Returns:
        [F] fp64 in [0, 1]; the mean is ``ratio``, unless a frame would keep more than all its tokens.
    """
    unlike = -of_video.double().mean(dim=1)
    more = ((unlike - unlike.max()) / _TEMPERATURE).softmax(dim=0)
    return (ratio * (1 + more - more.mean())).clamp(max=1)


def _dtype() -> torch.dtype:
    return torch.float64 if products_are_rounded() else torch.float32


def _parts(tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Read a video some frames at a time, in the type of the arithmetic."""
    step = max(1, _BYTES // (4 * tokens.shape[1] * tokens.shape[2]))
    for first in range(0, tokens.shape[0], step):
        rows = slice(first, min(first + step, tokens.shape[0]))
        yield rows, tokens[rows].detach().to(_dtype())
