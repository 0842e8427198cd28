"""What clients do with a model, call by call: a table, and every way of generating."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)

from prunevid_qwen import PruneVidConfig, PruneVidError, UnsupportedError, get_paper_config
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.adapters.tiny import tiny_model as fresh_model
from tests.models import CACHE, IMAGES, MIXED, ONE_VIDEO, PAD, RAGGED, VOCAB, make_inputs

CONFIGS = {
    "kept_by_stage_2": PruneVidConfig(enable_stage1=False, keep_ratio=1.0, pruning_layer=0, position_scheme="hf"),
    "kept_by_all": PruneVidConfig(
        tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1, position_scheme="hf", min_cluster_tokens=1
    ),
    "paper": get_paper_config().replace(pruning_layer=1, min_cluster_tokens=1),
}
PROMPTS = {
    "one_video": ONE_VIDEO, "ragged": RAGGED, "mixed": MIXED, "images": IMAGES,
    "text": [[("text", 9)], [("text", 5)]],
}  # fmt: skip
TOKENS = 5
ALL = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}

# what may be refused, under every config, where a prompt shows something: README says why
REFUSED: dict[str, type[PruneVidError]] = dict.fromkeys(
    [
        "cache static", "cache sliding_window", "own static cache", "without a cache", "prefill in chunks",
        "assisted by itself", "forward with embeddings and pixels", "forward without types",
        "training with checkpointing",
    ],
    UnsupportedError,
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One thing that a client does.

    Args:
        run: does it, with what ``before`` made of the model, and returns whatever can be compared.
        before: what is done before the block is entered.
        after: what is done with the outcome once the block is left; compared too.
        prompts: of which it is done; None where it brings its own.
        attention: of the model.
    """

    run: Callable[..., Any]
    before: Callable[[Any], Any] = lambda model: model
    after: Callable[[Any], Any] = lambda _out: None
    prompts: tuple[str, ...] | None = None
    attention: str = "sdpa"


CALLS: dict[str, Call] = {}
EVERY, SINGLE, SHOWN = tuple(PROMPTS), ("one_video", "images"), ("one_video", "ragged", "mixed", "images")


# ---- ways of generating, with every prompt


class Shortest(StoppingCriteria):
    """Ends all rows after three tokens, and notes how long they were."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        self.seen.append(ids.shape[1])
        return torch.full((len(ids),), len(self.seen) == 3)


class Tilted(LogitsProcessor):
    """Wants other tokens the longer the text is, as it sees it."""

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + torch.linspace(0, 1, scores.shape[-1]) * (ids.shape[1] % 5) + ids.sum(-1, keepdim=True) % 7


class Noted:
    """A streamer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[torch.Tensor] = []

    def put(self, value: torch.Tensor) -> None:
        self.told.append(value.clone())

    def end(self) -> None:
        self.told.append(torch.tensor(-1))


