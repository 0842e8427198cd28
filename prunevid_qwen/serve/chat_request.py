"""A request of ``POST /v1/chat/completions``: what is read of it, what is refused, and what it means here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunevid_qwen.errors import excerpt
from prunevid_qwen.inputs.messages import Item, read_messages
from prunevid_qwen.serve.api_errors import ApiError

SURE = 1e-5
"""A temperature below it is none: the best token is taken."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# What other servers answer by and this one does not: refused, unless the value changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None), "presence_penalty": (0, None), "logit_bias": ({}, None), "logprobs": (False, None),
    "top_logprobs": (None,), "tools": ([], None), "tool_choice": ("none", "auto", None), "functions": ([], None),
    "function_call": ("none", "auto", None), "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None), "audio": (None,),
    "prediction": (None,), "reasoning_effort": (None,), "parallel_tool_calls": (True, False, None),
    "web_search_options": (None,), "verbosity": (None,),
}  # fmt: skip
# Labels of a request, which change no answer.
_LABELS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class PruningAsked(BaseModel):
    """The part of a request that only this server reads: ``extra_body={"prunevid": ...}``."""

    model_config = ConfigDict(extra="allow")
    config: str | None = None
    keep_map: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Options over the config, by name."""
        return dict(self.model_extra or {})


class RequestBody(BaseModel):
    """The fields that are read; the others are looked at by name."""

    model_config = ConfigDict(extra="allow", strict=True)
    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prunevid: PruningAsked | None = None


@dataclass(frozen=True)
class AskedMessage:
    """One message.

    Args:
        role: "system", "user" or "assistant".
        content: its text, or its items; those that show something hold the address of it.
    """

    role: str
    content: str | tuple[Item, ...]


@dataclass(frozen=True)
class ChatRequest:
    """What is asked.

    Args:
        model: whose answer, as the client names it.
        messages: in order.
        limit: tokens of an answer at most; None: as many as the server allows.
        temperature: None leaves it to the model's own settings, below `SURE` the best token is taken.
        top_p: None leaves it to the model's own settings.
        n: answers.
        stop: texts before which an answer ends.
        seed: of a sampled answer; None: any.
        stream: send the answer as it grows.
        usage: tell the numbers of tokens at the end of a stream.
        config: of the pruning; None: the server's.
        options: over it.
        keep_map: say which visual tokens were kept.
    """

    model: str
    messages: tuple[AskedMessage, ...]
    limit: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    usage: bool = False
    config: str | None = None
    options: Mapping[str, Any] | None = None
    keep_map: bool = False

    @property
    def shown(self) -> list[Item]:
        """All items that show something, in order."""
        return [item for each in self.messages if not isinstance(each.content, str) for item in each.content
                if item.kind != "text"]  # fmt: skip

    @property
    def question(self) -> str:
        """The words of the last message of the user."""
        said = next((each for each in reversed(self.messages) if each.role == "user"), None)
        if said is None or isinstance(said.content, str):
            return "" if said is None else str(said.content)
        return "\n".join(item.held for item in said.content if item.kind == "text")


def read_request(body: bytes) -> ChatRequest:
    """Read a request's body.

    Raises:
        ApiError: 400, naming the part that is wrong.
    """
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, f"the body is no JSON ({excerpt(str(error), 80)}): send an object", "invalid_json"
        ) from None
    try:
        read = RequestBody.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or None
        got = excerpt(repr(first.get("input")), 80)
        raise ApiError(400, f"{where or 'the body'}: {first['msg']}; got {got}", "invalid_value", where) from None
    _check_others(read.model_extra or {})
    if read.max_tokens is not None and read.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens both set the longest answer: send one of them",
                       "invalid_value", "max_tokens")  # fmt: skip
    if read.stream_options is not None and not read.stream:
        raise ApiError(400, "stream_options is for stream=true", "invalid_value", "stream_options")
    asked = read.prunevid or PruningAsked()
    limit = read.max_completion_tokens if read.max_tokens is None else read.max_tokens
    return ChatRequest(
        read.model, _messages(read.messages), limit, read.temperature, read.top_p, read.n or 1, _stops(read.stop),
        read.seed, bool(read.stream), bool(read.stream_options and read.stream_options.include_usage), asked.config,
        asked.options, asked.keep_map,
    )  # fmt: skip


def _check_others(others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if name in _NEUTRAL:
            if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in _NEUTRAL[name]):
                raise ApiError(400, f"{name} is not supported here: leave it out", "unsupported_parameter", name)
        elif name not in _LABELS:
            raise ApiError(400, f"Unrecognized request argument supplied: {excerpt(name, 80)}", "unknown_parameter",
                           excerpt(name, 80))  # fmt: skip


def _stops(given: str | list[str] | None) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stops) > 4 or not all(stops):
        raise ApiError(400, "stop is a text that is not empty, or up to 4 of them", "invalid_value", "stop")
    return stops


def _messages(given: Sequence[dict[str, Any]]) -> tuple[AskedMessage, ...]:
    for number, message in enumerate(given):
        role = message.get("role")
        if role not in _ROLES:
            raise ApiError(400, f"a role is one of {', '.join(_ROLES)}; got {excerpt(repr(role), 80)}", "invalid_value",
                           f"messages.{number}.role")  # fmt: skip
    read = tuple(
        AskedMessage(_ROLES[role], content if isinstance(content, str) else tuple(content))
        for role, content in read_messages(given)
    )
    for number, each in enumerate(read):
        if each.role != "user" and any(item.kind != "text" for item in _items(each.content)):
            raise ApiError(400, "images and videos stand in messages of the user", "invalid_value",
                           f"messages.{number}.content")  # fmt: skip
    if read[-1].role != "user":
        raise ApiError(400, "the last message is the user's", "invalid_value", "messages")
    return read


def _items(content: str | tuple[Item, ...]) -> tuple[Item, ...]:
    return () if isinstance(content, str) else content
