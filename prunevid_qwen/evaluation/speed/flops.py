"""What one run did, apart from its time: tokens at every stage, cache, and floating point operations of every part.

FLOPs are 2 for each multiply-add of a matrix product: projections, attention, SwiGLU, patch embedding, merger, output
layer, and the distance products of clustering. Norms, softmax, rotary embedding and additions are not counted, as in
torch's FlopCounterMode, with which a test compares. Attention is counted in full (every query with every key), as
papers do; the half that causal kernels compute stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.speed.model_shapes import CHANNELS, MERGE, PATCH, PATCH_FRAMES
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.timed_run import TimedParts
from prunevid_qwen.reducer import made_by
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import DOOR


def decoder_flops(shape: Any, widths: Sequence[int], batch: int = 1) -> dict[str, int]:
    """Count a prefill of a model of config ``shape`` whose layers run on ``widths`` tokens, text and padding included.

    Returns: ``linear`` (projections and SwiGLU), ``attention`` of every query with every key, ``attention_causal`` of
        every query with the keys up to its own, and the ``total`` and ``total_causal`` of either with ``linear``.
    """
    d = shape.text_config.hidden_size
    linear = batch * sum(_layer_linear(shape, n) for n in widths)
    full = batch * sum(4 * n * n * d for n in widths)
    causal = batch * sum(2 * n * (n + 1) * d for n in widths)
    attention = {"attention": full, "attention_causal": causal}
    return {"linear": linear, **attention, "total": linear + full, "total_causal": linear + causal}


def decode_flops(shape: Any, held: Sequence[int], batch: int = 1) -> int:
    """Count one step of decoding: ``held`` are the entries of each layer's cache, the new token's included."""
    layers = sum(_layer_linear(shape, 1) + 4 * n * shape.text_config.hidden_size for n in held)
    return batch * layers + lm_head_flops(shape, batch)


def lm_head_flops(shape: Any, batch: int = 1) -> int:
    """Count the output layer on the last position of each row."""
    return int(2 * batch * shape.text_config.hidden_size * shape.text_config.vocab_size)


def _layer_linear(shape: Any, tokens: int) -> int:
    d = shape.text_config.hidden_size
    return int(2 * tokens * d * (2 * d + 2 * _grouped(shape) + 3 * shape.text_config.intermediate_size))


def _grouped(shape: Any) -> int:
    """Channels of a token's keys, and as many of its values."""
    text = shape.text_config
    return int(text.num_key_value_heads * text.hidden_size // text.num_attention_heads)


def vision_flops(shape: Any, grid: Sequence[int], batch: int = 1) -> int:
    """Count the vision tower over ``batch`` videos of ``grid`` = (positions, rows, columns) tokens."""
    (positions, rows, columns), vision = grid, shape.vision_config
    unit, d, side = MERGE * MERGE, vision.hidden_size, vision.window_size // PATCH // MERGE
    patches = positions * rows * columns * unit
    embedding = 2 * patches * CHANNELS * PATCH_FRAMES * PATCH * PATCH * d
    linear = 2 * patches * (4 * d * d + 3 * d * vision.intermediate_size)
    heights, widths = ([min(side, n - start) for start in range(0, n, side)] for n in (rows, columns))
    windows = [unit * h * w for h in heights for w in widths]  # smaller at the edges
    attention = 0
    for layer in range(vision.depth):
        lengths = [unit * rows * columns] if layer in vision.fullatt_block_indexes else windows
        attention += positions * sum(4 * n * n * d for n in lengths)
    merger = 2 * (patches // unit) * unit * d * (unit * d + shape.text_config.hidden_size)
    return int(batch * (embedding + vision.depth * linear + attention + merger))


def cluster_flops(merged: TokenMap, blocks: Sequence[Block], channels: int, least: int) -> int:
    """Count the distance products of stage 1's clustering: 2 N² C for every group of N points that is clustered.

    ``merged`` is what stage 1 did to the videos in ``blocks``; its strata are the groups (static tokens of a segment,
    dynamic ones of a position). Groups of at most ``least`` points are not clustered.
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


def macs_fastv(shape: Any, widths: Sequence[int]) -> int:
    """Multiply-adds of visual tokens by the formula of FastV, PyramidDrop, DivPrune and HoliTom: two FFN matrices."""
    d, m = shape.text_config.hidden_size, shape.text_config.intermediate_size
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in widths)


def macs_fastvid(shape: Any, widths: Sequence[int]) -> int:
    """Multiply-adds of visual tokens by FastVID's and FlashVID's formula: grouped heads, three FFN matrices."""
    d, m = shape.text_config.hidden_size, shape.text_config.intermediate_size
    return sum(2 * n * d * (d + _grouped(shape)) + 2 * n * n * d + 3 * n * d * m for n in widths)


def facts_of(size: PromptSize, model: Any, config: PruneVidConfig | None, parts: TimedParts) -> dict[str, Any]:
    """Collect the facts of a prefill that ``model`` did under ``config`` (None: stock); ``parts`` are of that run.

    Returns:
        Ready for JSON. Token counts are means over the rows; ``widths`` are what each layer ran on, the widest row's,
        text included, ``visual_widths`` the visual tokens in it.
    """
    shape, trace = model.config, parts.trace
    batch, layers, given = size.batch, shape.text_config.num_hidden_layers, size.visual_tokens
    seen = [[given] * layers for _ in range(batch)]  # visual tokens of each layer, by row
    first = second = float(given)
    boundary, cluster, places, compressed = None, 0, list[int](), False
    if trace is not None and config is not None:
        seen = [sample.widths(layers) for sample in trace.samples]
        first = sum(sample.after_stage1 for sample in trace.samples) / batch
        second = sum(sample.after_stage2 for sample in trace.samples) / batch
        boundary = trace.layer if config.enable_stage2 else None
        if config.has("min_cluster_tokens"):
            d, least = shape.text_config.hidden_size, config.min_cluster_tokens
            found = [(sample.merged, sample.blocks) for sample in trace.samples]
            cluster = sum(cluster_flops(merged, blocks, d, least) for merged, blocks in found if merged is not None)
        places = [at for at in trace.steps_at if at > DOOR]
        compressed = config.enable_cache_compression and config.enable_stage2
    visual = [max(each) for each in zip(*seen, strict=True)]
    widths = [n + size.text_tokens for n in visual]
    lengths = list(size_of(parts.cache)[0])
    average = sum(map(sum, seen)) / (layers * batch)
    scores = [] if config is None else _scores(config, size, [widths[at] for at in places])
    entry = 2 * _grouped(shape) * next(model.parameters()).element_size()  # bytes of a token in one layer's cache
    grid = [size.positions, size.rows, size.columns]
    stages = {"after_stage1": first, "after_stage2": second, "layer_average": average}
    return {
        "batch": batch,
        "grid": grid,
        "layer": boundary,
        "tokens": {"text": size.text_tokens, "visual": given, **stages},
        "R1": first / given,
        "R2": second / given,
        "R_layer": average / given,
        "R_kv": sum(lengths) / (layers * size.length),
        "widths": widths,
        "visual_widths": visual,
        "scores": scores,
        "cluster": cluster,
        "cache_lengths": lengths,
        "cache_bytes": {
            "computed": batch * entry * sum([widths[-1]] * layers if compressed else widths),
            "measured": cache_storage(parts.cache),
            "unpruned": batch * entry * layers * size.length,
        },
        "flops": {
            "vision": vision_flops(shape, grid, batch),
            "stage1": cluster,
            "decoder": decoder_flops(shape, widths, batch),
            "stage2": batch * sum(_score_flops(shape, **each) for each in scores),
            "lm_head": lm_head_flops(shape, batch),
            "decode_step": decode_flops(shape, [n + 1 for n in lengths], batch),
            "macs_fastv": batch * macs_fastv(shape, visual),
            "macs_fastvid": batch * macs_fastvid(shape, visual),
        },
    }


def _scores(config: PruneVidConfig, size: PromptSize, widths: list[int]) -> list[dict[str, Any]]:
    """Say of each step between the layers, which came to so many tokens, what attention it computes anew."""
    query = None if config.selector is None else made_by(config.selector, config=config).needs.attention
    if query is None:
        return []
    asking = 1 if query.tokens == "last" else size.question_tokens
    rows = 1 if query.rows == "last" else asking
    keys = query.source == "pre_rope" or query.projections == "next"
    return [{"asking": asking, "width": width, "rows": rows, "keys": keys} for width in widths]


def _score_flops(shape: Any, asking: int, width: int, rows: int, keys: bool) -> int:
    """Count a step's attention scores of one row: queries of ``asking`` tokens, ``rows`` of them with ``width`` keys.

    ``keys`` are made too where they are not read from the cache.
    """
    d = shape.text_config.hidden_size
    made = 2 * width * d * _grouped(shape) if keys else 0
    return int(2 * d * (asking * d + rows * width) + made)


def cache_storage(cache: Any) -> int:
    """Bytes that a cache's keys and values really hold: a view into a larger tensor counts as that tensor."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())
