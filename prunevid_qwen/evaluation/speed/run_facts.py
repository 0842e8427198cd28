"""What a run did, apart from its time: tokens at every stage, ratios, cache, FLOPs."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.speed.flops import (
    cluster_flops,
    decode_flops,
    decoder_flops,
    lm_head_flops,
    macs_fastv,
    macs_fastvid,
    score_flops,
    vision_flops,
)  # fmt: skip
from prunevid_qwen.evaluation.speed.memory import cache_storage
from prunevid_qwen.evaluation.speed.model_shapes import Shape
from prunevid_qwen.evaluation.speed.random_prompt import PromptSize
from prunevid_qwen.reducer import made_by
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens.trace import DOOR, Trace


def facts_of(
    size: PromptSize, shape: Shape, config: PruneVidConfig | None, trace: Trace | None, cache: Any, itemsize: int
) -> dict[str, Any]:
    """Collect the facts of one prefill.

    Args:
        size: of the prompt.
        shape: of the model.
        config: what was pruned; None is the stock model.
        trace: of `pruned`; None is the stock model.
        cache: after the prefill.
        itemsize: bytes of one number in it.

    Returns:
        Ready for JSON. Token counts are means over the rows; ``widths`` are what each layer ran on, the widest row's,
        text included, ``visual_widths`` the visual tokens in it.
    """
    batch, layers, given = size.batch, shape.layers, size.visual_tokens
    seen = [[given] * layers for _ in range(batch)]  # visual tokens of each layer, by row
    first = second = float(given)
    boundary, cluster, places = None, 0, list[int]()
    if trace is not None and config is not None:
        seen = [sample.widths(layers) for sample in trace.samples]
        first = sum(sample.after_stage1 for sample in trace.samples) / batch
        second = sum(sample.after_stage2 for sample in trace.samples) / batch
        boundary = trace.layer if config.enable_stage2 else None
        if config.has("min_cluster_tokens"):
            cluster = sum(
                cluster_flops(sample.merged, sample.blocks, shape.hidden, config.min_cluster_tokens)
                for sample in trace.samples
                if sample.merged is not None
            )
        places = [at for at in trace.steps_at if at > DOOR]
    visual = [max(each) for each in zip(*seen, strict=True)]
    widths = [n + size.text_tokens for n in visual]
    lengths = list(size_of(cache)[0])
    layer_average = sum(map(sum, seen)) / (layers * batch)
    scores = [] if config is None else _scores(config, size, [widths[at] for at in places])
    decoder = decoder_flops(shape, widths, batch)
    entry = 2 * shape.kv_heads * shape.head * itemsize  # bytes of a token's keys and values in one layer
    compressed = config is not None and config.enable_cache_compression and config.enable_stage2
    return {
        "batch": batch,
        "grid": [size.positions, size.rows, size.columns],
        "layer": boundary,
        "tokens": {
            "text": size.text_tokens, "visual": given, "after_stage1": first, "after_stage2": second,
            "layer_average": layer_average,
        },
        "R1": first / given,
        "R2": second / given,
        "R_layer": layer_average / given,
        "R_kv": sum(lengths) / (layers * size.length),
        "widths": widths,
        "visual_widths": visual,
        "scores": scores,
        "cluster": cluster,
        "cache_lengths": lengths,
        "cache_bytes": {
            "computed": batch * entry * sum([widths[-1]] * layers if compressed else widths),
            "measured": cache_storage(cache),
            "unpruned": batch * entry * layers * size.length,
        },
        "flops": {
            "vision": vision_flops(shape, (size.positions, size.rows, size.columns), batch),
            "stage1": cluster,
            "decoder": decoder.to_dict(),
            "stage2": batch * sum(score_flops(shape, **each) for each in scores),
            "lm_head": lm_head_flops(shape, batch),
            "decode_step": decode_flops(shape, [n + 1 for n in lengths], batch),
            "macs_fastv": batch * macs_fastv(shape, visual),
            "macs_fastvid": batch * macs_fastvid(shape, visual),
        },
    }  # fmt: skip


def _scores(config: PruneVidConfig, size: PromptSize, widths: list[int]) -> list[dict[str, Any]]:
    """Say of each step between the layers, which came to so many tokens, what attention it computes anew."""
    query = None if config.selector is None else made_by(config.selector, config=config).needs.attention
    if query is None:
        return []
    asking = 1 if query.tokens == "last" else size.question_tokens
    rows = 1 if query.rows == "last" else asking
    keys = query.source == "pre_rope" or query.projections == "next"
    return [{"asking": asking, "width": width, "rows": rows, "keys": keys} for width in widths]
