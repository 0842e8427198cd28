"""What a forward has to compute: floating point operations (2 for each multiply-add) of every part, and the papers'.

Counted are matrix products: projections, attention, SwiGLU, patch embedding, merger, output layer, and the distance
products of clustering. Not counted, as in torch's FlopCounterMode, with which a test compares: norms, softmax, rotary
embedding, additions. Attention is counted in full (every query with every key), as papers and FlopCounterMode do; the
half that causal kernels compute stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from prunevid_qwen.evaluation.speed.model_shapes import CHANNELS, MERGE, PATCH, PATCH_FRAMES, Shape
from prunevid_qwen.tokens import Block, TokenMap


@dataclass(frozen=True)
class DecoderFlops:
    """FLOPs of the decoder's layers.

    Args:
        linear: projections and SwiGLU.
        attention: every query with every key.
        attention_causal: every query with the keys up to its own.
    """

    linear: int
    attention: int
    attention_causal: int

    @property
    def total(self) -> int:
        """With attention in full."""
        return self.linear + self.attention

    def to_dict(self) -> dict[str, int]:
        """Return all of it, ready for JSON; ``total_causal`` is with attention's causal half."""
        return {**asdict(self), "total": self.total, "total_causal": self.linear + self.attention_causal}


def decoder_flops(shape: Shape, widths: Sequence[int], batch: int = 1) -> DecoderFlops:
    """Count a prefill.

    Args:
        shape: of the model.
        widths: tokens that each layer runs on, text and padding included.
        batch: rows.
    """
    return DecoderFlops(
        linear=batch * sum(_layer_linear(shape, n) for n in widths),
        attention=batch * sum(4 * n * n * shape.hidden for n in widths),
        attention_causal=batch * sum(2 * n * (n + 1) * shape.hidden for n in widths),
    )


def decode_flops(shape: Shape, held: Sequence[int], batch: int = 1) -> int:
    """Count one step of decoding: ``held`` are the entries of each layer's cache, the new token's included."""
    return batch * sum(_layer_linear(shape, 1) + 4 * n * shape.hidden for n in held) + lm_head_flops(shape, batch)


def lm_head_flops(shape: Shape, batch: int = 1) -> int:
    """Count the output layer on the last position of each row."""
    return 2 * batch * shape.hidden * shape.vocabulary


def _layer_linear(shape: Shape, tokens: int) -> int:
    """Count one decoder layer's products with weights."""
    return 2 * tokens * shape.hidden * (2 * shape.hidden + 2 * shape.kv_heads * shape.head + 3 * shape.ffn)


def vision_flops(shape: Shape, grid: tuple[int, int, int], batch: int = 1) -> int:
    """Count the vision tower.

    Args:
        shape: of the model.
        grid: (positions, rows, columns) of one video, in tokens.
        batch: videos.
    """
    positions, rows, columns = grid
    unit, d, side = MERGE * MERGE, shape.vision_hidden, shape.window // PATCH // MERGE
    patches = positions * rows * columns * unit
    embedding = 2 * patches * CHANNELS * PATCH_FRAMES * PATCH * PATCH * d
    linear = 2 * patches * (4 * d * d + 3 * d * shape.vision_ffn)
    heights, widths = ([min(side, n - start) for start in range(0, n, side)] for n in (rows, columns))
    windows = [unit * h * w for h in heights for w in widths]  # smaller at the edges
    attention = 0
    for layer in range(shape.vision_depth):
        lengths = [unit * rows * columns] if layer in shape.full_attention else windows
        attention += positions * sum(4 * n * n * d for n in lengths)
    merger = 2 * (patches // unit) * unit * d * (unit * d + shape.hidden)
    return batch * (embedding + shape.vision_depth * linear + attention + merger)


def score_flops(shape: Shape, asking: int, width: int, rows: int, keys: bool) -> int:
    """Count one step's attention scores of one row; what else its method computes is not counted.

    Args:
        shape: of the model.
        asking: tokens whose queries are made.
        width: keys that the queries are multiplied with.
        rows: queries that are.
        keys: the keys are made too, and not read from the cache.
    """
    made = 2 * width * shape.hidden * shape.kv_heads * shape.head if keys else 0
    return 2 * shape.hidden * (asking * shape.hidden + rows * width) + made


def cluster_flops(merged: TokenMap, blocks: Sequence[Block], channels: int, least: int) -> int:
    """Count the distance products of stage 1's clustering: 2 N² C for every group of N points that is clustered.

    Args:
        merged: what stage 1 did; its strata are its groups (static tokens of a segment, dynamic ones of a position).
        blocks: the videos it did it to.
        channels: C.
        least: groups of at most so many points are not clustered.
    """
    if merged.stratum is None or merged.is_identity:
        return 0
    place = torch.empty(merged.n_in, dtype=torch.long)  # a static location counts once, not at every position
    offset = total = 0
    for block in blocks:
        t, h, w = block.grid
        place[block.start : block.stop] = torch.arange(t * h * w) % (h * w) + offset
        offset += h * w
        total += 2 * t * t * channels  # temporal segments
    target, stratum = merged.target.cpu(), merged.stratum.cpu()
    points = torch.unique(torch.stack([stratum[target], place]), dim=1)[0]
    sizes = torch.bincount(points)
    left = torch.bincount(stratum, minlength=sizes.numel())
    clustered = sizes[(sizes > least) & (left < sizes)].tolist()
    return total + sum(2 * n * n * channels for n in clustered)


def macs_fastv(shape: Shape, widths: Sequence[int]) -> int:
    """Multiply-adds of visual tokens by FastV's formula: all heads, two matrices in the FFN.

    Also PyramidDrop's, DivPrune's and HoliTom's.
    """
    d, m = shape.hidden, shape.ffn
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in widths)


def macs_fastvid(shape: Shape, widths: Sequence[int]) -> int:
    """Multiply-adds of visual tokens by FastVID's and FlashVID's formula: grouped heads, three FFN matrices."""
    d, m, grouped = shape.hidden, shape.ffn, shape.heads + shape.kv_heads
    return sum(2 * n * d * d * grouped // shape.heads + 2 * n * n * d + 3 * n * d * m for n in widths)
