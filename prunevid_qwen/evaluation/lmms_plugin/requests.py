"""What lmms-eval hands over: model arguments, generation arguments of a task, chat messages. It needs no lmms-eval."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_type_hints

from prunevid_qwen.bundled import BUNDLED
from prunevid_qwen.config import PruneVidConfig, get_config, option_types
from prunevid_qwen.config.option_checks import check_count, is_number, unknown
from prunevid_qwen.config.typed import kinds_of, read_value
from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.task import Conversation, Line, media_at, read_conversation
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, HeldImage, ReadMedia
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL, INSTEAD, EvalProtocol, protocol_named, under
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.video.data_uris import is_data_uri
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.paths import local_path

LONGEST = 128  # new tokens where neither task nor model says how many: what lmms-eval's own Qwen2.5-VL takes
TOGETHER = 16  # neighbours about the same media that are asked at once: their video is read and encoded once


@dataclass(frozen=True)
class ModelArguments:
    """The model, what is pruned, and how media are read: all, because lmms-eval's cache knows of nothing else."""

    loading: dict[str, Any]  # arguments of ``PruneVidQwen25VL.from_pretrained``
    config: PruneVidConfig
    protocol: EvalProtocol  # of its text and lengths nothing is used
    pretrained: str = BUNDLED  # or a folder, or a hub id
    workers: int = 1  # processes that read ahead, or 0 for a thread
    system: str | None = None  # instead of a task's own system message; None leaves it
    prefill: str = ""  # how the assistant's answer begins
    max_new_tokens: int | None = None  # over the task's
    records: str | None = None  # folder of a line for each answer (tokens, seconds, errors)


_OF_TASK = ("dataset", "prompt", "subtitles", "max_new_tokens")  # choices of a protocol that are the task's
_READING = {name: kind for name, kind in get_type_hints(EvalProtocol).items() if name not in _OF_TASK}
_CONFIG = {name: kind for name, kind in option_types().items() if name not in BY_PROTOCOL} | {"pruning_rate": float}
_LOADING = dict.fromkeys(
    ("device", "device_map", "dtype", "attn_implementation", "revision", "cache_dir"), str | None
) | {"local_files_only": bool | None}
_OWN = get_type_hints(ModelArguments) | {"config": str}
del _OWN["loading"], _OWN["protocol"]
KINDS: dict[str, Any] = {**_OWN, **_LOADING, **_READING, **_CONFIG}
"""Every model argument, with its type."""

