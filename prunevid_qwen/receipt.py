"""The receipt of one answer: what each stage was asked for, what it did, what it saved and what it cost.

A stage's ``applied`` says that fewer tokens (for stage 3: cache entries) left it than came. Where it is asked for and
changed nothing, rightly, ``note`` says why: "nothing to do: ..." where there was nothing to act on or nothing was asked
of it, "nothing merged: ...", "nothing dropped: ..." where it looked and found nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import prunevid_qwen.stage1_merge  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen.amounts import percent
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.reducer import Reducer, made_by, says, why_unchanged
from prunevid_qwen.trace import DOOR, SampleTrace, Trace
from prunevid_qwen.version import __version__

_NO_MEDIA = "nothing to do: no video or image"
_LEAST_SHARE = 0.01  # of the visual tokens; what answers with less is said in a warning


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
            raise PruningNotApplied(f"stage 1 ({config.merger_name}) was asked for, but did not see sample {number}")
        lever = says(config.merger, 1).lever
        spends = lever is None or getattr(config.merger, lever) != 1
        all_through = sample.merged is not None and sample.merged.is_identity and spends
        if config.enable_stage1 and all_through and why_unchanged(_merger(config), sample.blocks) is None:
            lever = lever if _count(config.merger) is None else "keep_tokens"
            at = "" if lever is None else f" at {lever}={getattr(config.merger, lever)}"
            raise PruningNotApplied(
                f"merger {config.merger_name!r}{at} was asked for, all {sample.tokens} tokens of sample {number} came "
                "through"
            )
        if config.enable_stage2 and sample.kept is None:
            raise PruningNotApplied(f"stage 2 ({config.selector_name}) was asked for, but did not see sample {number}")
        asked = config.fixed_keep_ratio
        if asked is None:  # a threshold may keep all; a cap may not be passed
            asked = config.max_keep_ratio or 1.0
        least, count = len(sample.blocks) * config.min_keep_tokens, _count(config.selector)
        most = int(sample.after_stage1 * asked) if count is None else len(sample.blocks) * count
        spare = sample.after_stage1 - max(least, most)
        if sample.kept is not None and sample.kept.is_identity and spare > 1:
            what = f"a share of {asked:g}" if count is None else f"at most {count} of each video and image"
            raise PruningNotApplied(f"{what} of {sample.after_stage1} tokens was asked for, all were kept")


def warnings_of(sample: SampleTrace, config: PruneVidConfig) -> list[str]:
    """Say in words after which stages hardly any visual tokens were left: less than a video needs to be seen at all.

    That is fewer than one a temporal position (an image has one), or less than 1 % of all.
    """
    positions = sum(block.grid[0] for block in sample.blocks)
    said = []
    for stage, given, left in ((1, sample.tokens, sample.after_stage1), (2, sample.after_stage1, sample.after_stage2)):
        if left == given:
            continue
        few = [f"fewer than one for each of {positions} temporal positions"] if left < positions else []
        few += [f"{percent(left / sample.tokens)} of all"] if left < _LEAST_SHARE * sample.tokens else []
        if few:
            said.append(
                f"stage {stage} left {left} of {sample.tokens} visual tokens, {' and '.join(few)}: the answer may miss "
                f"most of what was shown. {_more(stage, config)}".rstrip()
            )
    return said


def _count(own: Any) -> int | None:
    """The tokens of each video and image that a method is asked to leave, where its budget is a count."""
    count: int | None = getattr(own, "keep_tokens", None)
    return None if getattr(own, "averages", False) else count


def _more(stage: int, config: PruneVidConfig) -> str:
    own = config.selector if stage == 2 else config.merger
    if _count(own) is not None:
        return f"A keep_tokens above {_count(own)} keeps more"
    if stage == 2 and config.fixed_keep_ratio is None and getattr(own, "keep_threshold", None) is not None:
        return f"A keep_threshold below {config.keep_threshold:g} keeps more"
    lever = says(own, stage).lever
    value = None if lever is None else getattr(own, lever)
    return "" if value is None else f"A {lever} above {value:g} keeps more"


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
            runs beside it, did not hide) and "total"; "vision" where the encoder ran ahead of the run that is traced.
        generated_tokens: tokens of the answer.
    """
    sample = trace.samples[row]
    average = sum(sample.widths(trace.layers)) / trace.layers
    parts = {part: trace.seconds.total(part) for part in ("vision", "merge", "select", "compact", "prefill")}
    parts["vision"] += seconds.get("vision", 0.0)
    parts["prefill"] = max(0.0, parts["prefill"] - parts["merge"] - parts["select"] - parts["compact"])
    steps = trace.seconds.count("decode")
    decode = trace.seconds.total("decode")
    first = seconds["read"] + sum(parts.values())
    return {
        "input": {
            "videos": [fact for kind, fact in zip(kinds, media, strict=True) if kind == "video"],
            "images": [fact for kind, fact in zip(kinds, media, strict=True) if kind == "image"],
            "prompt_tokens": prompt_tokens,
            "cached_tokens": 0,
        },
        "stage1": _stage1(sample, config),
        "stage2": _stage2(sample, config, trace),
        "stage3": _stage3(sample, config, trace),
        "steps": _steps(sample, trace),
        "warnings": warnings_of(sample, config),
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
        "config": config.flat(),
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


def _merger(config: PruneVidConfig) -> Reducer:
    return made_by(config.merger, 1, config)


def _stage1(sample: SampleTrace, config: PruneVidConfig) -> dict[str, Any]:
    merger = _merger(config) if config.enable_stage1 else None
    given, out, count = sample.tokens, sample.after_stage1, _count(config.merger)
    note = None
    if merger is not None and out == given:
        note = (why_unchanged(merger, sample.blocks) or "nothing merged") if given else _NO_MEDIA
    return {
        "enabled": config.enable_stage1,
        "applied": out < given,
        "note": note,
        "merger": config.merger_name,
        "tau": getattr(merger, "tau", None),
        "original_tokens": given,
        "compressed_tokens": out,
        "static_ratio": sample.static_ratio,
        "requested_ratio": 1.0 if merger is None else None if count else getattr(merger, "cluster_ratio", None),
        "requested_tokens": count,
        "achieved_ratio": _share(out, given),
        "reduction_percentage": 100 * (1 - _share(out, given)),
    }


def _stage2(sample: SampleTrace, config: PruneVidConfig, trace: Trace) -> dict[str, Any]:
    given, out = sample.widths(trace.layers)[trace.layer], sample.after_stage2  # of the last of several steps
    return {
        "enabled": config.enable_stage2,
        "applied": out < given,
        "note": _why_all_kept(sample, config) if config.enable_stage2 and out == given else None,
        "selector": config.selector_name,
        "layer": trace.layer if config.enable_stage2 else None,
        "original_tokens": given,
        "kept_tokens": out,
        "compressed_tokens": out,  # the same under stage 1's name for it
        "requested_ratio": config.fixed_keep_ratio if config.enable_stage2 else 1.0,
        "requested_tokens": _count(config.selector),
        "threshold": getattr(config.selector, "keep_threshold", None) if config.fixed_keep_ratio is None else None,
        "max_ratio": config.max_keep_ratio if config.enable_stage2 else None,
        "achieved_ratio": _share(out, given),
    }


def _steps(sample: SampleTrace, trace: Trace) -> list[dict[str, Any]]:
    """Return a row for each step that acted; seconds are of the whole batch."""
    entered = [sample.tokens, *(each.map.n_out for each in sample.reductions)]
    return [
        {
            "name": each.name,
            "where": "door" if each.at == DOOR else f"layer {each.at}",
            "tokens_in": given,
            "tokens_out": each.map.n_out,
            "seconds": trace.seconds.of_step(each.at),
        }
        for given, each in zip(entered, sample.reductions, strict=False)
    ]


def _why_all_kept(sample: SampleTrace, config: PruneVidConfig) -> str:
    if not sample.tokens:
        return _NO_MEDIA
    if _count(config.selector) is not None:
        return f"nothing to do: no video or image has more than keep_tokens={_count(config.selector)} tokens"
    if config.fixed_keep_ratio is None and getattr(config.selector, "keep_threshold", None) is None:
        return "nothing dropped: the selector kept every token"
    if config.fixed_keep_ratio is None:
        return (
            f"nothing dropped: each token is above the threshold of {config.keep_threshold:g}, or among the "
            f"{config.min_keep_tokens} that are kept in any case (min_keep_tokens)"
        )
    if config.fixed_keep_ratio == 1:
        return "nothing to do: keep_ratio=1 keeps every token"
    return "nothing to do: one token is the least that is left of a video or image"


def _stage3(sample: SampleTrace, config: PruneVidConfig, trace: Trace) -> dict[str, Any]:
    asked = config.enable_cache_compression
    applied = asked and sample.after_stage2 < sample.after_stage1
    note = None
    if asked and not config.enable_stage2:
        note = "nothing to do: stage 2 is off"
    elif asked and not applied:
        note = "nothing to do: stage 2 dropped nothing" if sample.tokens else _NO_MEDIA
    elif not asked and getattr(config.selector, "merges_inside", False):
        note = f"left whole: stage 2 ({config.selector_name}) merges, and no row before it stands for several tokens"
    text = sample.length - sample.tokens
    lengths = [text + n for n in ([sample.after_stage2] * trace.layers if applied else sample.widths(trace.layers))]
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
