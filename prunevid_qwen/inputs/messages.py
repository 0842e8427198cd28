"""Chat messages as other software hands them over: what an item of their content means, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.config.option_checks import check_count, unknown
from prunevid_qwen.errors import ConfigError, UnknownOption, excerpt

_OPENAI = {"image_url": "image", "video_url": "video"}
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "video": ("start", "end", "video_start", "video_end", "fps", "nframes", "min_frames", "max_frames", "total_pixels",
              *_SIZES),
    "image": _SIZES,
}  # fmt: skip
_SAME = {"video_start": "start", "video_end": "end", "nframes": "max_frames"}
_SECONDS = ("start", "end", "video_start", "video_end", "fps")  # all others are whole numbers
# pairs of which one would be passed over
_EITHER = (
    ("nframes", "fps"), ("nframes", "min_frames"), ("resized_height", "min_pixels"), ("resized_height", "max_pixels"),
    ("resized_height", "total_pixels"),
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One item of a message's content.

    Args:
        kind: "text", "image" or "video".
        held: the text, or the source of the medium.
        options: how the medium is read, as `media.MediaReader` takes it.
        given: the names of the options in the item.
    """

    kind: str
    held: Any
    options: dict[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = field(default=(), compare=False)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str | list[Item]]]:
    """Yield role and content of each message; a last message of the assistant that says nothing is left out.

    A key whose value is None is as if it were not there: Arrow fills the items of a column with each other's keys.

    Raises:
        ConfigError: a message or an item is malformed, or has a key that nothing here reads.
    """
    if len(messages) == 0:
        raise ConfigError("messages is empty: pass at least one user message")
    read = [_message(message) for message in messages]
    if len(read) > 1 and read[-1] == ("assistant", ""):
        read.pop()
    yield from read


def _message(message: Any) -> tuple[str, str | list[Item]]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ConfigError(f"a message is a dict with role and content, got {excerpt(message, 80)}")
    others = [name for name in _said(message) if name not in ("role", "content") and message[name] != []]
    if others:
        raise UnknownOption(f"of a message role and content are read; got {excerpt(others[0], 80)!r} too: leave it out")
    if "content" not in message:
        raise ConfigError(f"a message is a dict with role and content, got {excerpt(message, 80)}")
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return role, content
    if hasattr(content, "tolist"):  # pandas makes arrays of a column's lists
        content = content.tolist()
    if role == "assistant" and (content is None or content == []):  # it called a tool, or was left open
        return role, ""
    if not isinstance(content, Sequence):
        raise ConfigError(f"content of {excerpt(role, 80)!r} is text or a list of items, got {excerpt(content, 80)}")
    return role, [read_item(item) for item in content]


def read_item(item: Any) -> Item:
    """Read one item: ``{"type": "text", "text": ...}``, a video or an image in Qwen's form or in OpenAI's.

    Raises:
        ConfigError: see `read_messages`.
    """
    if not isinstance(item, Mapping):
        raise ConfigError(f"content is text or a list of items with a type, got {excerpt(item, 80)}")
    given = _said(item)
    kind = given.pop("type", None) or next((k for k in ("video", "image", "text", *_OPENAI) if k in given), None)
    if kind == "text":
        return _text(given)
    kind = _OPENAI.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in ("video", "image"):
        raise ConfigError(unknown("an item is of type", kind, ("text", "image", "video", *_OPENAI)))
    named = [name for name in (kind, "path", "url", f"{kind}_url") if name in given]
    if not named:
        came = excerpt(", ".join(map(str, given)) or "none", 80)
        raise ConfigError(
            f"an item of type {kind} has its source under {kind!r}, 'path', 'url' or '{kind}_url', got {came}"
        )
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} of an item say the same thing: give {named[0]!r} alone")
    source = given.pop(named[0])
    if named[0] in _OPENAI:
        source = _of_openai(source, named[0])
    return Item(kind, source, _options(kind, given), tuple(given))


def _said(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return what is there: no None, and no struct that Arrow made of None alone."""

    def nothing(value: Any) -> bool:
        return value is None or (isinstance(value, Mapping) and bool(value) and all(map(nothing, value.values())))

    return {name: value for name, value in given.items() if not nothing(value)}


def _text(given: dict[str, Any]) -> Item:
    if not isinstance(given.get("text"), str):
        came = f"text={excerpt(given['text'], 80)}" if "text" in given else ", ".join(map(str, given)) or "nothing"
        raise ConfigError(f"a text item has its text under 'text', got {excerpt(came, 80)}")
    for name in given:
        if name != "text":
            raise UnknownOption(f"a text item has text alone; got {excerpt(name, 80)!r} too: leave it out")
    return Item("text", given["text"])


def _of_openai(source: Any, name: str) -> str:
    if isinstance(source, Mapping):
        held = _said(source)
        source = held.pop("url", None)
        if held.pop("detail", "auto") != "auto":
            raise ConfigError(f"detail of {name} is not read: pass max_pixels in the item, or detail='auto'")
        for key in held:
            raise UnknownOption(unknown(f"{name} has", key, ("url", "detail")))
    if not isinstance(source, str):
        raise ConfigError(f'an item of type {name} has {{"{name}": {{"url": ...}}}}, got {excerpt(source, 80)}')
    return source


def _options(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    known, options = _OPTIONS[kind], dict[str, Any]()
    for name, value in given.items():
        if name not in known:
            raise UnknownOption(unknown(f"an item of type {kind} takes", name, known))
        meant = _SAME.get(name, name)
        if meant in options:
            raise ConfigError(f"{name} and another key of the item both say {meant}: give one of them")
        options[meant] = _number(name, value)
    for one, other in _EITHER:
        if one in given and other in given:
            raise ConfigError(f"{one} of an item says what {other} says: give one of them")
    if "nframes" in given or "fps" in given:
        options["sampling"] = "fps" if "fps" in given else "uniform"
    size = options.pop("resized_height", None), options.pop("resized_width", None)
    if size != (None, None):
        if None in size:
            raise ConfigError("an item has both resized_height and resized_width, or neither; got one of them")
        options["resized"] = size
    return options


def _number(name: str, value: Any) -> Any:
    """Return a plain number; numpy's are taken, and for a whole one the float that pandas makes of it beside None."""
    value = value.item() if getattr(value, "shape", None) == () else value
    if name in _SECONDS:
        return value
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    check_count(name, value, 2 if name.endswith("frames") else 1)
    return value
