"""One timed run: token by token with nothing hooked, or part by part. No synchronisation but before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.tokens.trace import Timestamp, Trace

LOW, HIGH = 0.2, 0.8


@dataclass(frozen=True)
class Quantiles:
    """The middle of some values and how far they spread.

    Args:
        median, low, high: the 0.5, 0.2 and 0.8 quantiles.
        n: how many values.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Any) -> Quantiles:
        """Summarise at least one value."""
        low, median, high = (float(q) for q in np.quantile(np.asarray(values, dtype=np.float64), (LOW, 0.5, HIGH)))
        return cls(median, low, high, len(values))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)


class TokenStamps(StoppingCriteria):
    """Notes the moment after each token was chosen; never stops anything, never waits for the device."""

    def __init__(self) -> None:
        self.moments: list[Timestamp] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Note the moment."""
        self.moments.append(Timestamp.now(input_ids.device))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def fixed_length(model: Any) -> Iterator[None]:
    """Take the model's own ideas of generation away, so that every answer is greedy and as long as asked."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = before


def generate(model: Any, inputs: dict[str, Any], new_tokens: int, stamps: TokenStamps) -> Tensor:
    """Generate exactly ``new_tokens`` tokens greedily, stamping each.

    Raises:
        SetupError: the answer has another length.
    """
    output = model.generate(
        **inputs, do_sample=False, max_new_tokens=new_tokens, stopping_criteria=StoppingCriteriaList([stamps])
    )
    new: Tensor = output[:, inputs["input_ids"].shape[1] :]
    if new.shape[1] != new_tokens or len(stamps.moments) != new_tokens:
        raise SetupError(f"{new_tokens} tokens were asked for, {new.shape[1]} came: the answers are not comparable")
    return new


def timed_tokens(
    model: Any, inputs: dict[str, Any], config: PruneVidConfig | None, new_tokens: int
) -> tuple[dict[str, float], Tensor]:
    """Time a whole `generate` with nothing of the benchmark hooked on the model; None is the stock model.

    Entering and leaving `pruned` is part of the time: it is part of every answer.

    Returns:
        Seconds: ``first_token`` (tensors on the device to the first token chosen), ``decode_per_token`` = (last -
        first) / (n - 1), ``end_to_end``; and the new tokens [B, n].
    """
    device, stamps = inputs["input_ids"].device, TokenStamps()
    with fixed_length(model), torch.inference_mode(), ExitStack() as stack:
        synchronise(device)
        start = Timestamp.now(device)
        if config is not None:
            stack.enter_context(pruned(model, config))
        new = generate(model, inputs, new_tokens, stamps)
        stack.close()
        synchronise(device)
        end = Timestamp.now(device)
    first, last = stamps.moments[0], stamps.moments[-1]
    decode = first.seconds_until(last) / (new_tokens - 1) if new_tokens > 1 else 0.0
    return {
        "first_token": start.seconds_until(first),
        "decode_per_token": decode,
        "end_to_end": start.seconds_until(end),
    }, new


class Spans:
    """Times modules from outside: from before every other hook of a module to after them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pairs: dict[str, list[tuple[Timestamp, Timestamp]]] = {}
        self.output: dict[str, Any] = {}
        self._open: dict[str, Timestamp] = {}

    def begin(self, stack: ExitStack, name: str, module: nn.Module) -> None:
        """Hook a module's start; before whoever else hooks it."""

        def start(_module: nn.Module, _args: Any) -> None:
            self._open.setdefault(name, Timestamp.now(self.device))  # the outermost call, where one is inside another

        stack.callback(module.register_forward_pre_hook(start).remove)

    def end(self, stack: ExitStack, name: str, module: nn.Module) -> None:
        """Hook a module's end; after whoever else hooks it."""

        def stop(_module: nn.Module, _args: Any, out: Any) -> None:
            self.pairs.setdefault(name, []).append((self._open.pop(name), Timestamp.now(self.device)))
            self.output[name] = out

        stack.callback(module.register_forward_hook(stop).remove)

    def total(self, name: str) -> float:
        """Seconds in a module."""
        return sum(start.seconds_until(stop) for start, stop in self.pairs.get(name, []))


@dataclass(frozen=True)
class Parts:
    """What `timed_parts` saw.

    Args:
        seconds: of each part up to the first token.
        trace: of `pruned`; None for the stock model.
        cache: what the decoder left in the cache.
    """

    seconds: dict[str, float]
    trace: Trace | None
    cache: Any


def timed_parts(model: Any, inputs: dict[str, Any], config: PruneVidConfig | None) -> Parts:
    """Time the parts of the way to the first token, by hooks around the stock modules; None is the stock model.

    Returns:
        Seconds: ``vision`` (the tower), ``decoder`` (all of it: stages, hooks and layers), of it ``stage1``,
        ``stage2``, ``stage3`` and what is left, ``layers``; ``lm_head``; ``rest`` up to the first token chosen
        (positions, embedding, Python between the parts); ``first_token``, all together.
    """
    parts, device, stamps = adapter_for(model).parts, inputs["input_ids"].device, TokenStamps()
    spans, head = Spans(device), model.get_output_embeddings()
    watched = {"vision": parts.vision, "decoder": parts.decoder, "lm_head": head}
    trace = None
    with fixed_length(model), torch.inference_mode(), ExitStack() as stack:
        for name, module in watched.items():
            spans.begin(stack, name, module)
        synchronise(device)
        start = Timestamp.now(device)
        if config is not None:
            trace = stack.enter_context(pruned(model, config))
        for name, module in watched.items():
            spans.end(stack, name, module)
        generate(model, inputs, 1, stamps)
        synchronise(device)
    seconds = {name: spans.total(name) for name in watched}
    for name, part in (("stage1", "merge"), ("stage2", "select"), ("stage3", "compact")):
        seconds[name] = 0.0 if trace is None else trace.seconds.total(part)
    seconds["layers"] = seconds["decoder"] - seconds["stage1"] - seconds["stage2"] - seconds["stage3"]
    seconds["first_token"] = start.seconds_until(stamps.moments[0])
    seconds["rest"] = seconds["first_token"] - seconds["vision"] - seconds["decoder"] - seconds["lm_head"]
    return Parts(seconds, trace, cache_of(spans.output["decoder"]))
