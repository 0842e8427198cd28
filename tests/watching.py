"""A forward with what its layers really made: the law of what a reducer is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import Trace


class Notes:
    """Keeps a share and writes down what it saw."""

    def __init__(self, needs: Needs, keep_ratio: float = 1.0) -> None:
        self.needs, self.by = needs, Uniform(keep_ratio)
        self.seen: list[Evidence] = []

    def plan(self, seen: Evidence) -> TokenMap:
        self.seen.append(seen)
        return self.by.plan(seen)


@dataclass
class Made:
    """What the layers of one forward made, each layer in order."""

    embeds: Tensor  # what the decoder is given, before any step
    weights: list[Tensor] = field(default_factory=list)  # [B, H, S, keys] of an eager model
    outputs: list[Tensor] = field(default_factory=list)  # [B, S, D] as they go on
    projected: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # queries and keys before rotary embedding
    trace: Trace | None = None
    cache: Any = None


@torch.no_grad()
def watched(model: Any, inputs: dict[str, Any], plan: Plan, marks: Any = None, **given: Any) -> Made:
    """Run the model once inside `pruned`, and note what its layers do."""
    made, decoder = Made(torch.empty(0)), model.model.language_model
    halves: list[Tensor] = []

    def door(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        made.embeds = kwargs["inputs_embeds"]

    handles = [decoder.register_forward_pre_hook(door, with_kwargs=True)]
    for layer in decoder.layers:
        attention = getattr(layer, "self_attn", None)
        if attention is None:  # linear attention has no weights
            handles.append(layer.register_forward_hook(lambda _m, _a, _out: made.weights.append(torch.empty(0))))
            continue
        handles += [
            attention.register_forward_hook(lambda _m, _a, out: made.weights.append(out[1])),
            attention.q_proj.register_forward_hook(lambda _m, _a, out: halves.append(out)),
            attention.k_proj.register_forward_hook(lambda _m, _a, out: halves.append(out)),
        ]
    try:
        with pruned(model, plan, marks) as made.trace:
            for layer in decoder.layers:  # after ours: what really goes on
                handles.append(layer.register_forward_hook(lambda _m, _a, out: made.outputs.append(out)))
            made.cache = cache_of(model(**inputs, **given))
    finally:
        for handle in handles:
            handle.remove()
    whole = [each for each in halves if each.ndim == 3]  # ours are of one row each
    made.projected = list(zip(whole[::2], whole[1::2], strict=True))
    return made