_INSTEAD = {**INSTEAD, "max_num_frames": "frames", "model_path": "pretrained", "system_prompt": "system"}


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """Turn model arguments into choices.

    Values are as lmms-eval reads them: int, float, bool, or str. Where None is a value, "none" says it; quotes around a
    text are taken off, and ``\\n`` in one is a line break.

    Raises:
        ConfigError: an unknown name (the nearest is offered), or a value of another type or out of its range.
    """
    for name in given:
        if name in _INSTEAD:
            raise ConfigError(f"prunevid_qwen takes {_INSTEAD[name]!r} for what you call {quoted(name)}: pass that")
        if name not in KINDS:
            raise ConfigError(unknown("a model argument of prunevid_qwen is one of", name, tuple(KINDS)))
    values = {name: _typed(name, value, KINDS[name]) for name, value in given.items()}

    def of(names: Mapping[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in names if name in values}

    protocol = protocol_named("lmms", "mvbench", **of(_READING))
    base = values.pop("config", "paper")
    config = under(protocol, base, get_config(base)).replace(**of(_CONFIG))
    check_count("workers", values.get("workers", 1), 0)
    if values.get("max_new_tokens") is not None:
        check_count("max_new_tokens", values["max_new_tokens"], 1)
    loading = {name: value for name, value in of(_LOADING).items() if value is not None}
    if {"device", "device_map"} <= loading.keys():
        raise ConfigError("device and device_map say the same thing twice: pass one of them")
    return ModelArguments(loading, config, protocol, **of(_OWN))


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Return a value as one of the types in ``kind``, whatever lmms-eval took it for."""
    kinds = kinds_of(kind)
    if str in kinds and isinstance(value, (bool, float)):  # what was typed is lost: a revision 1e5 is 100000.0 now
        raise ConfigError(f'{name} is a text, got {value}: put it into quotes ({name}="...")')
    if isinstance(value, float) and float not in kinds and value.is_integer():
        value = int(value)  # 1e6
    text = str(value)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    read = read_value(name, text, kind)
    return read.replace("\\n", "\n") if isinstance(read, str) else read


def placed(loading: Mapping[str, Any], processes: int, own: str) -> dict[str, Any]:
    """Return the loading arguments of one of several processes, each with a whole model on the device ``own``.

    `ConfigError`: what was asked for is one place for all of them, or another kind of device.
    """
    if processes == 1:
        return dict(loading)
    if "device_map" in loading:
        raise ConfigError(
            f"device_map={quoted(loading['device_map'])} spreads one model over the GPUs, but {processes} processes "
            "were started, each with a model of its own: leave device_map out, or start one process"
        )
    asked = loading.get("device")
    if asked is not None and asked != own.split(":")[0]:
        raise ConfigError(
            f"device={quoted(asked)} was asked for in each of {processes} processes, and this one was given {own}: "
            "leave device out (on a machine with GPUs, ACCELERATE_USE_CPU=true starts processes on the CPU)"
        )
    return {**loading, "device": own}


_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
_KNOWN = ("until", "stop_sequences", "max_new_tokens", "max_gen_toks", "num_beams", *_SAMPLING)
# These say nothing to us, or say what is done anyway.
_ONE_VALUE = {"n": 1, "best_of": 1, "num_return_sequences": 1, "skip_special_tokens": True, "use_cache": True}
_OTHERS = ("image_aspect_ratio",)  # how LLaVA cuts an image; Qwen2.5-VL takes any aspect as it is


class Generation(NamedTuple):
    """How an answer is made."""

    arguments: dict[str, Any]  # of transformers' ``generate``
    until: tuple[str, ...] = ()  # texts before which an answer ends

    def cut(self, text: str) -> str:
        """Return what stands before the first of the texts at which an answer ends."""
        return text[: min((at for stop in self.until if (at := text.find(stop)) >= 0), default=None)]


def read_generation(given: Mapping[str, Any] | None, max_new_tokens: int | None = None) -> Generation:
    """Read a task's generation arguments.

    A temperature above 0 samples, unless ``do_sample`` is false; a temperature of 0 is greedy whatever ``do_sample``
    says, as in lmms-eval's own models.

    Raises:
        ConfigError: a name or value that cannot be honoured.
    """
    given = {name: value for name, value in (given or {}).items() if name not in _OTHERS}
    for name, value in given.items():
        if name in _ONE_VALUE:
            if value is not None and value != _ONE_VALUE[name]:
                raise ConfigError(f"generation argument {name} is {_ONE_VALUE[name]!r} here, got {quoted(value)}")
        elif name not in _KNOWN:
            raise ConfigError(unknown("prunevid_qwen honours the generation arguments", name, _KNOWN))
    counts = {"max_new_tokens": max_new_tokens or given.get("max_new_tokens") or given.get("max_gen_toks") or LONGEST}
    counts["num_beams"] = given.get("num_beams") or 1
    for name, value in counts.items():
        check_count(name, value, 1)
    warmth, asked = given.get("temperature"), given.get("do_sample")
    if warmth is not None and (not is_number(warmth) or warmth < 0):
        raise ConfigError(f"temperature is a number of at least 0, got {quoted(warmth)}")
    sampling: dict[str, Any] = {"do_sample": False}
    if asked is not False and warmth != 0 and (asked is not None or warmth is not None):
        sampling = {"do_sample": True, "temperature": 1.0 if warmth is None else float(warmth)}
        sampling |= {name: given[name] for name in ("top_p", "top_k") if given.get(name) is not None}
    if given.get("repetition_penalty") is not None:
        sampling["repetition_penalty"] = float(given["repetition_penalty"])
    stops: list[str] = []
    for until in (given.get("until"), given.get("stop_sequences")):
        stops += [until] if isinstance(until, str) else list(until or ())
    if not all(isinstance(stop, str) for stop in stops):
        raise ConfigError(f"until is a text or a list of texts, got {quoted(stops)}")
    return Generation({**counts, **sampling}, tuple(dict.fromkeys(filter(None, stops))))


# ---- chat messages

_SAME = {"start_time": "start", "end_time": "end", "video_start": "start", "video_end": "end"}


class ByRequest(ByProtocol):
    """Reads media as a protocol says; whatever is wrong with a file is a `MediaError`."""

    def read(self, media: Media) -> ReadMedia:
        """Read one video, folder of frames or image."""
        try:
            return super().read(media)
        except (MediaError, OSError, MemoryError):
            raise
        except Exception as error:  # a decoder's own: it is this file's business, and no reason to end the run
            raise MediaError(f"{media.path} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class ChatQuestion(Conversation):
    """One request."""

    id: str
    generation: Mapping[str, Any] = field(default_factory=dict)
    conversation: tuple[dict[str, Any], ...] = ()
    media: tuple[Media, ...] = ()
    error: str | None = None

    def about(self) -> Line:
        """Return its name: the rest is lmms-eval's to store."""
        return {"id": self.id}


def chat_question(
    name: str, generation: Mapping[str, Any], messages: Sequence[Any], system: str | None, prefill: str
) -> ChatQuestion:
    """Read the messages that a task's ``doc_to_messages`` gives.

    Args:
        name, generation: of the request: its id, and arguments of ``generate``.
        messages: role and content; content is a text or a list of items with a type, and a text or a url.
        system: instead of the task's own system message; None leaves it.
        prefill: how the answer begins, or "".

    Raises:
        ConfigError: audio, or a message of another form.
        MediaError: a medium that is no file here.
    """
    turns, media = read_conversation(
        [_ours(message) for message in messages], lambda item, number: _medium(f"{name}, {item.kind} {number}", item)
    )

    def turn(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    if system is not None:
        turns = [turn("system", system), *(each for each in turns if each["role"] != "system")]
    if prefill:
        if turns[-1]["role"] == "assistant":
            raise ConfigError(f"{name} begins the assistant's answer itself: leave prefill out")
        turns.append(turn("assistant", prefill))
    return ChatQuestion(name, generation, tuple(turns), tuple(media))


def _ours(message: Any) -> Any:
    """Return a message in the words of `read_messages`; what is malformed stays so, and is refused there."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str) or not isinstance(content, Sequence):
        return message
    return {**message, "content": [_renamed(item) if isinstance(item, Mapping) else item for item in content]}


def _renamed(item: Mapping[str, Any]) -> dict[str, Any]:
    said = {_SAME.get(key, key): value for key, value in item.items() if value is not None}
    if said.get("type") == "video" and isinstance(said.get("url"), Mapping):  # a task's own description of a part of it
        return {**said, "url": None, **_renamed(said["url"]), "type": "video"}
    return said


def _medium(where: str, item: Item) -> Media:
    if item.kind == "image" and (is_data_uri(item.held) or not isinstance(item.held, (str, os.PathLike))):
        image, note = read_picture(item.held)
        return HeldImage("image", where, image=image, note=note)
    if not isinstance(item.held, (str, os.PathLike)):
        raise MediaError(f"{where} is a path, got {type(item.held).__name__}: prunevid_qwen reads files")
    try:
        return media_at(item, local_path(item.held))
    except MediaError as error:
        raise MediaError(f"{where}: {error}") from None
