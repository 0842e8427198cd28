"""Questions that come as chat messages: each medium has a place in them, and stands there once it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.tasks import Question
from prunevid_qwen.inputs.messages import Item, read_messages

MEDIUM = "medium"
"""Key of an item of content that stands for a video or an image: ``{"medium": 0}`` for the first."""

_RANGE = ("start", "end", "video_start", "video_end")

Message = dict[str, Any]


class Conversation(Question):
    """A question of several messages; those that are none of text hold `MEDIUM` where media belong."""

    conversation: tuple[Message, ...]

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[Any]) -> list[Message]:
        """Return the chat messages with media where they belong."""

        def content(given: Any) -> Any:
            return given if isinstance(given, str) else [items[e[MEDIUM]] if MEDIUM in e else e for e in given]

        return [{"role": each["role"], "content": content(each["content"])} for each in self.conversation]


def read_conversation(messages: Any, medium: Callable[[Item, int], Media]) -> tuple[list[Message], list[Media]]:
    """Return chat messages with `MEDIUM` in them, and the media in order.

    Args:
        messages: as `read_messages` takes them.
        medium: returns the medium of an item; called with its number.

    Raises:
        ConfigError: a message is malformed, or an item says how it is read: that is said for all questions at once.
    """
    conversation: list[Message] = []
    media: list[Media] = []

    def placed(item: Item) -> dict[str, Any]:
        if item.kind == "text":
            return {"type": "text", "text": item.held}
        others = [name for name in item.given if item.kind == "image" or name not in _RANGE]
        if others:
            takes = "beside a video start and end are read" if item.kind == "video" else "beside an image nothing is"
            raise ConfigError(f"{takes}; got {', '.join(others)}: such options are given once, for all questions")
        media.append(medium(item, len(media)))
        return {MEDIUM: len(media) - 1}

    for role, content in read_messages(messages):
        given = content if isinstance(content, str) else [placed(item) for item in content]
        conversation.append({"role": role, "content": given})
    return conversation, media


def texts_of(message: Message) -> list[str]:
    """Return the texts of a message, in order."""
    content = message["content"]
    return [content] if isinstance(content, str) else [item["text"] for item in content if "text" in item]
