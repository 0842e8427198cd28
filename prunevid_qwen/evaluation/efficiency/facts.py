"""What a run did, apart from its time: tokens at every stage, ratios, cache, FLOPs."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.efficiency.flops import cluster_flops, flops_of
from prunevid_qwen.evaluation.efficiency.inputs import Prompt
from prunevid_qwen.evaluation.efficiency.memory import cache_storage
from prunevid_qwen.evaluation.efficiency.shapes import Shape
from prunevid_qwen.reducer import made_by
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens.trace import DOOR, Trace


def facts_of(
    prompt: Prompt, shape: Shape, config: PruneVidConfig | None, trace: Trace | None, cache: Any, itemsize: int
) -> dict[str, Any]:
    """Collect the facts of one prefill.

    Args:
        prompt: what every row holds.
        shape: of the model.
        config: what was pruned; None is the stock model.
        trace: of `pruned`; None is the stock model.
        cache: after the prefill.
        itemsize: bytes of one number in it.

    Returns:
        Ready for JSON. Token counts are means over the rows; ``widths`` are what each layer ran on, the widest row's,
        text included, ``visual_widths`` the visual tokens in it.
    """
    batch, layers = prompt.batch, shape.layers
    given = prompt.visual_tokens
    boundary = None
    seen = [[given] * layers for _ in range(batch)]  # visual tokens of each layer, by row
    first, second = [given] * batch, [given] * batch
    cluster, places = 0, list[int]()
    if trace is not None and config is not None:
        seen = [sample.widths(layers) for sample in trace.samples]
        first = [sample.after_stage1 for sample in trace.samples]
        second = [sample.after_stage2 for sample in trace.samples]
        boundary = trace.layer if config.enable_stage2 else None
        if config.has("min_cluster_tokens"):
            least = config.min_cluster_tokens
            cluster = sum(
                cluster_flops(sample.merged, sample.blocks, shape.hidden, least)
                for sample in trace.samples
                if sample.merged is not None
            )
        places = [at for at in trace.steps_at if at > DOOR]
    visual = [max(each) for each in zip(*seen, strict=True)]
    widths = [n + prompt.text_tokens for n in visual]
    lengths, _ = size_of(cache)
    kv_row = 2 * shape.kv_heads * (shape.hidden // shape.heads) * itemsize
    compressed = config is not None and config.enable_cache_compression and config.enable_stage2
    expected = [widths[-1]] * layers if compressed else widths
    mean_first, mean_second = sum(first) / batch, sum(second) / batch
    layer_average = sum(map(sum, seen)) / (layers * batch)
    what: dict[str, Any] = {
        "batch": batch,
        "grid": [prompt.positions, prompt.rows, prompt.columns],
        "layer": boundary,
        "tokens": {
            "text": prompt.text_tokens, "visual": given, "after_stage1": mean_first, "after_stage2": mean_second,
            "layer_average": layer_average,
        },
        "R1": mean_first / given,
        "R2": mean_second / given,
        "R_layer": layer_average / given,
        "R_kv": sum(lengths) / (layers * prompt.length),
        "widths": widths,
        "visual_widths": visual,
        "scores": [] if config is None else _scores(config, prompt, [widths[at] for at in places]),
        "cluster": cluster,
        "cache_lengths": list(lengths),
        "cache_bytes": {
            "computed": batch * kv_row * sum(expected), "measured": cache_storage(cache),
            "unpruned": batch * kv_row * layers * prompt.length,
        },
    }  # fmt: skip
    what["flops"] = flops_of(shape, what)
    return what


def _scores(config: PruneVidConfig, prompt: Prompt, widths: list[int]) -> list[dict[str, Any]]:
    """Say of each step between the layers, which came to so many tokens, what attention it computes anew."""
    query = None if config.selector is None else made_by(config.selector, config=config).needs.attention
    if query is None:
        return []
    asking = 1 if query.tokens == "last" else prompt.question_tokens
    rows = 1 if query.rows == "last" else asking
    keys = query.source == "pre_rope" or query.projections == "next"
    return [{"asking": asking, "width": width, "rows": rows, "keys": keys} for width in widths]
