"""What a pruned prompt has to give, without the hooks: one uncached forward of the stock model with explicit masks.

It takes from the trace which tokens were merged and kept, and nothing else of what the hooks did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.tokens.trace import SampleTrace

MANTISSA = 23  # bits of fp32


def decoder_inputs(model: Any, adapter: Adapter, inputs: dict[str, Any]) -> Tensor:
    """Return what the stock model hands its decoder: [1 + L, B, S, D] embeddings, and what is added after layers."""
    seen: list[Tensor] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["inputs_embeds"])
        taken = adapter.take_deepstack(dict(kwargs))
        if taken is not None:
            mask, levels = taken
            seen.extend(torch.zeros_like(seen[0]).masked_scatter(mask[..., None], level) for level in levels)

    handle = adapter.parts.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        model(**inputs)
    finally:
        handle.remove()
    return torch.stack(seen)


def masked_logits(
    model: Any,
    adapter: Adapter,
    prompt: tuple[Tensor, Tensor, Tensor],
    new: Tensor,
    sample: SampleTrace,
    compress: bool,
) -> Tensor:
    """Return the logits [1 + n, vocabulary] after the prompt and after each of the new tokens.

    A layer of linear attention, whose state forgets no token, is given those alone that are left before it.

    In layers after a cut no row sees a token that it dropped. In those before it the prompt does, and new tokens do
    only where the cache was not cut.

    Args:
        model: the stock model.
        adapter: of it.
        prompt: of one sample without padding: ids [S], embeddings and what is added after each of the first layers
            [1 + L, S, D], positions [3 or 1, S].
        new: [n] ids of the tokens that followed.
        sample: which tokens were merged and kept.
        compress: the cache was cut.
    """
    ids, embeds, positions = prompt
    is_visual = adapter.types(ids) > 0
    visual, text = is_visual.nonzero()[:, 0], (~is_visual).nonzero()[:, 0]
    own = torch.arange(visual.numel())
    target, rep = (own, own) if sample.merged is None else (sample.merged.target, sample.merged.rep)
    members = (target == torch.arange(rep.numel())[:, None]).to(embeds.dtype)  # [N', N]
    means = members / members.sum(dim=1, keepdim=True) @ embeds[:, visual]
    at = torch.cat([text, visual[rep]])
    order = at.argsort()
    start, n = order.numel(), new.numel()
    whole = torch.cat([embeds[:, text], means], dim=1)[:, order]
    hidden = torch.cat([whole[0], model.get_input_embeddings()(new)])
    following = positions[:, -1:].max() + 1 + torch.arange(n)
    places = torch.cat([positions[:, at[order]], following.expand(len(positions), -1)], dim=1)
    causal, eye = torch.ones(start + n, start + n, dtype=torch.bool).tril(), torch.eye(start + n, dtype=torch.bool)
    gone = [_gone(sample, i, rep.numel()) for i in range(len(adapter.parts.layers) + 1)]  # the last: in the end
    gone = [torch.cat([torch.zeros(text.numel(), dtype=torch.bool), each])[order] for each in gone]
    gone = [torch.cat([each, torch.zeros(n, dtype=torch.bool)]) for each in gone]
    with ExitStack() as stack:
        for i, module in enumerate(adapter.parts.layers):
            if i not in adapter.attending:
                stack.enter_context(shown_alone(module, ~gone[i]))
                continue
            allowed = causal & ~gone[i]
            if compress:
                allowed[start:] &= ~gone[-1]
            allowed |= eye
            mask = torch.zeros(allowed.shape, dtype=hidden.dtype).masked_fill(~allowed, torch.finfo(hidden.dtype).min)
            handle = module.register_forward_pre_hook(
                lambda _module, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask[None, None]}),
                with_kwargs=True,
            )
            stack.callback(handle.remove)
            if i + 1 < len(whole):
                stack.callback(module.register_forward_hook(partial(_added, whole[i + 1])).remove)
        given = places[:, None] if adapter.spatial else places
        states = adapter.parts.decoder(inputs_embeds=hidden[None], position_ids=given, use_cache=False)[0]
    logits: Tensor = model.lm_head(states[0, start - 1 :])
    return logits


@contextmanager
def shown_alone(module: Any, left: Tensor) -> Iterator[None]:
    """Let a layer see some of the tokens, [S] bool, inside the block; the others come out as they went in."""

    def before(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given.append(args[0])
        return (args[0][:, left], *args[1:]), {**kwargs, "attention_mask": None}

    def after(_module: Any, _args: Any, out: Any) -> Any:
        states = given.pop().clone()
        states[:, left] = out[0] if isinstance(out, tuple) else out
        return (states, *out[1:]) if isinstance(out, tuple) else states

    given: list[Tensor] = []
    handles = module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _added(level: Tensor, _module: Any, _args: Any, out: Any) -> Any:
    """Add [n, D] to the first n tokens of a layer's output."""
    states = out[0] if isinstance(out, tuple) else out
    states = states + torch.nn.functional.pad(level, (0, 0, 0, states.shape[1] - len(level)))
    return (states, *out[1:]) if isinstance(out, tuple) else states


def _gone(sample: SampleTrace, layer: int, count: int) -> Tensor:
    """Which of ``count`` visual tokens after stage 1 were dropped before a layer, [count] bool."""
    left = torch.arange(count)
    for each in sample.reductions:
        if 0 <= each.at < layer:
            left = left[each.map.rep]
    return torch.ones(count, dtype=torch.bool).index_fill(0, left, False)


def units_apart(got: Tensor, wanted: Tensor) -> float:
    """Return the largest difference in units in the last place of the largest number compared, as fp32 has them.

    Not a number anywhere gives infinity.
    """
    largest, apart = float(wanted.abs().max()), float((got - wanted).abs().max())
    if not math.isfinite(largest) or not math.isfinite(apart):
        return math.inf
    return apart / 2.0 ** (math.frexp(largest)[1] - 1 - MANTISSA)
