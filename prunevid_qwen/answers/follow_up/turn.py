"""The next turn of a conversation: the token ids that the cache holds, and behind them the new text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import CACHE_NAMES, cache_of, cache_parameter
from prunevid_qwen.answers.follow_up.held import START_ANEW, ChatModel, another, check_media, held_by, new_text
from prunevid_qwen.answers.follow_up.shown import Shown, shown_in
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.inputs.frontends import Frontend
from prunevid_qwen.inputs.qwen.preprocessor import PromptSource
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.tokens.trace import Trace

_NOTE = "nothing to do: a text goes on from a cache, and brings no video or image"


@dataclass(frozen=True, eq=False)
class Turn:
    """A follow-up, ready to be generated.

    Args:
        sample: the whole conversation as text; its media are in the cache.
        media: what the conversation shows.
        inputs: input_ids and attention_mask [1, S] of the whole conversation, and the cache under this release's name.
        cached: tokens of the conversation that it holds.
        entries: that each of its layers holds, and the bytes of all, before the call.
    """

    sample: PromptSource
    media: tuple[Shown, ...]
    inputs: dict[str, Any]
    cached: int
    entries: tuple[tuple[int, ...], int]

    def note(self, trace: Trace) -> None:
        """Let the trace say what this turn was: reading some text was its prefill, and the cache has these entries."""
        steps = trace.seconds.pairs.get("decode", [])
        if steps:
            trace.seconds.pairs["prefill"] = [steps.pop(0)]
        lengths, size = self.entries
        added = self.inputs["input_ids"].shape[1] - self.cached
        trace.cache_lengths = tuple(length + added if length else 0 for length in lengths)  # 0: linear attention
        trace.cache_bytes = round(size * sum(trace.cache_lengths) / max(1, sum(lengths)))

    def correct(self, trace: Trace, stats: dict[str, Any]) -> None:
        """Put into a receipt that nothing was pruned in this turn, and what the cache holds of earlier ones."""
        whole, lengths = self.inputs["input_ids"].shape[1], trace.cache_lengths
        stats["input"]["cached_tokens"] = self.cached
        for stage in ("stage1", "stage2", "stage3"):
            stats[stage]["note"] = _NOTE if stats[stage]["enabled"] else None
        keyed = [length for length in lengths if length]
        share = sum(keyed) / (whole * len(keyed))
        stats["stage3"].update(
            original_length=whole,
            compressed_length=keyed[0],
            reduction_ratio=1 - share,
            cache_lengths=list(lengths),
            cache_bytes=trace.cache_bytes,
            cache_bytes_unpruned=round(trace.cache_bytes / share),
        )


def with_cache_named(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Let a cache among arguments of ``generate`` stand under the name that the installed transformers wants.

    Raises:
        ConfigError: it is none.
    """
    cache, others = cache_of(arguments), {k: value for k, value in arguments.items() if k not in CACHE_NAMES}
    if cache is not None and not hasattr(cache, "get_seq_length"):
        raise ConfigError(
            f"past_key_values is a cache of transformers, such as a DynamicCache; got {type(cache).__name__}: pass the "
            'result["past_key_values"] that generate() returned under return_dict_in_generate=True'
        )
    return others if cache is None else {**others, cache_parameter(model.forward): cache}


def cache_given(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among arguments of ``generate`` that holds something already, else None."""
    cache = cache_of(dict(arguments))
    return cache if cache is not None and int(cache.get_seq_length()) else None


def check_starts_anew(arguments: Mapping[str, Any]) -> None:
    """Refuse a cache that holds something already, where a follow-up cannot be asked.

    Raises:
        ConfigError: there is one.
    """
    if cache_given(arguments) is not None:
        raise ConfigError(
            "answer() starts without a cache, but past_key_values holds tokens: ask a follow-up with "
            "generate(messages=..., past_key_values=...)"
        )


def next_turn(asked: ChatModel, given: tuple[Any, ...], question: Any, arguments: dict[str, Any]) -> Turn:
    """Compare a conversation with the cache that it goes on from; takes the cache out of ``arguments``.

    The model counts positions from the cache's prompt afterwards: nobody else may use it until the call ends.

    Args:
        asked: will answer.
        given: messages, video_path, images, start and end.
        question: None, since the conversation ends with it.
        arguments: of ``generate``.

    Raises:
        ConfigError: the conversation does not begin with what the cache holds, or the cache is not of such a call.
        UnsupportedError: a new video or image, several rows, or a way of generating that needs the whole prompt.
    """
    model, frontend, name = asked.model, asked.frontend, cache_parameter(asked.model.forward)
    cache = arguments.pop(name)
    messages = given[0]
    if messages is None or question is not None or any(each is not None for each in given[1:]):
        raise ConfigError(
            "a follow-up takes messages= alone besides its cache: pass the whole conversation up to the new question "
            f"as messages. {START_ANEW}"
        )
    _check_arguments(model, arguments)
    held = held_by(model, asked.config, cache, asked.plan)
    media = shown_in(messages, None, None, None, None)
    check_media(media, held)
    text, tokenizer = frontend.text(messages), frontend.tokenizer
    new = new_text(text, held)
    after: list[int] = tokenizer(new, add_special_tokens=False, verbose=False)["input_ids"] if new else []
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if after and after[0] not in special:
        if not _closes_turns(frontend, special):
            raise UnsupportedError(
                "this model's chat template ends an answer without a special token, so follow-ups from a cache are not "
                f"supported. {START_ANEW}"
            )
        raise another("the last answer", held.answer, text[len(held.text) :])
    ids, stops = held.ids.tolist(), model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(stops if isinstance(stops, (list, tuple)) else [stops])}
    while len(ids) > held.length and ids[-1] in ends & special:  # the template writes the end of the turn
        ids.pop()
    ids += after
    if len(ids) <= held.length:
        raise ConfigError(
            "the conversation has nothing after the cache's last answer: add that answer and a new question of the "
            "user to messages"
        )
    whole = torch.tensor([ids], device=input_device(model))
    if held.deltas is not None:  # those on the model are of whatever it read last
        adapter_for(model).deltas = held.deltas.clone()
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole), name: cache}
    return Turn(PromptSource(text, ()), media, inputs, held.length, size_of(cache))


def _closes_turns(frontend: Frontend, special: set[int]) -> bool:
    """Tell whether the chat template writes a special token behind an answer."""
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    behind = frontend.text(turns)[len(frontend.text(turns[:2])) :]  # the shorter one is cut where its answer ends
    ids: list[int] = frontend.tokenizer(behind, add_special_tokens=False)["input_ids"]
    return bool(ids) and ids[0] in special


def _check_arguments(model: Any, arguments: Mapping[str, Any]) -> None:
    settings = arguments.get("generation_config") or model.generation_config
    asked = {
        name: getattr(settings, name, None) if arguments.get(name) is None else arguments[name]
        for name in ("num_beams", "num_return_sequences", "prompt_lookup_num_tokens", "assistant_early_exit")
    }
    many = [name for name in ("num_beams", "num_return_sequences") if (asked.pop(name) or 1) > 1]
    if many:
        raise UnsupportedError(f"a follow-up has a single row: leave {' and '.join(many)} unset. {START_ANEW}")
    asked["assistant_model"] = arguments.get("assistant_model")
    assisted = [name for name, value in asked.items() if value is not None]
    if assisted:
        raise UnsupportedError(
            "a follow-up cannot use assisted decoding, which passes the whole prompt again: leave "
            f"{' and '.join(assisted)} unset. {START_ANEW}"
        )
