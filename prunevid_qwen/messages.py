"""Chat messages as other software hands them over: what an item of their content means, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.config.checks import unknown
from prunevid_qwen.errors import ConfigError, UnknownOption, shown

_SOURCES = ("path", "url")  # other names of a medium's source, besides its kind
_OPENAI = {"image_url": "image", "video_url": "video"}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "video": ("start", "end", "video_start", "video_end", "fps", "nframes", "max_frames", "min_pixels", "max_pixels",
              "total_pixels"),
    "image": ("min_pixels", "max_pixels"),
}  # fmt: skip
_SAME = {"video_start": "start", "video_end": "end", "nframes": "max_frames"}
_INSTEAD = {
    "min_frames": "pass nframes for a fixed number",
    "resized_height": "pass min_pixels and max_pixels, which keep the aspect",
    "resized_width": "pass min_pixels and max_pixels, which keep the aspect",
    "sample_fps": "pass fps",
}


@dataclass(frozen=True)
class Item:
    """One item of a message's content.

    Args:
        kind: "text", "image" or "video".
        held: the text, or the source of the medium.
        options: how the medium is read, as `media.MediaReader` takes it.
    """

    kind: str
    held: Any
    options: dict[str, Any] = field(default_factory=dict)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str | list[Item]]]:
    """Yield role and content of each message; a last message of the assistant that says nothing is left out.

    A key whose value is None is as if it were not there: Arrow fills the items of a column with each other's keys.

    Raises:
        ConfigError: a message or an item is malformed, or has a key that nothing here reads.
    """
    if not messages:
        raise ConfigError("messages is empty: pass at least one user message")
    read = [_message(message) for message in messages]
    if len(read) > 1 and read[-1] == ("assistant", ""):
        read.pop()
    yield from read


def _message(message: Any) -> tuple[str, str | list[Item]]:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise ConfigError(f"a message is a dict with role and content, got {shown(message, 80)}")
    role, content = message["role"], message["content"]
    others = [name for name, value in message.items() if name not in ("role", "content") and value is not None]
    if others:
        raise UnknownOption(f"of a message role and content are read; got {shown(others[0], 80)!r} too: leave it out")
    if content is None and role == "assistant":  # it called a tool, or was left open
        return role, ""
    if isinstance(content, str):
        return role, content
    if not isinstance(content, Sequence):
        raise ConfigError(f"content of {shown(role, 80)!r} is text or a list of items, got {shown(content, 80)}")
    return role, [read_item(item) for item in content]


def read_item(item: Any) -> Item:
    """Read one item: ``{"type": "text", "text": ...}``, a video or an image in Qwen's form or in OpenAI's.

    Raises:
        ConfigError: see `read_messages`.
    """
    if not isinstance(item, Mapping):
        raise ConfigError(f"content is text or a list of items with a type, got {shown(item, 80)}")
    given = {name: value for name, value in item.items() if value is not None}
    kind = given.pop("type", None) or next((k for k in ("video", "image", "text", *_OPENAI) if k in given), None)
    if kind == "text":
        return _text(given)
    if kind in _OPENAI:
        source, kind = _of_openai(given, kind), _OPENAI[kind]
    elif kind in _OPTIONS:
        named = [name for name in (kind, *_SOURCES) if name in given]
        if not named:
            came = shown(", ".join(given) or "none", 80)
            raise ConfigError(f"a {kind} item needs its source under {kind!r} (or 'path'), got {came}")
        if len(named) > 1:
            raise ConfigError(f"{' and '.join(named)} of a {kind} item say the same thing: give {named[0]!r} alone")
        source = given.pop(named[0])
    else:
        raise ConfigError(f"an item is a text, an image or a video, got type {shown(repr(kind), 80)}")
    return Item(kind, source, _options(kind, given))


def _text(given: dict[str, Any]) -> Item:
    if not isinstance(given.get("text"), str):
        came = f"text={shown(given['text'], 80)}" if "text" in given else shown(", ".join(given) or "nothing", 80)
        raise ConfigError(f"a text item needs its text under 'text', got {came}")
    for name in given:
        if name != "text":
            raise UnknownOption(f"a text item has text alone; got {shown(name, 80)!r} too: leave it out")
    return Item("text", given["text"])


def _of_openai(given: dict[str, Any], kind: str) -> Any:
    held = given.pop(kind, None)
    if isinstance(held, Mapping):
        held = {name: value for name, value in held.items() if value is not None}
        source = held.pop("url", None)
        if held.pop("detail", "auto") != "auto":
            raise ConfigError("detail of an image_url is not read: pass max_pixels in the item, or detail='auto'")
        for name in held:
            raise UnknownOption(unknown(f"{kind} has", name, ("url", "detail")))
    else:
        source = held
    if not isinstance(source, str):
        raise ConfigError(f'an item of type {kind} has {{"{kind}": {{"url": ...}}}}, got {shown(source, 80)}')
    return source


def _options(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    known, options = _OPTIONS[kind], dict[str, Any]()
    for name, value in given.items():
        if name in _INSTEAD:
            raise UnknownOption(f"a {kind} item takes no {name} here: {_INSTEAD[name]}")
        if name not in known:
            raise UnknownOption(unknown(f"a {kind} item takes", name, known))
        meant = _SAME.get(name, name)
        if meant in options:
            raise ConfigError(f"{name} and another key of the {kind} item both say {meant}: give one of them")
        options[meant] = value
    if "nframes" in given and "fps" in given:
        raise ConfigError("nframes and fps of a video item both say how many frames are taken: give one of them")
    if "nframes" in given or "fps" in given:
        options["sampling"] = "fps" if "fps" in given else "uniform"
    return options
