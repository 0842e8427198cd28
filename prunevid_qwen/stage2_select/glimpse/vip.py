"""The Visual-token Importance Predictor of GlimpsePrune (arXiv 2508.01548, figure 3): `AttnFuserV1` of its authors.

A few transformer blocks over the visual tokens of one image at a time. They read how much the glimpse token attends to
each token, and are told by the vision encoder what stands there. Module names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROPE_THETA = 10000.0
_EPS = 1e-6  # of the norms in here, whatever the language model's


@dataclass(frozen=True)
class VIPShape:
    """Sizes of a VIP; the letters are the paper's.

    Args:
        attention: attention logits of a token: layers read times heads of the language model.
        vision: channels of the vision encoder's blocks.
        taps: blocks of the vision encoder that are read, which is how many blocks the VIP has.
        width: E, channels of the VIP's own states, a multiple of ``heads``.
        condition: F, channels that each tap is projected to; E + F is a multiple of four times ``heads``.
        heads: attention heads.
    """

    attention: int
    vision: int
    taps: int = 4
    width: int = 256
    condition: int = 512
    heads: int = 4

    def __post_init__(self) -> None:
        if min(self.attention, self.vision, self.taps, self.width, self.condition, self.heads) < 1:
            raise ValueError(f"sizes of a VIP are at least 1, got {self}")
        if self.width % self.heads or (self.width + self.condition) % (4 * self.heads):
            raise ValueError(
                f"width {self.width} divides over {self.heads} heads, and width + condition {self.condition} over four "
                "times as many (rows and columns turn pairs of channels): neither may leave a rest"
            )


class VIP(nn.Module):
    """Tells from the glimpse token's attention and the vision encoder's states how much each visual token matters.

    Args:
        shape: its sizes.
    """

    def __init__(self, shape: VIPShape) -> None:
        super().__init__()
        self.shape = shape
        self.attn_in_proj = nn.Linear(shape.attention, shape.width)
        self.cond_in_projs = nn.ModuleList(nn.Linear(shape.vision, shape.condition) for _ in range(shape.taps))
        self.layers = nn.ModuleList(_Block(shape) for _ in range(shape.taps))
        # one head a block, of which the published recipe trains the last: the others are places without parameters
        blank: list[nn.Module] = [nn.Identity() for _ in range(shape.taps - 1)]
        self.attn_out_projs = nn.ModuleList([*blank, nn.Linear(shape.width, 1)])

    def forward(self, attention: Tensor, taps: Tensor, rows: Tensor, columns: Tensor, images: list[int]) -> Tensor:
        """Score tokens; those of one image (for a video, of one temporal position) see each other and nothing else.

        Args:
            attention: [N, shape.attention] attention of the glimpse token, layer by layer, each of all heads: scaled
                logits, or logarithms of probabilities, as it was trained on.
            taps: [shape.taps, N, shape.vision] block outputs, the mean over the patches of a token.
            rows: [N] int64 row of each token in its image's merged grid, from 0.
            columns: [N] int64 column.
            images: tokens of each image, in order; they sum to N. Images may be of any size and need not be whole.

        Returns:
            [N] logits: above 0 where a token is more likely needed than not.
        """
        weight = self.attn_in_proj.weight
        x = self.attn_in_proj(attention.to(weight))
        angles = _angles(rows, columns, (self.shape.width + self.shape.condition) // self.shape.heads)
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        for block, project, tap in zip(self.layers, self.cond_in_projs, taps, strict=True):
            x = block(x, project(tap.to(weight)), cos, sin, images)
        return self.attn_out_projs[-1](x)[:, 0]  # type: ignore[no-any-return]


class _Block(nn.Module):
    """One pre-norm block: attention conditioned on the vision encoder in queries and keys, then SwiGLU."""

    def __init__(self, shape: VIPShape) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(shape.width, eps=_EPS)
        self.attn = _ConditionedAttention(shape)
        self.norm2 = nn.RMSNorm(shape.width, eps=_EPS)
        self.mlp = _SwiGLU(shape.width)

    def forward(self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, images: list[int]) -> Tensor:
        x = x + self.attn(self.norm1(x), condition, cos, sin, images)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class _ConditionedAttention(nn.Module):
    """Full attention inside each image; queries and keys see [state, condition], values the state alone."""

    def __init__(self, shape: VIPShape) -> None:
        super().__init__()
        both = shape.width + shape.condition
        self.heads = shape.heads
        self.q_proj = nn.Linear(both, both, bias=False)
        self.k_proj = nn.Linear(both, both, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, images: list[int]) -> Tensor:
        both = torch.cat([x, condition], dim=-1)
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)) for each in (self.q_proj(both), self.k_proj(both), self.v_proj(x))
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)  # [N, heads, d]
        parts, at = [], 0
        for size, equal in groupby(images):  # the frames of a video are one batch
            count = len(list(equal))
            own = slice(at, at + count * size)
            at += count * size
            if not size:
                continue
            batch = (
                each[own].unflatten(0, (count, size)).transpose(1, 2) for each in (q, k, v)
            )  # [images, heads, n, d]
            parts.append(F.scaled_dot_product_attention(*batch).transpose(1, 2).flatten(0, 1).flatten(1))
        return self.o_proj(torch.cat(parts))  # type: ignore[no-any-return]


class _SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), twice as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, 2 * width)
        self.up_proj = nn.Linear(width, 2 * width)
        self.down_proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


def _angles(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Rotary angles of a place in a grid, [N, width] fp32: a quarter by row, a quarter by column, then both again."""
    half = width // 2
    frequencies = _ROPE_THETA ** (-torch.arange(0, half, 2, device=rows.device, dtype=torch.float32) / half)
    once = torch.cat([rows[:, None] * frequencies, columns[:, None] * frequencies], dim=-1)
    return torch.cat([once, once], dim=-1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of [N, heads, d] against each other."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
