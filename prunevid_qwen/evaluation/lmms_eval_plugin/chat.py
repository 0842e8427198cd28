"""lmms-eval's chat messages as media and a question of our engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, MediaError, UnknownOption, excerpt, quoted
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.reading import ByProtocol, ReadMedia
from prunevid_qwen.evaluation.engine.tasks import Line
from prunevid_qwen.evaluation.lmms_eval_plugin.generation import Generation
from prunevid_qwen.inputs.qwen.pixels import fitted_frame
from prunevid_qwen.video.data_uris import is_data_uri
from prunevid_qwen.video.frames import read_picture
from prunevid_qwen.video.paths import local_path

_RANGE = ("start_time", "end_time")  # of an item
_SOURCES = ("url", "path", "video")  # of a task's own description of a video


@dataclass(frozen=True, eq=False)
class HeldImage(Media):
    """An image that a data set holds itself; ``path`` says whose it is, and tells it from others."""

    image: np.ndarray | None = None
    note: str | None = None  # what was done to its colours


@dataclass(frozen=True)
class ByRequest(ByProtocol):
    """Reads media as a protocol says, images of data sets too; whatever is wrong with a file is a `MediaError`."""

    def read(self, media: Media) -> ReadMedia:
        """Read one video, folder of frames or image.

        Raises:
            MediaError: it cannot be read.
        """
        try:
            if not isinstance(media, HeldImage):
                return super().read(media)
            assert media.image is not None
            frame = fitted_frame(media.image, self._limits(self.image, 1))
            size, resized = list(media.image.shape[:2]), list(frame.shape[:2])
            facts: dict[str, Any] = {"source": media.path, "size": size, "resized": resized}
            if media.note is not None:
                facts["warnings"] = [f"{media.path}: {media.note}"]
            return ReadMedia("image", frame[None], 1.0, (), facts)
        except (MediaError, OSError, MemoryError):
            raise
        except Exception as error:  # a decoder's own: it is this file's business, and no reason to end the run
            raise MediaError(f"{media.path} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class ChatQuestion:
    """One request.

    Args:
        id: unique within the run.
        generation: how it is answered.
        turns: role and content of each message; a number in the content is that medium.
        media: in order of their numbers.
        error: why it cannot be asked, or None.
    """

    id: str
    generation: Generation
    turns: tuple[tuple[str, tuple[str | int, ...]], ...] = ()
    media: tuple[Media, ...] = ()
    error: str | None = None

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write it as chat messages."""

        def item(part: str | int) -> dict[str, Any]:
            return dict(items[part]) if isinstance(part, int) else {"type": "text", "text": part}

        return [{"role": role, "content": [item(part) for part in parts]} for role, parts in self.turns]

    def about(self) -> Line:
        """Return its name: the rest is lmms-eval's to store."""
        return {"id": self.id}


def chat_question(
    name: str, generation: Generation, messages: Sequence[Mapping[str, Any]], system: str | None, prefill: str
) -> ChatQuestion:
    """Read the messages that a task's ``doc_to_messages`` gives.

    Args:
        name: of the request.
        generation: of it.
        messages: role and content; content is a text or a list of items with a type, and a text or a url.
        system: instead of the task's own system message; None leaves it.
        prefill: how the answer begins, or "".

    Raises:
        ConfigError: audio, or a message of another form.
        MediaError: a medium that is no file here.
    """
    media: list[Media] = []
    turns = [_turn(name, message, media) for message in messages]
    if not turns:
        raise ConfigError(f"{name} has no messages: its task gave an empty list")
    if system is not None:
        turns = [("system", (system,)), *(turn for turn in turns if turn[0] != "system")]
    if prefill:
        if turns[-1][0] == "assistant":
            raise ConfigError(f"{name} begins the assistant's answer itself: leave prefill out")
        turns.append(("assistant", (prefill,)))
    return ChatQuestion(name, generation, tuple(turns), tuple(media))


def _turn(name: str, message: Any, media: list[Media]) -> tuple[str, tuple[str | int, ...]]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ConfigError(f"{name} has a message that is no dict with role and content: {excerpt(message, 80)}")
    return message["role"], _content(name, message, media)


def _said(given: Any) -> dict[str, Any]:
    """Return the keys that hold something: Arrow fills in those of others with None."""
    return {key: value for key, value in given.items() if value is not None}


def _check_keys(name: str, kind: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise UnknownOption(f"{name} has a key of its {kind} that is not read: {unknown('it has', key, known)}")


def _content(name: str, message: Mapping[str, Any], media: list[Media]) -> tuple[str | int, ...]:
    content = message.get("content")
    if content is None and message["role"] == "assistant":  # it only called a tool
        return ()
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, Sequence):
        raise ConfigError(f"{name} has a message without content: text or a list of items is expected")
    parts: list[str | int] = []
    for given in content:
        if not isinstance(given, Mapping):
            raise ConfigError(f"{name} has an item of content that is no dict with a type: {excerpt(given, 80)}")
        item = _said(given)
        kind = item.get("type")
        if kind == "text":
            if not isinstance(item.get("text"), str):
                raise ConfigError(f"{name} has a text item without a text: it has {excerpt(', '.join(item), 80)}")
            _check_keys(name, kind, item, ("type", "text"))
            parts.append(item["text"])
        elif kind in ("video", "image"):
            parts.append(len(media))
            where = f"{name}, {kind} {len(media)}"
            _check_keys(where, kind, item, ("type", "url", *(_RANGE if kind == "video" else ())))
            media.append(_video(where, item) if kind == "video" else _image(where, item))
        else:
            raise ConfigError(
                f"{name} has content of type {quoted(kind, 80)}: Qwen2.5-VL takes text, images and videos"
            )
    return tuple(parts)


def _video(where: str, item: Mapping[str, Any]) -> Media:
    source, start, end = item.get("url"), item.get("start_time"), item.get("end_time")
    if isinstance(source, Mapping):  # a task's own description of a part of a video
        source = _said(source)
        _check_keys(where, "video", source, ("type", *_SOURCES, "video_start", "video_end"))
        start, end = source.get("video_start", start), source.get("video_end", end)
        source = next((source[key] for key in _SOURCES if key in source), None)
    path = _path(where, source)
    return Media("frames" if os.path.isdir(path) else "video", path, start, end)


def _image(where: str, item: Mapping[str, Any]) -> Media:
    source = item.get("url")
    if isinstance(source, (str, os.PathLike)) and not is_data_uri(source):
        return Media("image", _path(where, source))
    image, note = read_picture(source)
    return HeldImage("image", where, image=image, note=note)


def _path(where: str, source: Any) -> str:
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(f"{where} is a path, got {type(source).__name__}: prunevid_qwen reads files")
    try:
        return local_path(source)
    except MediaError as error:
        raise MediaError(f"{where}: {error}") from None
