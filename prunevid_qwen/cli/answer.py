"""Loading a model and answering a request, with pruning or side by side without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.cli.request import Request

Stats = dict[str, Any]
_WARM_UP_TOKENS = 2
_NOTICEABLE = 1.05  # less than that is noise in single runs
_SHORT_PROMPT = 2000  # tokens; below it the decoder is not what takes the time


@dataclass(frozen=True)
class Outcome:
    """An answer and its receipt; under --compare also those of the unpruned model and what to conclude.

    Args:
        answer, stats: as ``PruneVidQwen25VL.generate(return_stats=True)`` gives them.
        baseline: the same two of the unpruned model, or None.
        verdict: one plain sentence on whether pruning was faster, or None.
    """

    answer: str
    stats: Stats
    baseline: dict[str, Any] | None = None
    verdict: str | None = None


def load(request: Request) -> Any:
    """Load the model a request names."""
    from transformers.utils import logging

    from prunevid_qwen import PruneVidQwen25VL

    if not request.verbose:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    loading = {name: value for name, value in request.loading.items() if value is not None}
    return PruneVidQwen25VL.from_pretrained(request.model_path, config=request.config, **loading)


def answer(
    model: Any,
    request: Request,
    stream: Callable[[Any], Any] = lambda model: None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Answer a request.

    Args:
        model: what `load` returned.
        request: the question and the media.
        stream: given the model, returns a transformers streamer to hand each token to, or None.
        progress: called with the frames encoded so far and those of all videos.
    """
    result = _generate(model, request, stream(model), progress)
    return Outcome(result["answer"], result["stats"])


def compare(model: Any, request: Request) -> Outcome:
    """Answer with and without pruning, each once unmeasured before it is measured."""
    off = {"enable_stage1": False, "enable_stage2": False, "enable_cache_compression": False}
    unpruned = model.with_config(request.config.replace(**off))
    short = dataclasses.replace(request, max_new_tokens=min(_WARM_UP_TOKENS, request.max_new_tokens))
    for warmed in (model, unpruned):
        _generate(warmed, short)
    pruned, full = _generate(model, request), _generate(unpruned, request)
    return Outcome(pruned["answer"], pruned["stats"], full, verdict(pruned["stats"], full["stats"]))


def _generate(
    model: Any, request: Request, streamer: Any = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    videos = list(request.videos)
    result: dict[str, Any] = model.generate(
        video_path=(videos[0] if len(videos) == 1 else videos) or None,
        images=list(request.images) or None,
        question=request.question,
        start=request.start,
        end=request.end,
        max_new_tokens=request.max_new_tokens,
        return_stats=True,
        streamer=streamer,
        progress=progress,
    )
    return result


def seconds_of(stats: Stats, *parts: str) -> float:
    """Return the seconds that some parts of a run took together; a part that did not run took none."""
    return sum(float(stats["seconds"].get(part) or 0.0) for part in parts)


def first_token_seconds(stats: Stats) -> float:
    """Return the seconds from the call to the first token."""
    if stats["seconds"].get("first_token"):
        return float(stats["seconds"]["first_token"])
    return seconds_of(stats, "read", "vision", "merge", "prefill", "select", "compact")


def verdict(pruned: Stats, full: Stats) -> str:
    """Say in one sentence whether pruning made the first token come sooner, and why not where it did not."""
    ours, theirs = first_token_seconds(pruned), first_token_seconds(full)
    if ours <= 0 or theirs <= 0:
        return "No timings to compare."
    if theirs / ours >= _NOTICEABLE:
        decoder = seconds_of(full, "prefill") / max(seconds_of(pruned, "merge", "prefill", "select", "compact"), 1e-9)
        return (
            f"Pruned is faster: first token {theirs / ours:.2f}x sooner, {ours:.2f} s instead of {theirs:.2f} s "
            f"(the decoder's part of it {decoder:.2f}x)."
        )
    reasons = []
    before = seconds_of(full, "read", "vision") / theirs
    if before >= 0.5:
        reasons.append(f"reading the video and the vision encoder, which pruning leaves alone, are {before:.0%} of it")
    choosing = seconds_of(pruned, "merge", "select", "compact")
    if choosing > 0.2 * ours:
        reasons.append(f"choosing the tokens itself takes {choosing:.2f} s")
    prompt = int(full["input"]["prompt_tokens"])
    if prompt < _SHORT_PROMPT:
        reasons.append(f"the prompt is short ({prompt} tokens)")
    because = ", because " + " and ".join(reasons) if reasons else ""
    return f"Not faster here: first token after {ours:.2f} s, unpruned {theirs:.2f} s{because}."
