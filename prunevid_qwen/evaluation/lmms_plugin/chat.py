"""lmms-eval's chat messages as media and a question of our engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.task import Conversation, Line, media_at, read_conversation
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, HeldImage, ReadMedia
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.video.data_uris import is_data_uri
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.paths import local_path

TOGETHER = 16
"""Neighbours about the same media that are asked at once: their video is read and encoded once."""

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
