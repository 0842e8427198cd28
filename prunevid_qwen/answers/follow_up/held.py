"""What a cache holds: written beside its entries after an answer, and compared with the conversation that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol
from uuid import uuid4
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.answers.follow_up.shown import Shown
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError, excerpt
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.forward.pruning import alike
from prunevid_qwen.inputs.frontends import Frontend

START_ANEW = "To start anew, pass the whole conversation without past_key_values"

_marks: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # of each model that filled a cache


@dataclass(frozen=True, eq=False)
class Held:
    """What a cache holds, written beside its keys and values.

    Args:
        model: tells the model that filled it from others.
        config: the cache was filled under it.
        text: of the chat template, up to the last answer.
        media: shown in it, in order.
        answer: the last answer, as decoded.
        ids: [S] int64 on the CPU, prompt and answer.
        length: tokens that the cache had read when the call ended.
        deltas: [1, 1], from which positions of what follows are counted; None of a family that counts tokens.
        plan: instead of what ``config`` prunes, or None.
    """

    model: str
    config: PruneVidConfig
    text: str
    media: tuple[Shown, ...]
    answer: str
    ids: Tensor
    length: int
    deltas: Tensor | None
    plan: Plan | None = None


class ChatModel(Protocol):
    """Who answers: of a `PrunedVLM` what is read here."""

    model: Any
    config: PruneVidConfig
    plan: Plan | None
    frontend: Frontend


def remember(
    asked: ChatModel,
    arguments: Mapping[str, Any],
    output: Any,
    prompt: Tensor,
    text: str,
    media: tuple[Shown, ...],
) -> None:
    """Write beside the entries of a cache what it holds now; a cache of several rows goes on from none of them.

    Args:
        asked: has just answered.
        arguments: of ``generate``, a cache perhaps among them.
        output: of ``generate``.
        prompt: [1, S] ids.
        text: of the prompt.
        media: shown in it.
    """
    given, sequences = cache_of(dict(arguments)), getattr(output, "sequences", output)
    cache = cache_of(output) if given is None else given
    if not hasattr(cache, "layers") or int(cache.get_seq_length()) > sequences.shape[1]:
        return
    deltas = adapter_for(asked.model).deltas
    cache.conversation = Held(
        _marks.setdefault(asked.model, uuid4().hex),
        asked.config,
        text,
        media,
        asked.frontend.tokenizer.decode(sequences[0, prompt.shape[1] :], skip_special_tokens=True),
        sequences[0].cpu().clone(),
        int(cache.get_seq_length()),
        None if deltas is None else deltas.clone(),
        asked.plan,
    )


def held_by(model: nn.Module, config: PruneVidConfig, cache: Any, plan: Plan | None = None) -> Held:
    """Return what ``cache`` holds, once it is clear that ``model`` under ``config`` or ``plan`` may go on from it.

    Raises:
        ConfigError: it came from somewhere else, or is not as it was.
        UnsupportedError: it holds several rows.
    """
    rows = next((len(layer.keys) for layer in cache.layers if getattr(layer, "keys", None) is not None), 1)
    if rows != 1:
        raise UnsupportedError(
            f"the cache holds {rows} rows, as after several questions, beams or answers: a follow-up goes on from the "
            f"cache of one question with one answer. {START_ANEW}"
        )
    held: Held | None = getattr(cache, "conversation", None)
    if held is None:
        raise ConfigError(
            "nothing is known of what this cache holds: a follow-up goes on from the cache that generate() of this "
            f"class returned for one question (return_dict_in_generate=True). {START_ANEW}"
        )
    if held.model != _marks.get(model):
        raise ConfigError(f"another model filled this cache: pass it to the one that did. {START_ANEW}")
    # what is only said of an answer is not among them
    ours, theirs = config.flat(), held.config.flat()
    other = [name for name in ours if ours[name] != theirs.get(name)]
    if other:
        said = ", ".join(f"{name}={theirs.get(name)!r} and here {ours[name]!r}" for name in other[:3])
        raise ConfigError(f"the cache was filled under another config ({excerpt(said)}): use that one. {START_ANEW}")
    if not alike(plan, held.plan):
        raise ConfigError(f"the cache was filled under another plan: use that one. {START_ANEW}")
    if int(cache.get_seq_length()) != held.length:
        raise ConfigError(
            f"the cache holds {int(cache.get_seq_length())} tokens, and held {held.length} when its answer was "
            f"returned: something else used it, cropped it, or failed over it. {START_ANEW}"
        )
    return held


def check_media(media: tuple[Shown, ...], held: Held) -> None:
    """Refuse a conversation that shows other videos and images than the cache holds.

    Raises:
        ConfigError: another one, or fewer.
        UnsupportedError: more.
    """
    for number, (came, known) in enumerate(zip(media, held.media, strict=False), 1):
        if came != known:
            changed = " (changed since)" if str(came) == str(known) else ""
            raise ConfigError(
                f"video or image {number} of the conversation is {came}{changed}, and the cache holds {known}: show "
                f"what was shown then. {START_ANEW}"
            )
    if len(media) > len(held.media):
        raise UnsupportedError(
            f"a follow-up that shows something new is not supported: the cache holds {len(held.media)} videos and "
            f"images, the conversation shows {len(media)}, first {media[len(held.media)]}. {START_ANEW}"
        )
    if len(media) < len(held.media):
        raise ConfigError(
            f"the conversation shows {len(media)} videos and images, and the cache holds {len(held.media)}: pass the "
            f"whole conversation, with {held.media[len(media)]}"
        )


def new_text(text: str, held: Held) -> str:
    """Return what follows the last answer in the text of a conversation.

    Raises:
        ConfigError: it does not begin as what the cache holds.
    """
    if not text.startswith(held.text):
        raise another("the conversation up to the last answer", held.text, text)
    rest = text[len(held.text) :]
    said = held.answer.strip()  # a template may set off an answer by a space, as a model writes it
    answer = next((each for each in (held.answer, said, f" {said}") if rest.startswith(each)), None)
    if answer is None:
        raise another("the last answer", held.answer, rest)
    return rest[len(answer) :]


def another(what: str, held: str, came: str) -> ConfigError:
    """Make the error for a text that goes on otherwise than the cache."""
    at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(held, came, strict=False)))
    there, here = (repr(each[at : at + 60]) for each in (held, came))
    return ConfigError(
        f"{what} is not what the cache holds: from character {at} on that has {there}, and here is {here}. Pass each "
        "message as it was and the answer as it was returned. A cache goes on in place: to ask several follow-ups "
        f"after one answer, give each a copy.deepcopy of the cache. {START_ANEW}"
    )
