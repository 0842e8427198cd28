"""The receipt of one answer: what each stage was asked for, what it did, what it saved and what it cost."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.trace import SampleTrace, Trace
from prunevid_qwen.version import __version__


def check_applied(trace: Trace, config: PruneVidConfig, shown: Sequence[int] | None = None) -> None:
    """Make sure that every stage that had something to do did it.

    Args:
        trace: of the prompt.
        config: what was asked for.
        shown: visual tokens of each prompt of the batch, counted in its own token ids; None where they are not known.

    Raises:
        PruningNotApplied: a stage was asked for, there was something to prune, and it did not act; or the hooks saw
            other visual tokens than the prompt holds.
    """
    if shown is not None:
        times = len(trace.samples) // max(1, len(shown))  # beams are rows
        seen = [sample.tokens for sample in trace.samples]
        if seen != [tokens for tokens in shown for _ in range(times)] or not seen:
            raise PruningNotApplied(
                f"the prompts hold {list(shown)} visual tokens, and the hooks saw {seen}: the model ran past them (a "
                "compiled or replaced forward?), so nothing is known of its pruning"
            )
    for number, sample in enumerate(trace.samples):
        if not sample.tokens:
            continue
        if config.enable_stage1 and sample.merged is None:
            raise PruningNotApplied(f"stage 1 ({config.merger}) was asked for, but did not see sample {number}")
        all_through = sample.merged is not None and sample.merged.is_identity
        if config.enable_stage1 and all_through and _must_merge(sample, config):
            raise PruningNotApplied(
                f"merger {config.merger!r} at cluster_ratio={config.cluster_ratio} was asked for, all {sample.tokens} "
                f"tokens of sample {number} came through"
            )
        if config.enable_stage2 and sample.kept is None:
            raise PruningNotApplied(f"stage 2 ({config.selector}) was asked for, but did not see sample {number}")
        asked = config.fixed_keep_ratio
        if asked is None:  # a threshold may keep all; a cap may not be passed
            asked = config.max_keep_ratio or 1.0
        least = len(sample.blocks) * config.min_keep_tokens
        spare = sample.after_stage1 - max(least, int(sample.after_stage1 * asked))
        if sample.kept is not None and sample.kept.is_identity and spare > 1:
            raise PruningNotApplied(
                f"a share of {asked:g} of {sample.after_stage1} tokens was asked for, all were kept"
            )


def _must_merge(sample: SampleTrace, config: PruneVidConfig) -> bool:
    """Tell whether some video or image is too large to leave stage 1 as it came, whatever it shows."""
    if config.cluster_ratio == 1 or config.merger == "rlt":  # where everything moves there is nothing to merge
        return False
    grids = [block.grid for block in sample.blocks if block.kind == "video" or config.merge_images]
    if config.merger == "prunevid":  # what is static is merged over time: else each position clusters all its tokens
        return any(h * w > max(1, config.min_cluster_tokens) for _, h, w in grids)
    return any(t * h * w > 1 for t, h, w in grids)


def receipt(
    trace: Trace,
    row: int,
    config: PruneVidConfig,
    media: list[dict[str, Any]],
    kinds: list[str],
    prompt_tokens: int,
    about: dict[str, Any],
    seconds: dict[str, float],
    generated_tokens: int,
) -> dict[str, Any]:
    """Write the receipt of one row of a batch; seconds are of the whole batch.

    Args:
        trace: of the run.
        row: the sample's row among ``trace.samples``.
        config: what was asked for.
        media: facts of each video and image, in order.
        kinds: "video" or "image" for each of them.
        prompt_tokens: of this sample before stage 1.
        about: model, device, dtype and attention implementation.
        seconds: "read" (until the videos are open, and then what of reading and resizing the vision encoder, which
            runs beside it, did not hide) and "total".
        generated_tokens: tokens of the answer.
    """
    sample = trace.samples[row]
    layers = trace.layers
    early = min(trace.layer + 1, layers) if config.enable_stage2 else layers
    average = (early * sample.after_stage1 + (layers - early) * sample.after_stage2) / layers
    parts = {part: trace.seconds.total(part) for part in ("vision", "merge", "select", "compact", "prefill")}
    parts["prefill"] = max(0.0, parts["prefill"] - parts["merge"] - parts["select"] - parts["compact"])
    steps = trace.seconds.count("decode")
    decode = trace.seconds.total("decode")
    first = seconds["read"] + sum(parts.values())
    return {
        "input": {
            "videos": [fact for kind, fact in zip(kinds, media, strict=True) if kind == "video"],
            "images": [fact for kind, fact in zip(kinds, media, strict=True) if kind == "image"],
            "prompt_tokens": prompt_tokens,
        },
        "stage1": _stage1(sample, config),
        "stage2": _stage2(sample, config, trace),
        "stage3": _stage3(sample, config, trace),
        "tokens": {
            "visual": sample.tokens,
            "after_stage1": sample.after_stage1,
            "after_stage2": sample.after_stage2,
            "layer_average": average,
        },
        "seconds": {
            "read": seconds["read"],
            **parts,
            "first_token": first,
            "decode_per_token": decode / steps if steps else 0.0,
            "decode": decode,
            "total": seconds["total"],
            "rows_in_batch": len(trace.samples),
        },
        "generated_tokens": generated_tokens,
        "position_scheme": trace.position_scheme,
        "config": config.to_dict(),
        "versions": versions(),
        **about,
    }


def versions() -> dict[str, str]:
    """Return the versions that an answer depends on."""
    import torch
    import transformers

    return {
        "prunevid_qwen": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _share(out: int, given: int) -> float:
    return out / given if given else 1.0


def _stage1(sample: SampleTrace, config: PruneVidConfig) -> dict[str, Any]:
    mergeable = any(block.kind == "video" or config.merge_images for block in sample.blocks)
    note = None
    if config.enable_stage1 and not mergeable:
        note = "nothing to do: images pass unmerged" if sample.tokens else "nothing to do: no video or image"
    given, out = sample.tokens, sample.after_stage1
    return {
        "enabled": config.enable_stage1,
        "applied": config.enable_stage1 and mergeable,
        "note": note,
        "merger": config.merger if config.enable_stage1 else None,
        "original_tokens": given,
        "compressed_tokens": out,
        "static_ratio": sample.static_ratio,
        "requested_ratio": config.cluster_ratio if config.enable_stage1 else 1.0,
        "achieved_ratio": _share(out, given),
        "reduction_percentage": 100 * (1 - _share(out, given)),
    }


def _stage2(sample: SampleTrace, config: PruneVidConfig, trace: Trace) -> dict[str, Any]:
    applied = config.enable_stage2 and sample.tokens > 0
    given, out = sample.after_stage1, sample.after_stage2
    return {
        "enabled": config.enable_stage2,
        "applied": applied,
        "note": "nothing to do: no video or image" if config.enable_stage2 and not applied else None,
        "selector": config.selector if config.enable_stage2 else None,
        "layer": trace.layer if config.enable_stage2 else None,
        "original_tokens": given,
        "kept_tokens": out,
        "compressed_tokens": out,  # the same under stage 1's name for it
        "requested_ratio": config.fixed_keep_ratio if config.enable_stage2 else 1.0,
        "threshold": config.keep_threshold if config.enable_stage2 and config.fixed_keep_ratio is None else None,
        "max_ratio": config.max_keep_ratio if config.enable_stage2 else None,
        "achieved_ratio": _share(out, given),
    }


def _stage3(sample: SampleTrace, config: PruneVidConfig, trace: Trace) -> dict[str, Any]:
    asked = config.enable_cache_compression
    applied = asked and config.enable_stage2 and sample.tokens > 0
    note = None
    if asked and not applied:
        note = "nothing to do: no video or image" if config.enable_stage2 else "nothing to do: stage 2 is off"
    text = sample.length - sample.tokens
    merged, kept = text + sample.after_stage1, text + sample.after_stage2
    early = trace.layer + 1 if config.enable_stage2 else trace.layers
    lengths = [kept if applied else merged] * early + [kept] * (trace.layers - early)
    held = sum(trace.cache_lengths) * max(1, len(trace.samples))
    per_token = trace.cache_bytes / held if held else 0.0
    return {
        "enabled": asked,
        "applied": applied,
        "note": note,
        "original_length": sample.length,
        "compressed_length": lengths[0] if lengths else sample.length,
        "reduction_ratio": 1 - _share(sum(lengths), sample.length * len(lengths)),
        "cache_lengths": lengths,
        "cache_bytes": round(sum(lengths) * per_token),
        "cache_bytes_unpruned": round(sample.length * trace.layers * per_token),
    }