def asked(**given: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda _model: given


def others(model: Any) -> Any:
    return fresh_model("qwen2_5_vl", layers=3)


WAYS: dict[str, tuple[Callable[[Any], dict[str, Any]], tuple[str, ...]]] = {
    "greedy": (asked(), EVERY),
    "with states": (asked(output_hidden_states=True), EVERY),
    "sampling": (asked(do_sample=True, temperature=0.9, top_p=0.9, top_k=40, num_return_sequences=2), EVERY),
    "typical sampling": (asked(do_sample=True, min_p=0.01, typical_p=0.9, epsilon_cutoff=1e-4), EVERY),
    "beams": (asked(num_beams=3, num_return_sequences=2), EVERY),
    "sampled beams": (asked(num_beams=3, do_sample=True), EVERY),
    "beams that stop": (
        asked(num_beams=3, early_stopping=True, length_penalty=2.0, eos_token_id=list(range(10, 60))), EVERY,
    ),
    "penalties": (
        asked(repetition_penalty=1.3, no_repeat_ngram_size=2, bad_words_ids=[[50, 51], [60]], suppress_tokens=[80],
              encoder_repetition_penalty=1.2, sequence_bias={(70,): 3.0}, renormalize_logits=True), EVERY,
    ),
    "least length": (asked(min_new_tokens=4, eos_token_id=list(range(200))), EVERY),
    "stopped": (lambda _model: {"stopping_criteria": StoppingCriteriaList([Shortest()])}, EVERY),
    "processed": (lambda _model: {"logits_processor": LogitsProcessorList([Tilted()])}, EVERY),
    "prefixes": (asked(num_beams=2, prefix_allowed_tokens_fn=lambda row, ids: [10 + len(ids) % 50, 70 + row]), EVERY),
    "settings": (
        asked(max_new_tokens=None, generation_config=GenerationConfig(
            max_new_tokens=4, num_beams=2, return_dict_in_generate=True, output_scores=True, pad_token_id=PAD,
            eos_token_id=VOCAB)), EVERY,
    ),
    "prompt lookup": (asked(prompt_lookup_num_tokens=3), (*SINGLE, "ragged")),
    "assisted": (lambda model: {"assistant_model": others(model)}, SINGLE),
    "assisted sampling": (lambda model: {"assistant_model": others(model), "do_sample": True}, SINGLE),
    "assisted by its own weights": (lambda _model: {"assistant_model": fresh_model("qwen2_5_vl")}, SINGLE),
    "assisted by itself": (lambda model: {"assistant_model": model}, SINGLE),
    "early exit": (asked(assistant_early_exit=3), SINGLE),
    "early exit before M": (asked(assistant_early_exit=1), SINGLE),
    "guided": (asked(guidance_scale=1.5), ("one_video", "text")),
    "guided by another text": (
        asked(guidance_scale=1.5, negative_prompt_ids=torch.arange(20, 29)[None]), ("one_video",),
    ),
    "own cache": (lambda model: {CACHE: DynamicCache(config=model.config.get_text_config())}, EVERY),
    "own bare cache": (lambda _model: {CACHE: DynamicCache()}, EVERY),
    "own static cache": (
        lambda model: {CACHE: StaticCache(config=model.config.get_text_config(), max_cache_len=256)},
        ("one_video", "text"),
    ),
    "without a cache": (asked(use_cache=False), ("one_video", "text")),
    "prefill in chunks": (asked(prefill_chunk_size=16), ("one_video", "text")),
    **{
        f"cache {kind}": (asked(cache_implementation=kind), ("ragged", "text"))
        for kind in ("dynamic", "dynamic_full", "static", "offloaded", "offloaded_static", "sliding_window", "hybrid",
                     "offloaded_hybrid", "quantized")
    },
}  # fmt: skip


def generated(way: str) -> Callable[..., Any]:
    def run(model: Any, samples: Any) -> Any:
        torch.manual_seed(3)
        given = {"max_new_tokens": TOKENS, "do_sample": False, **ALL, **WAYS[way][0](model)}
        if "generation_config" in given:
            given = {k: v for k, v in given.items() if k in ("generation_config",)}
        out = model.generate(**make_inputs(samples), **given)
        stopping = [each.seen for each in given.get("stopping_criteria", [])]
        return out, stopping, cache_of(given)

    return run


CALLS |= {way: Call(generated(way), prompts=prompts) for way, (_, prompts) in WAYS.items()}


# ---- what is compared


def leaves(value: Any) -> Iterator[Any]:
    """Everything in an output that can be compared, in order; of a cache its keys and values."""
    if hasattr(value, "layers"):
        for layer in value.layers:
            yield from leaves([getattr(layer, "keys", None), getattr(layer, "values", None)])
    elif isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    elif value is not None:
        yield value


def same(one: Any, other: Any) -> bool:
    pairs = list(leaves(one)), list(leaves(other))
    return len(pairs[0]) == len(pairs[1]) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b) for a, b in zip(*pairs, strict=True)
    )
