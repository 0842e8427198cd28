"""What an engine works on: media, and the questions about them. All of it travels between processes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.record import Media, MediaKind
from prunevid_qwen.evaluation.engine.task_media import ReadMedia
from prunevid_qwen.inputs.messages import Item, read_messages

Line = dict[str, Any]
"""What is stored of one question under one config; JSON."""
Message = dict[str, Any]

_PLACE = "medium"  # {"medium": 0} stands where the first video or image of a conversation belongs
_RANGE = ("start", "end", "video_start", "video_end")


class TaskQuestion(ABC):
    """A question of any kind."""

    id: str  # unique within the run
    media: tuple[Media, ...]
    error: str | None = None  # why it cannot be asked, if that is known beforehand: the error of its lines
    generation: Mapping[str, Any] = {}  # arguments of ``generate`` that are its own, over those of the run

    @abstractmethod
    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[Message]:
        """Return the chat messages; ``items`` stand for the media in them, ``media`` are these as they were read."""

    @abstractmethod
    def about(self) -> Line:
        """Return what a line says of the question itself, whatever is answered."""


class Conversation(TaskQuestion):
    """A question of several messages, as `read_conversation` reads them."""

    conversation: tuple[Message, ...]

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[Any]) -> list[Message]:
        """Return the chat messages with media where they belong."""

        def content(given: Any) -> Any:
            return given if isinstance(given, str) else [items[e[_PLACE]] if _PLACE in e else e for e in given]

        return [{"role": each["role"], "content": content(each["content"])} for each in self.conversation]


def read_conversation(messages: Any, medium: Callable[[Item, int], Media]) -> tuple[list[Message], list[Media]]:
    """Return the messages of a `Conversation`, and its media in order, as ``medium`` makes them of item and number.

    A `ConfigError` says that a message is malformed, or an item says how it is read: that is said for all at once.
    """
    media: list[Media] = []

    def placed(item: Item) -> dict[str, Any]:
        if item.kind == "text":
            return {"type": "text", "text": item.held}
        others = [name for name in item.given if item.kind == "image" or name not in _RANGE]
        if others:
            takes = "beside a video start and end are read" if item.kind == "video" else "beside an image nothing is"
            raise ConfigError(f"{takes}; got {', '.join(others)}: such options are given once, for all questions")
        media.append(medium(item, len(media)))
        return {_PLACE: len(media) - 1}

    turns = [
        {"role": role, "content": content if isinstance(content, str) else [placed(item) for item in content]}
        for role, content in read_messages(messages)
    ]
    return turns, media


def media_at(item: Item, path: str) -> Media:
    """Return what an item of a message shows, which lies at ``path``."""
    if item.kind == "image":
        return Media("image", path)
    kind: MediaKind = "frames" if os.path.isdir(path) else "video"
    return Media(kind, path, item.options.get("start"), item.options.get("end"))


@dataclass(frozen=True)
class Task:
    """Questions about the same media, which are read and encoded once."""

    media: tuple[Media, ...]  # in the order in which they stand in the prompt
    questions: tuple[tuple[TaskQuestion, tuple[str, ...]], ...]  # and the configs that are still to answer each

    @property
    def answers(self) -> int:
        """How many lines the task will give."""
        return sum(len(configs) for _, configs in self.questions)


def tasks_of(questions: Iterable[TaskQuestion], configs: Sequence[str], most: int | None = None) -> Iterator[Task]:
    """Yield questions as tasks, in order: neighbours about the same media are one, of ``most`` questions at most."""
    for media, same in groupby(questions, key=lambda question: question.media):
        while together := tuple(islice(same, most)):
            yield Task(media, tuple((question, tuple(configs)) for question in together))


def left_of(tasks: Iterable[Task], done: Collection[tuple[str, str]]) -> list[Task]:
    """Return what is left of tasks; ``done`` holds (config, id) of what is answered."""
    found = []
    for task in tasks:
        wanted = (
            (question, tuple(n for n in names if (n, question.id) not in done)) for question, names in task.questions
        )
        if left := tuple(each for each in wanted if each[1]):
            found.append(Task(task.media, left))
    return found
