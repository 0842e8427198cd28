"""What `PrunedVLM` hands back: the answer to each prompt, what else was asked for, and the receipt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.answers.answer import Answer
from prunevid_qwen.answers.stage_log import log_stages
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.inputs.frontends import Frontend
from prunevid_qwen.inputs.qwen.media import VideoFeed
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.kept import kept_of
from prunevid_qwen.receipt import receipt
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.tokens.trace import SampleTrace, Trace


class AnsweringModel(Protocol):
    """Of a `PrunedVLM` what is read here."""

    name: str
    model: Any
    config: PruneVidConfig
    plan: Plan | None
    frontend: Frontend


def results_of(
    who: AnsweringModel,
    output: Any,
    samples: Sequence[PromptSource],
    inputs: dict[str, Any],
    trace: Trace,
    seconds: dict[str, float],
    with_stats: bool,
    asked: Sequence[str] | None = None,
    correct: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[Answer]:
    """Return a result for each prompt.

    Args:
        who: answered.
        output: of ``generate``.
        samples: the prompts.
        inputs: input_ids and attention_mask [B, S] of the prompts, among others.
        trace: of the call.
        seconds: as `receipt` takes them.
        with_stats: add the receipt.
        asked: the words of each question, if the answers are to hold which tokens were kept.
        correct: puts into each receipt what it cannot know, before it is logged.
    """
    sequences = output if not hasattr(output, "sequences") else output.sequences
    per_sample = sequences.shape[0] // len(samples)
    rows_per_sample = len(trace.samples) // len(samples)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    answers = [text.strip() for text in who.frontend.tokenizer.batch_decode(new, skip_special_tokens=True)]
    about = _about(who.name, who.model)
    results = list[Answer]()
    for i, sample in enumerate(samples):
        own = slice(i * per_sample, (i + 1) * per_sample)
        media = [medium for medium in sample.media if not isinstance(medium, VideoFeed)]
        result: dict[str, Any] = {"answer": answers[own][0]}
        if per_sample > 1:
            result["answers"] = answers[own]
        if output is not sequences:
            result["output"], result["past_key_values"] = output, cache_of(output)
        row, kept = i * rows_per_sample, None
        if asked is not None:
            facts = [medium.facts for medium in media]
            kept = kept_of(trace.samples[row], facts, asked[i], answers[own][0], who.frontend.uneven)
        if with_stats or who.config.verbose:
            stats = receipt(
                trace,
                row,
                who.config if who.plan is None else who.plan,
                with_grids(media, trace.samples[row]),
                [medium.kind for medium in media],
                int(inputs["attention_mask"][i].sum()),
                about,
                seconds,
                int((new[own][0] != who.frontend.tokenizer.pad_token_id).sum()),
            )
            correct(stats)
            if with_stats:
                result["stats"] = stats
            if who.config.verbose:
                log_stages(stats, f"sample {i + 1} of {len(samples)}, " if len(samples) > 1 else "")
        results.append(Answer.of(result, kept))
    return results


def with_grids(media: Sequence[Any], sample: SampleTrace) -> list[dict[str, Any]]:
    """Return the facts of media, with their grid of tokens where the reader did not know it: of parts the first."""
    left = {
        kind: [each for each in sample.blocks if each.kind == kind and not each.part] for kind in ("video", "image")
    }
    if any(sum(medium.kind == kind for medium in media) != len(blocks) for kind, blocks in left.items()):
        return [medium.facts for medium in media]
    return [{"grid": list(left[medium.kind].pop(0).grid), **medium.facts} for medium in media]


def _about(name: str, model: Any) -> dict[str, str]:
    """Return what a receipt says of a model: its name, device, dtype and attention implementation."""
    return {
        "model": name,
        "device": str(input_device(model)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attn_implementation": model.config._attn_implementation,
    }
