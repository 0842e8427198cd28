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
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.timed_run import TimedParts
from prunevid_qwen.evaluation.speed.vision_flops import share_run, units_run, vision_flops
from prunevid_qwen.reducer import made_by
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens import Block, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Trace
from prunevid_qwen.vision.options import vision_options


def decoder_flops(shape: Any, widths: Sequence[int], batch: int = 1) -> dict[str, int]:
    """Count a prefill of a model of config ``shape`` whose layers run on ``widths`` tokens, text and padding included.

    Returns: ``linear`` (projections and SwiGLU), ``attention`` of every query with every key, ``attention_causal`` of
        every query with the keys up to its own, and the ``total`` and ``total_causal`` of either with ``linear``.
    """
    heads = attended(shape)
    linear = batch * sum(_layer_linear(shape, n, layer) for layer, n in enumerate(widths))
    full = batch * sum(4 * n * n * heads for n in widths)
    causal = batch * sum(2 * n * (n + 1) * heads for n in widths)
    attention = {"attention": full, "attention_causal": causal}
    return {"linear": linear, **attention, "total": linear + full, "total_causal": linear + causal}


def decode_flops(shape: Any, held: Sequence[int], batch: int = 1) -> int:
    """Count one step of decoding: ``held`` are the entries of each layer's cache, the new token's included."""
    layers = sum(_layer_linear(shape, 1, layer) + 4 * n * attended(shape) for layer, n in enumerate(held))
    return batch * layers + lm_head_flops(shape, batch)


def lm_head_flops(shape: Any, batch: int = 1) -> int:
    """Count the output layer on the last position of each row."""
    return int(2 * batch * shape.text_config.hidden_size * shape.text_config.vocab_size)


def _layer_linear(shape: Any, tokens: int, layer: int) -> int:
    text = shape.text_config
    inner, routed = fed(text, layer)
    return int(2 * tokens * text.hidden_size * (2 * attended(shape) + 2 * grouped(shape) + 3 * inner + routed))


def fed(text: Any, layer: int) -> tuple[int, int]:
    """Channels inside a layer's feed-forward part, and experts among which a router chooses: of a mixture the chosen.

    Which experts a token goes to changes no count.
    """
    experts = getattr(text, "num_experts", 0)
    if not experts or layer in text.mlp_only_layers or (layer + 1) % text.decoder_sparse_step:
        return int(text.intermediate_size), 0
    return int(text.num_experts_per_tok * text.moe_intermediate_size), int(experts)


def head(text: Any) -> int:
    """Channels of a head of the decoder."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def attended(shape: Any) -> int:
    """Channels of a token's queries, all heads together: not the hidden size in every family."""
    return int(shape.text_config.num_attention_heads * head(shape.text_config))


def grouped(shape: Any) -> int:
    """Channels of a token's keys, and as many of its values."""
    text = shape.text_config
    return int((text.num_key_value_heads or text.num_attention_heads) * head(text))


def cluster_flops(
    merged: TokenMap, blocks: Sequence[Block], channels: int, least: int, cells: Tensor | None = None
) -> int:
    """Count the distance products of stage 1's clustering: 2 N² C for every group of N points that is clustered.

    ``merged`` is what stage 1 did to the videos in ``blocks``; its strata are the groups (static tokens of a segment,
    dynamic ones of a position). Groups of at most ``least`` points are not clustered. ``cells`` are of each token, in
    its video, -1 where it has no place; None where the tokens are the videos' cells.
    """
    if merged.stratum is None or merged.is_identity:
        return 0
    place = torch.empty(merged.n_in, dtype=torch.long)  # a static location counts once, not at every position
    offset = total = 0
    for block in blocks:
        t, h, w = block.grid
        own = torch.arange(t * h * w) if cells is None else cells[block.start : block.stop].cpu()
        # wherever those without a place are counted, they have a stratum of their own, in which all are left
        place[block.start : block.stop] = own % (h * w) + offset
        offset += h * w
        total += 2 * t * t * channels  # temporal segments
    target, stratum = merged.target.cpu(), merged.stratum.cpu()
    points = torch.unique(torch.stack([stratum[target], place]), dim=1)[0]
    sizes = torch.bincount(points)
    left = torch.bincount(stratum, minlength=sizes.numel())
    clustered = sizes[(sizes > least) & (left < sizes)].tolist()
    return total + sum(2 * n * n * channels for n in clustered)


def macs_fastv(shape: Any, widths: Sequence[int]) -> int:
    """Multiply-adds of visual tokens by the formula of FastV, PyramidDrop, DivPrune and HoliTom: two FFN matrices.

    As in the papers, a layer's heads together are as wide as its states. Of a mixture the chosen experts count.
    """
    d, text = shape.text_config.hidden_size, shape.text_config
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * fed(text, layer)[0] for layer, n in enumerate(widths))


def macs_fastvid(shape: Any, widths: Sequence[int]) -> int:
    """Multiply-adds of visual tokens by FastVID's and FlashVID's formula: grouped heads, three FFN matrices."""
    d, text, keys = shape.text_config.hidden_size, shape.text_config, grouped(shape)
    return sum(
        2 * n * d * (d + keys) + 2 * n * n * d + 3 * n * d * fed(text, layer)[0] for layer, n in enumerate(widths)
    )


