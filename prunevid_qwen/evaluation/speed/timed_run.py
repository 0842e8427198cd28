"""One measured run: the time of each token with nothing hooked, the time of each part, the peak of its memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.tokens.timestamps import Stopwatch, Timestamp
from prunevid_qwen.tokens.trace import Trace

NOT_MEASURED = "not measured: needs CUDA or Linux"


class TimedParts(NamedTuple):
    """What `timed_parts` saw."""

    seconds: dict[str, float]  # of each part up to the first token
    trace: Trace | None  # of `pruned`; None for the stock model
    cache: Any  # as the decoder left it


class _TokenStamps(StoppingCriteria):
    """Notes the moment after each token was chosen; never stops anything, never waits for the device."""

    def __init__(self) -> None:
        self.moments: list[Timestamp] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.moments.append(Timestamp.now(input_ids.device))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class _Timed(NamedTuple):
    moments: list[Timestamp]  # the start, after each token, the end
    new: Tensor  # the new tokens, [B, n]
    trace: Trace | None
    spans: Stopwatch  # of the watched modules
    output: dict[str, Any]  # what they returned last


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _run(
    model: Any, inputs: dict[str, Any], config: PruneVidConfig | None, new_tokens: int, watched: dict[str, list[Any]]
) -> _Timed:
    """Generate greedily, whatever the model's own settings say, exactly ``new_tokens`` tokens; hook what is watched."""
    device, before = inputs["input_ids"].device, model.generation_config
    spans, open_calls, outputs, stamps = Stopwatch(), dict[str, Timestamp](), dict[str, Any](), _TokenStamps()

    def enters(name: str, _module: Any, _args: Any) -> None:
        open_calls.setdefault(name, Timestamp.now(device))  # the outermost call, where one is inside another

    def leaves(name: str, _module: Any, _args: Any, out: Any) -> None:
        spans.add(name, open_calls.pop(name), Timestamp.now(device))
        outputs[name] = out

    with torch.inference_mode(), ExitStack() as stack:
        each = [(name, module) for name, modules in watched.items() for module in modules]
        for name, module in each:  # before the hooks of `pruned`, which are part of what is timed
            stack.callback(module.register_forward_pre_hook(partial(enters, name)).remove)
        model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
        stack.callback(setattr, model, "generation_config", before)
        synchronise(device)
        start = Timestamp.now(device)
        trace = None if config is None else stack.enter_context(pruned(model, config))
        for name, module in each:  # after them
            stack.callback(module.register_forward_hook(partial(leaves, name)).remove)
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=new_tokens, stopping_criteria=StoppingCriteriaList([stamps])
        )
        stack.close()
        synchronise(device)
        end = Timestamp.now(device)
    new = output[:, inputs["input_ids"].shape[1] :]
    if new.shape[1] != new_tokens or len(stamps.moments) != new_tokens:
        raise SetupError(f"{new_tokens} tokens were asked for, {new.shape[1]} came: the answers are not comparable")
    return _Timed([start, *stamps.moments, end], new, trace, spans, outputs)


def timed_tokens(
    model: Any, inputs: dict[str, Any], config: PruneVidConfig | None, new_tokens: int
) -> tuple[dict[str, float], Tensor]:
    """Time a whole `generate` with nothing of the benchmark hooked on the model; None is the stock model.

    Entering and leaving `pruned` is part of the time: it is part of every answer.

    Returns:
        Seconds: ``first_token`` (tensors on the device to the first token chosen), ``decode_per_token`` = (last -
        first) / (n - 1), ``end_to_end``; and the new tokens [B, n].

    Raises:
        SetupError: the answer has another length.
    """
    run = _run(model, inputs, config, new_tokens, {})
    start, first, *_, end = run.moments
    return {
        "first_token": start.seconds_until(first),
        "decode_per_token": first.seconds_until(run.moments[-2]) / (new_tokens - 1) if new_tokens > 1 else 0.0,
        "end_to_end": start.seconds_until(end),
    }, run.new


def timed_parts(model: Any, inputs: dict[str, Any], config: PruneVidConfig | None) -> TimedParts:
    """Time the parts of the way to the first token, by hooks around the stock modules; None is the stock model.

    Returns:
        Seconds: ``vision`` (the towers, and the projector where it stands apart), ``decoder`` (all of it: stages, hooks
        and layers), of it ``stage1``, ``stage2``, ``stage3`` and what is left, ``layers``; ``lm_head``; ``rest`` up to
        the first token chosen (positions, embedding, Python between the parts); ``first_token``, all together.
    """
    parts = adapter_for(model).parts
    projector = getattr(parts.root, "multi_modal_projector", None)
    seeing = [*dict.fromkeys(parts.towers.values()), *([] if projector is None else [projector])]
    watched = {"vision": seeing, "decoder": [parts.decoder], "lm_head": [model.get_output_embeddings()]}
    run = _run(model, inputs, config, 1, watched)
    seconds = {name: run.spans.total(name) for name in watched}
    for stage, name in (("stage1", "merge"), ("stage2", "select"), ("stage3", "compact")):
        seconds[stage] = 0.0 if run.trace is None else run.trace.seconds.total(name)
    seconds["layers"] = seconds["decoder"] - seconds["stage1"] - seconds["stage2"] - seconds["stage3"]
    seconds["first_token"] = run.moments[0].seconds_until(run.moments[1])
    seconds["rest"] = seconds["first_token"] - seconds["vision"] - seconds["decoder"] - seconds["lm_head"]
    return TimedParts(seconds, run.trace, cache_of(run.output["decoder"]))


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure the peak of what runs inside the block: the allocator's count on CUDA, the process's on Linux.

    Yields: ``how`` it is counted; in bytes, None where they cannot be counted, what is in use ``before`` (weights,
        inputs, libraries) and, when the block has ended, the most during it, ``peak``, and the difference, ``above``.
    """
    gc.collect()
    found: dict[str, Any] = {"how": NOT_MEASURED, "before": None, "peak": None, "above": None}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        found |= {"how": "torch.cuda.max_memory_allocated", "before": torch.cuda.memory_allocated(device)}
        yield found
        torch.cuda.synchronize(device)
        found["peak"] = torch.cuda.max_memory_allocated(device)
    else:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)  # what the C library holds free would hide the first megabytes of the work
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is resident
        except OSError:  # another system, or a container that forbids it
            yield found
            return
        how = "peak resident size of the process (VmHWM), reset before the run"
        found |= {"how": how, "before": _resident("VmRSS")}
        yield found
        found["peak"] = _resident("VmHWM")
    found["above"] = found["peak"] - found["before"]


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith(f"{name}:"))
