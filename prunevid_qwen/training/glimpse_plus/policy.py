"""The policy: a model that answers while only what lies in the boxes is left after layer M. Knows nothing of trl.

Answers are drawn, and the probabilities of drawn answers computed, by the same function: a prompt pruned after layer M,
and an answer on the cache that is left. So training is on-policy. The authors' is not: they compute the probability of
all but an answer's first token with the dropped tokens left out from the first layer on, which is another function than
the one that they drew from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prunevid_qwen.adapters import adapter_for, visual_tokens
from prunevid_qwen.adapters.seams import cache_of, cache_parameter
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.receipt import check_applied


@dataclass(frozen=True, eq=False)
class Prompts:
    """Some questions, each about a picture or video of its own.

    Args:
        inputs: as `Preprocessor.batch` makes them, padded on the left.
        marks: for each question [N] over its visual tokens: 1 for those that it is answered from, else 0.
    """

    inputs: dict[str, Tensor]
    marks: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> Prompts:
        """Return the same prompts on ``device``."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Prompts(inputs, tuple(marks.to(device) for marks in self.marks))

    def ids(self, row: int) -> list[int]:
        """Return the token ids of a prompt without its padding."""
        held: list[int] = self.inputs["input_ids"][row][self.inputs["attention_mask"][row].bool()].tolist()
        return held


@dataclass(frozen=True)
class Drawn:
    """An answer as it was drawn.

    Args:
        ids: of its tokens, at least one; the last ends the turn unless the answer was cut off.
        logps: of each token, its log-probability when it was drawn.
    """

    ids: list[int]
    logps: list[float]


def box_config(pruning_layer: int | float, min_keep_tokens: int = 1) -> PruneVidConfig:
    """Return the config under which what lies outside the boxes is dropped after a layer, and nothing else changes."""
    return PruneVidConfig(
        enable_stage1=False, selector="oracle", pruning_layer=pruning_layer, min_keep_tokens=min_keep_tokens
    )


@torch.no_grad()
def draw(
    model: Any,
    base: Any,
    prompts: Prompts,
    config: PruneVidConfig,
    *,
    longest: int,
    temperature: float,
    ends: Sequence[int],
    pad: int,
) -> list[Drawn]:
    """Draw one answer to each prompt, from the whole distribution: no top-k, top-p or penalty of the model's own.

    Args:
        model: what is asked, such as ``base`` with adapters.
        base: the stock model inside it, whose layers are pruned.
        prompts: on the model's device.
        config: as `box_config` makes it.
        longest: tokens of an answer at most, at least 1.
        temperature: above 0.
        ends: ids of tokens that end an answer.
        pad: id of the padding.

    Raises:
        PruningNotApplied: pruning was asked for and did not happen.
    """
    from transformers import GenerationConfig

    how = GenerationConfig(
        max_new_tokens=longest, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, typical_p=1.0,
        repetition_penalty=1.0, num_beams=1, eos_token_id=list(ends), pad_token_id=pad, output_logits=True,
        return_dict_in_generate=True, disable_compile=True,
    )  # fmt: skip
    with pruned(base, config, prompts.marks) as trace:
        made = model.generate(**prompts.inputs, generation_config=how)
    check_applied(trace, config, visual_tokens(base, prompts.inputs["input_ids"]))
    new = made.sequences[:, prompts.inputs["input_ids"].shape[1] :]
    logits = torch.stack(made.logits, dim=1)  # [B, C, vocabulary]
    logps = _logps(logits, new, temperature)[0].tolist()
    drawn = []
    for ids, own in zip(new.tolist(), logps, strict=True):
        length = next((number + 1 for number, token in enumerate(ids) if token in ends), len(ids))
        drawn.append(Drawn(ids[:length], own[:length]))
    return drawn


def score(
    model: Any,
    base: Any,
    prompts: Prompts,
    answers: Sequence[Tensor],
    config: PruneVidConfig,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Compute how likely given answers are, as they were drawn: the pruned prompt, then all of the answer on its cache.

    One forward over prompt and answer would not do: in layers 0..M it would let the answer see what stage 3 has taken
    out of the cache. Gradients reach what is trained in all layers, through the cache too; the choice of tokens is the
    boxes' and has none.

    Args:
        model: as in `draw`, or a wrapper of it that forwards.
        base: as in `draw`.
        prompts: on the model's device.
        answers: for each prompt [A] ids, A at least 1.
        config: as in `draw`.
        temperature: as in `draw`.

    Returns: log-probability and entropy of each token, both [B, C] fp32 with C the longest answer, 0 behind the end.
    """
    valid = pad_sequence([torch.ones_like(answer, dtype=torch.bool) for answer in answers], batch_first=True)
    ids = pad_sequence(list(answers), batch_first=True)
    asked, device = prompts.inputs, prompts.inputs["input_ids"].device
    valid, ids = valid.to(device), ids.to(device)
    with pruned(base, config, prompts.marks):
        out = model(**asked, use_cache=True, logits_to_keep=1)
        logits = [out.logits]
        if ids.shape[1] > 1:
            said = ids[:, :-1]  # padded on the right, where nothing that counts looks
            mask = torch.cat([asked["attention_mask"], torch.ones_like(said)], dim=1)
            places = mask.cumsum(1)[:, -said.shape[1] :] - 1 + adapter_for(base).parts.root.rope_deltas
            cache = {cache_parameter(base.forward): cache_of(out)}
            after = model(
                input_ids=said,
                attention_mask=mask,
                position_ids=places.expand(3, -1, -1),
                use_cache=True,
                **cache,
            )
            logits.append(after.logits)
    logps, entropies = _logps(torch.cat(logits, dim=1), ids, temperature)
    return logps * valid, entropies * valid


def _logps(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the targets' log-probabilities and the distributions' entropies, [B, C] fp32."""
    every = torch.log_softmax(logits.float() / temperature, dim=-1)
    return every.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(every.exp() * every).sum(-1)
