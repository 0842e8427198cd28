"""What a forward has to compute: floating point operations (2 for each multiply-add) of every part, and the papers'.

Counted are matrix products: projections, attention, SwiGLU, patch embedding, merger, output layer, and the distance
products of clustering. Not counted, as in torch's FlopCounterMode, with which a test compares: norms, softmax, rotary
embedding, additions. Attention is counted in full (every query with every key), as papers and FlopCounterMode do; the
half that causal kernels compute stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from prunevid_qwen.evaluation.efficiency.shapes import CHANNELS, MERGE, PATCH, PATCH_FRAMES, Shape
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

    @property
    def total_causal(self) -> int:
        """With attention's causal half."""
        return self.linear + self.attention_causal

    def to_dict(self) -> dict[str, int]:
        """Return all of it, ready for JSON."""
        return {**asdict(self), "total": self.total, "total_causal": self.total_causal}


def layer_linear(shape: Shape, tokens: int) -> int:
    """FLOPs of one decoder layer's products with weights, for so many tokens."""
    head = shape.hidden // shape.heads
    weights = 2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.kv_heads * head + 3 * shape.hidden * shape.ffn
    return 2 * tokens * weights


def decoder_flops(shape: Shape, widths: Sequence[int], batch: int = 1) -> DecoderFlops:
    """Count a prefill.

    Args:
        shape: of the model.
        widths: tokens that each layer runs on, text and padding included.
        batch: rows.
    """
    return DecoderFlops(
        linear=batch * sum(layer_linear(shape, n) for n in widths),
        attention=batch * sum(4 * n * n * shape.hidden for n in widths),
        attention_causal=batch * sum(2 * n * (n + 1) * shape.hidden for n in widths),
    )


def decode_flops(shape: Shape, held: Sequence[int], batch: int = 1) -> int:
    """Count one step of decoding: ``held`` are the entries of each layer's cache, the new token's included."""
    return batch * sum(layer_linear(shape, 1) + 4 * n * shape.hidden for n in held) + lm_head_flops(shape, batch)


def lm_head_flops(shape: Shape, batch: int = 1) -> int:
    """Count the output layer on the last position of each row."""
    return 2 * batch * shape.hidden * shape.vocabulary


def vision_flops(shape: Shape, grid: tuple[int, int, int], batch: int = 1) -> int:
    """Count the vision tower.

    Args:
        shape: of the model.
        grid: (positions, rows, columns) of one video, in tokens.
        batch: videos.
    """
    positions, rows, columns = grid
    unit = MERGE * MERGE
    patches, d = positions * rows * columns * unit, shape.vision_hidden
    embedding = 2 * patches * CHANNELS * PATCH_FRAMES * PATCH * PATCH * d
    linear = 2 * patches * (4 * d * d + 3 * d * shape.vision_ffn)
    side = shape.window // PATCH // MERGE
    spans = [
        [min(side, n - start) for start in range(0, n, side)] for n in (rows, columns)
    ]  # windows at the edges are smaller
    windows = [unit * h * w for h in spans[0] for w in spans[1]]
    attention = 0
    for layer in range(shape.vision_depth):
        lengths = [unit * rows * columns] if layer in shape.full_attention else windows
        attention += positions * sum(4 * n * n * d for n in lengths)
    merged = unit * d
    merger = 2 * (patches // unit) * (merged * merged + merged * shape.hidden)
    return batch * (embedding + shape.vision_depth * linear + attention + merger)


def score_flops(shape: Shape, asking: int, width: int, rows: int | None = None, keys: bool = False) -> int:
    """Count one step's attention scores of one row; what else its method computes is not counted.

    Args:
        shape: of the model.
        asking: tokens whose queries are made.
        width: keys that the queries are multiplied with.
        rows: queries that are; None for all that are made.
        keys: the keys are made too, and not read from the cache.
    """
    made = 2 * width * shape.hidden * shape.kv_heads * (shape.hidden // shape.heads) if keys else 0
    return 2 * shape.hidden * (asking * shape.hidden + (asking if rows is None else rows) * width) + made


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


# ---- the papers' counts: multiply-adds, of visual tokens alone


def macs_fastv(shape: Shape, widths: Sequence[int]) -> int:
    """Multiply-adds by FastV's formula (also PyramidDrop, DivPrune, HoliTom): all heads, two matrices in the FFN."""
    d, m = shape.hidden, shape.ffn
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in widths)


def macs_fastvid(shape: Shape, widths: Sequence[int]) -> int:
    """Multiply-adds by FastVID's formula (also FlashVID): grouped-query heads, three matrices in the FFN."""
    d, m = shape.hidden, shape.ffn
    return sum(
        2 * n * d * d * (shape.heads + shape.kv_heads) // shape.heads + 2 * n * n * d + 3 * n * d * m for n in widths
    )


def flops_of(shape: Shape, what: dict[str, Any]) -> dict[str, Any]:
    """Count every part of one measured run.

    Args:
        shape: of the model.
        what: its facts, as `facts.facts_of` collects them.
    """
    decoder = decoder_flops(shape, what["widths"], what["batch"])
    return {
        "vision": vision_flops(shape, tuple(what["grid"]), what["batch"]),
        "stage1": what["cluster"],
        "decoder": decoder.to_dict(),
        "stage2": what["batch"] * sum(score_flops(shape, **each) for each in what["scores"]),
        "lm_head": lm_head_flops(shape, what["batch"]),
        "decode_step": decode_flops(shape, [n + 1 for n in what["cache_lengths"]], what["batch"]),
        "macs_fastv": what["batch"] * macs_fastv(shape, what["visual_widths"]),
        "macs_fastvid": what["batch"] * macs_fastvid(shape, what["visual_widths"]),
    }