def facts_of(size: PromptSize, model: Any, config: PruneVidConfig | None, parts: TimedParts) -> dict[str, Any]:
    """Collect the facts of a prefill that ``model`` did under ``config`` (None: stock); ``parts`` are of that run.

    Returns:
        Ready for JSON. Token counts are means over the rows; ``encoded`` is the share of the vision encoder's work on
        all blocks and places of the videos that was done; ``widths`` are what each layer ran on, the widest row's,
        text included, ``visual_widths`` the visual tokens in it.

    Raises:
        UnsupportedError: the config lets places of a video be copies, and which are is unknown.
    """
    shape, trace = model.config, parts.trace
    batch, layers, given = size.batch, shape.text_config.num_hidden_layers, size.visual_tokens
    seen = [[given] * layers for _ in range(batch)]  # visual tokens of each layer, by row
    said = [[size.all_text] * layers for _ in range(batch)]  # and text
    first = second = float(given)
    boundary, cluster, places, compressed = None, 0, list[int](), False
    if trace is not None and config is not None:
        seen = [sample.widths(layers) for sample in trace.samples]
        said = [sample.text_widths(layers) for sample in trace.samples]
        first = sum(sample.after_stage1 for sample in trace.samples) / batch
        second = sum(sample.after_stage2 for sample in trace.samples) / batch
        boundary = trace.layer if config.enable_stage2 else None
        if config.has("min_cluster_tokens"):
            d, least = shape.text_config.hidden_size, config.min_cluster_tokens
            cluster = sum(
                cluster_flops(sample.merged, sample.blocks, d, least, sample.cells)
                for sample in trace.samples
                if sample.merged is not None
            )
        places = [at for at in trace.steps_at if at > DOOR]
        compressed = config.enable_cache_compression and config.enable_stage2
    visual = [max(each) for each in zip(*seen, strict=True)]
    rows = [list(map(sum, zip(*both, strict=True))) for both in zip(seen, said, strict=True)]
    widths = [max(each) for each in zip(*rows, strict=True)]
    lengths = list(size_of(parts.cache)[0])
    average = sum(map(sum, seen)) / (layers * batch)
    scores = [] if config is None else _scores(config, size, [(widths[at], visual[at]) for at in places])
    entry = 2 * grouped(shape) * next(model.parameters()).element_size()  # bytes of a token in one layer's cache
    grid = [size.positions, size.rows, size.columns]
    sources = _sources(trace, config)
    encoded = [units_run(source, size.form, size.positions) for source in sources]
    stages = {"after_stage1": first, "after_stage2": second, "layer_average": average}
    return {
        "batch": batch,
        "grid": grid,
        "layer": boundary,
        "tokens": {"text": size.all_text, "visual": given, **stages},
        "encoded": share_run(sources) if sources else 1.0,
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
            "vision": vision_flops(shape, grid, batch, encoded),
            "stage1": cluster,
            "decoder": decoder_flops(shape, widths, batch),
            "stage2": batch * sum(_score_flops(shape, **each) for each in scores),
            "lm_head": lm_head_flops(shape, batch),
            "decode_step": decode_flops(shape, [n + 1 for n in lengths], batch),
            "macs_fastv": batch * macs_fastv(shape, visual),
            "macs_fastvid": batch * macs_fastvid(shape, visual),
        },
    }


def _sources(trace: Trace | None, config: PruneVidConfig | None) -> list[Tensor]:
    """Return what each row's tokens are copies of; [] where all were encoded."""
    if trace is None or config is None or not vision_options(config.reading).reuses:
        return []
    sources = [sample.source for sample in trace.samples]
    if any(source is None for source in sources):
        raise UnsupportedError(
            "which places of a video the vision encoder left out is unknown for this model, so its FLOPs cannot be "
            "counted: measure without reuse_threshold and early_tau"
        )
    return [source for source in sources if source is not None]


def _scores(config: PruneVidConfig, size: PromptSize, widths: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Say of each step between the layers, at so many tokens, visual ones among them, what attention it makes anew."""
    query = None if config.selector is None else made_by(config.selector, config=config).needs.attention
    if query is None:
        return []
    asking = 1 if query.tokens == "last" else size.question_tokens
    rows = 1 if query.rows == "last" else asking
    keys = query.source == "pre_rope" or query.projections == "next"
    made = {"asking": asking, "rows": rows, "keys": keys, "passes": 1 if query.top_heads is None else 2}
    return [{**made, "width": width, "pulled": shown if query.gravity else 0} for width, shown in widths]


def _score_flops(shape: Any, asking: int, width: int, rows: int, keys: bool, passes: int, pulled: int) -> int:
    """Count a step's attention scores of one row: queries of ``asking`` tokens, ``rows`` of them with ``width`` keys.

    ``keys`` are made too where they are not read from the cache. A choice of heads takes two ``passes``. ``pulled``
    tokens have their products with all-ones queries.
    """
    pull = 2 * rows * pulled * head(shape.text_config)
    d = shape.text_config.hidden_size
    made = 2 * width * d * grouped(shape) if keys else 0
    return int(2 * attended(shape) * (asking * d + passes * rows * width) + passes * pull + made)


def cache_storage(cache: Any) -> int:
    """Bytes that a cache's keys and values really hold: a view into a larger tensor counts as that tensor."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())
