"""The receipt of one answer: what each stage was asked for, what it did, what it saved and what it cost.

A stage's ``applied`` says that fewer tokens (for stage 3: cache entries) left it than came. Where it is asked for and
changed nothing, rightly, ``note`` says why: "nothing to do: ..." where there was nothing to act on or nothing was asked
of it, "nothing merged: ...", "nothing dropped: ..." where it looked and found nothing.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, is_dataclass
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_classes import names_in
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.receipt.applied import warnings_of
from prunevid_qwen.receipt.encoder_work import vision_facts
from prunevid_qwen.receipt.keys import SCHEMA, Method, Methods, PlanFacts, Stage1, Stage2, Stage3, StepRow
from prunevid_qwen.receipt.looked_at import looked_at
from prunevid_qwen.receipt.stages import Stage, Stages
from prunevid_qwen.tokens.trace import DOOR, SampleTrace, Trace
from prunevid_qwen.version import __version__
from prunevid_qwen.vision.options import vision_options

_NO_MEDIA = "nothing to do: no video or image"


def receipt(
    trace: Trace,
    row: int,
    what: PruneVidConfig | Plan,
    media: list[dict[str, Any]],
    kinds: list[str],
    prompt_tokens: int,
    about: dict[str, Any],
    seconds: dict[str, float],
    generated_tokens: int,
) -> dict[str, Any]:
    """Write the receipt of one row of a batch, see `receipt_keys`; seconds are of the whole batch.

    Args:
        trace: of the run.
        row: the sample's row among ``trace.samples``.
        what: was asked for.
        media: facts of each video and image, in order.
        kinds: "video" or "image" for each of them.
        prompt_tokens: of this sample before stage 1.
        about: model, device, dtype and attention implementation.
        seconds: "read" (until the videos are open, and then what of reading and resizing the vision encoder, which
            runs beside it, did not hide) and "total"; "vision" where the encoder ran ahead of the run that is traced.
        generated_tokens: tokens of the answer.
    """
    sample, stages = trace.samples[row], Stages.of(what)
    average = sum(sample.widths(trace.layers)) / trace.layers
    parts = {part: trace.seconds.total(part) for part in ("vision", "merge", "select", "compact", "prefill")}
    parts["vision"] += seconds.get("vision", 0.0)
    parts["prefill"] = max(0.0, parts["prefill"] - parts["merge"] - parts["select"] - parts["compact"])
    steps = trace.seconds.count("decode")
    decode = trace.seconds.total("decode")
    first = seconds["read"] + sum(parts.values())
    vision = what.vision if isinstance(what, Plan) else vision_options(what.reading)
    videos = [fact for kind, fact in zip(kinds, media, strict=True) if kind == "video"]
    looked = looked_at(sample, videos)
    return {
        "schema": SCHEMA,
        "input": {
            "videos": videos,
            "images": [fact for kind, fact in zip(kinds, media, strict=True) if kind == "image"],
            "prompt_tokens": prompt_tokens,
            "cached_tokens": 0,
        },
        "stage1": _stage1(sample, stages.door),
        "stage2": _stage2(sample, stages, trace),
        "stage3": _stage3(sample, stages, trace),
        "steps": _steps(sample, trace),
        "warnings": warnings_of(sample, what),
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
        **({"vision": vision_facts(sample, vision, parts["vision"])} if vision else {}),
        **({} if looked is None else {"looked_at": looked}),
        "generated_tokens": generated_tokens,
        "position_scheme": trace.position_scheme,
        "config": None if isinstance(what, Plan) else what.flat(),
        "methods": None if isinstance(what, Plan) else _methods(what),
        "plan": _plan(what) if isinstance(what, Plan) else None,
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
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _share(out: int, given: int) -> float:
    return out / given if given else 1.0


def _stage1(sample: SampleTrace, stage: Stage | None) -> Stage1:
    given, out = sample.tokens, sample.after_stage1
    note = None
    if stage is not None and out == given:
        note = _why_all_came(sample, stage)
    return {
        "enabled": stage is not None,
        "applied": out < given,
        "note": note,
        "merger": None if stage is None else stage.name,
        "tau": getattr(stage and stage.own, "tau", None),
        "original_tokens": given,
        "compressed_tokens": out,
        "static_ratio": sample.static_ratio,
        "requested_ratio": 1.0 if stage is None else stage.share,
        "requested_tokens": None if stage is None else stage.count,
        "achieved_ratio": _share(out, given),
        "reduction_percentage": 100 * (1 - _share(out, given)),
    }


def _stage2(sample: SampleTrace, stages: Stages, trace: Trace) -> Stage2:
    given, out = sample.widths(trace.layers)[trace.layer], sample.after_stage2  # of the last of several steps
    stage = stages.cuts[-1] if stages.cuts else None
    return {
        "enabled": stage is not None,
        "applied": out < given,
        "note": _why_the_last_kept_all(sample, stage) if stage is not None and out == given else None,
        "selector": None if stage is None else stage.name,
        "layer": None if stage is None else trace.layer,
        "original_tokens": given,
        "kept_tokens": out,
        "compressed_tokens": out,
        "requested_ratio": 1.0 if stage is None else stage.share,
        "requested_tokens": None if stage is None else stage.count,
        "threshold": None if stage is None else stage.threshold,
        "max_ratio": getattr(stage and stage.own, "max_keep_ratio", None),
        "achieved_ratio": _share(out, given),
    }


def _steps(sample: SampleTrace, trace: Trace) -> list[StepRow]:
    """Return a row for each step that acted; seconds are of the whole batch."""
    entered = [sample.tokens, *(each.map.n_out for each in sample.reductions)]
    return [
        {
            "name": each.name,
            "where": "door" if each.at == DOOR else f"layer {each.at}",
            "tokens_in": given,
            "tokens_out": each.map.n_out,
            "frames_dropped": each.frames,
            "text_dropped": 0 if each.text is None else each.text.numel(),
            "seconds": trace.seconds.of_step(each.at),
        }
        for given, each in zip(entered, sample.reductions, strict=False)
    ]


def _why_all_came(sample: SampleTrace, stage: Stage) -> str:
    if stage.selects or not sample.tokens:
        return _why_all_kept(sample, stage)
    return stage.why_unchanged(sample.blocks) or "nothing merged"


def _why_the_last_kept_all(sample: SampleTrace, stage: Stage) -> str:
    cuts = [each.map for each in sample.reductions if each.at > DOOR]
    if any(each.n_out < each.n_in for each in cuts):
        return f"nothing dropped by the last of {len(cuts)} cuts: steps say what those before it left"
    return _why_all_kept(sample, stage)


def _why_all_kept(sample: SampleTrace, stage: Stage) -> str:
    if not sample.tokens:
        return _NO_MEDIA
    count = stage.count or getattr(stage.own, "keep_tokens", None)  # as an average over layers, too
    if count is not None:
        return f"nothing to do: no video or image has more than keep_tokens={count} tokens"
    if stage.threshold is not None:
        floor = getattr(stage.own, "min_keep_tokens", None)
        least = "" if floor is None else f", or among the {floor} that are kept in any case (min_keep_tokens)"
        return f"nothing dropped: each token is above the threshold of {stage.threshold:g}{least}"
    if stage.share is None:
        return "nothing dropped: the selector kept every token"
    if stage.share == 1:
        return "nothing to do: keep_ratio=1 keeps every token"
    return "nothing to do: one token is the least that is left of a video or image"


def _stage3(sample: SampleTrace, stages: Stages, trace: Trace) -> Stage3:
    asked = stages.compress
    applied = asked and sample.after_stage2 < sample.after_stage1
    note = None
    if asked and not stages.cuts:
        note = "nothing to do: stage 2 is off"
    elif asked and not applied:
        note = "nothing to do: stage 2 dropped nothing" if sample.tokens else _NO_MEDIA
    merging = dict.fromkeys(stage.name for stage in stages.cuts if stage.merges)
    if merging and not asked and sample.tokens:
        note = f"left whole: stage 2 ({', '.join(merging)}) merges, and no row before it stands for several tokens"
    text, visual = sample.text_widths(trace.layers), sample.widths(trace.layers)
    lengths = [text[-1] + visual[-1]] * trace.layers if applied else [a + b for a, b in zip(text, visual, strict=True)]
    filled = any(trace.cache_lengths)
    without = {at for at, held in enumerate(trace.cache_lengths) if filled and not held}  # layers of linear attention
    lengths = [0 if at in without else n for at, n in enumerate(lengths)]
    keyed = len(lengths) - len(without)
    held = sum(trace.cache_lengths) * max(1, len(trace.samples))
    per_token = trace.cache_bytes / held if held else 0.0
    return {
        "enabled": asked,
        "applied": applied,
        "partial": applied and bool(without),
        "note": note,
        "original_length": sample.length,
        "compressed_length": next(filter(None, lengths), sample.length),
        "reduction_ratio": 1 - _share(sum(lengths), sample.length * keyed),
        "cache_lengths": lengths,
        "cache_bytes": round(sum(lengths) * per_token),
        "cache_bytes_unpruned": round(sample.length * keyed * per_token),
    }


def _plan(plan: Plan) -> PlanFacts:
    return {
        "steps": [{"name": step.name, "at": step.at, "options": _options(step)} for step in plan.steps],
        "compress": plan.compress,
        "places": plan.places,
        "vision_chunk_tokens": plan.vision_chunk_tokens,
        "drop_empty_frames": plan.drop_empty_frames,
        "vision": asdict(plan.vision),
    }


def _methods(config: PruneVidConfig) -> Methods:
    return {
        "merger": _method(config.merger_name, config.merger),
        "selector": _method(config.selector_name, config.selector),
    }


def _method(name: str | None, own: Any) -> Method | None:
    return None if name is None else {"name": name, "options": _own_options(own) or {}}


def _options(step: Step) -> dict[str, Any] | None:
    return _own_options(step.by if step.options is None else step.options)


def _own_options(own: Any) -> dict[str, Any] | None:
    if not is_dataclass(own):
        return None
    values = {name: getattr(own, name) for name in names_in(type(own))}
    return {name: _for_json(value) for name, value in values.items()}


def _for_json(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_for_json(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)
