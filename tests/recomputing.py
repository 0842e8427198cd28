"""The oracle of merging between layers: recompute without a cache, layer by layer, with the recorded maps.

Masking cannot stand for a merge, since a merged token is none of those that came. Here each sample runs through the
layers over [prompt + generated tokens]; after a layer with a step the prompt's visual tokens are replaced by what its
map makes of them, entry by entry, and every layer sees what it is given, with a causal mask. It shares no code with the
hooks but the maps they decided. As the caches of the layers before a step stay whole, decoding has to equal it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.tokens.trace import Trace
from tests.masking import rows_of, runs_of, text_inputs
from tests.models import make_inputs, tiny_model

KEPT = Plan(compress=False)


def recomputed(
    samples: Any, sequences: Tensor, trace: Trace, family: str = "qwen2_5_vl", plan: Plan = KEPT
) -> list[Tensor]:
    """Logits [new tokens, vocabulary] of every sample, for the token after the prompt and each one after it.

    Args:
        samples: of `make_inputs`.
        sequences: as generated.
        trace: of the prompt.
        family: of the model.
        plan: with packed places, positions are counted anew after each step, for new tokens too; where it compresses,
            and only drops, new tokens do not see in any layer what a step dropped.
    """
    model, inputs = tiny_model("eager", family), make_inputs(samples, family=family)
    embeds, _ = text_inputs(model, make_inputs(samples, family=family))
    positions = rows_of(adapter_for(model).reference_positions(**inputs)[0], len(embeds))
    return [_row(model, inputs, embeds, positions, sequences, b, trace, plan) for b in range(len(trace.samples))]


@torch.no_grad()
def _row(
    model: Any, inputs: dict[str, Any], embeds: Tensor, positions: Tensor, sequences: Tensor, b: int, trace: Trace,
    plan: Plan,
) -> Tensor:  # fmt: skip
    decoder, steps = model.model.language_model, {each.at: each.map for each in trace.samples[b].reductions}
    at = inputs["attention_mask"][b].nonzero()[:, 0]
    new = sequences[b, inputs["input_ids"].shape[1] : -1]
    states, place = list(embeds[b, at]), list(positions[:, b, at].unbind(1))
    marks = [getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video")]
    kinds = [token in marks for token in inputs["input_ids"][b, at].tolist()]
    blocks = [len(run) for run in runs_of(trace.samples[b], [i for i, kind in enumerate(kinds) if kind])]
    dim = model.get_input_embeddings().embedding_dim
    numbers, origin = list(torch.arange(len(states))), place[0]
    tail, after = list(model.get_input_embeddings()(new)), []

    def reduce(at: int) -> None:
        nonlocal states, place, kinds, blocks, numbers, after
        numbers = _reduced(numbers, numbers, kinds, blocks, steps[at])[1]
        states, place, kinds, blocks = _reduced(states, place, kinds, blocks, steps[at])
        if plan.places == "packed":
            place = [origin + i for i in range(len(states))]
            after = [origin + len(states) + i for i in range(len(new))]

    if -1 in steps:
        reduce(-1)
    numbers = list(torch.arange(len(states)))
    cuts = {at: done for at, done in steps.items() if at >= 0}
    left = _left(numbers, kinds, blocks, cuts) if plan.compress else None
    if plan.places == "kept" or -1 not in steps:
        following = max(int(each.max()) for each in place) + 1
        after = [torch.full_like(origin, following + i) for i in range(len(new))]
    for i, layer in enumerate(decoder.layers):
        hidden = torch.stack([*(state[:dim] for state in states), *tail])[None]
        ids = torch.stack([*place, *after], 1)[:, None]  # [R, 1, S]
        angles = decoder.rotary_emb(hidden, ids if len(ids) > 1 else ids[0])
        total = hidden.shape[1]
        mask: Any = torch.full((total, total), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        if left is not None:
            mask[..., len(states) :, [j for j, number in enumerate(numbers) if int(number) not in left]] = mask.min()
        if not hasattr(layer, "self_attn"):  # linear attention: it sees what it is given, in order
            mask = None
        out = layer(hidden, attention_mask=mask, position_embeddings=angles, position_ids=None)
        rows = list((out[0] if isinstance(out, tuple) else out)[0])
        first = slice(dim * (i + 1), dim * (i + 2))  # what is added after this layer, where there is anything left
        rests = [(state[first] if len(state) > first.start else 0, state[dim:]) for state in states]
        states = [torch.cat([row + more, rest]) for row, (more, rest) in zip(rows, rests, strict=False)]
        tail = rows[len(states) :]
        if i in steps:
            reduce(i)
    logits: Tensor = model.lm_head(decoder.norm(torch.stack([states[-1][:dim], *tail])))
    return logits


def _left(numbers: list[Tensor], kinds: list[bool], blocks: list[int], steps: dict[int, Any]) -> set[int]:
    """Which tokens of the prompt are left in the end, where steps only drop."""
    for at in sorted(steps):
        assert steps[at].is_selection
        _, numbers, kinds, blocks = _reduced(numbers, numbers, kinds, blocks, steps[at])
    return {int(number) for number in numbers}


def _reduced(
    states: list[Tensor], place: list[Tensor], kinds: list[bool], blocks: list[int], done: Any
) -> tuple[list[Tensor], list[Tensor], list[bool], list[int]]:
    """Put what a map makes of the tokens of a run, part of a block, where the first of these stood, in its order."""
    visual = [i for i, kind in enumerate(kinds) if kind]
    target, groups = done.target.tolist(), done.rep.tolist()
    made = []
    for group in range(len(groups)):
        if done.mix is None:
            parts = [(i, 1 / target.count(group)) for i, t in enumerate(target) if t == group]
        else:
            entries = zip(done.mix.source.tolist(), done.mix.group.tolist(), done.mix.weight.tolist(), strict=True)
            parts = [(source, weight) for source, g, weight in entries if g == group]
        made.append(sum(weight * states[visual[source]] for source, weight in parts))
    of_block = [number for number, size in enumerate(blocks) for _ in range(size)]
    out: tuple[list[Any], list[Any], list[bool]] = ([], [], [])
    sizes = [0] * len(blocks)
    starts = {visual[sum(blocks[:number])]: number for number in range(len(blocks)) if blocks[number]}
    for i, kind in enumerate(kinds):
        if not kind:
            for to, value in zip(out, (states[i], place[i], False), strict=True):
                to.append(value)
        if i in starts:
            for group, rep in enumerate(groups):
                if of_block[rep] == starts[i]:
                    sizes[starts[i]] += 1
                    for to, value in zip(out, (made[group], place[visual[rep]], True), strict=True):
                        to.append(value)
    return (*out, sizes)
