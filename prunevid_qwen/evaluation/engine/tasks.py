"""What an engine works on: media, and the questions about them. All of it travels between processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.reading import ReadMedia

Line = dict[str, Any]
"""What is stored of one question under one config; JSON."""


class Question(ABC):
    """A question of any kind; ``id`` is unique within the run."""

    id: str
    error: str | None = None
    """Why it cannot be asked, if that is known beforehand: it becomes the error of its lines."""
    generation: Mapping[str, Any] = {}
    """Arguments of ``generate`` that are this question's own, over those of the run."""

    @abstractmethod
    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Return the chat messages.

        Args:
            items: what stands for each medium in a message's content.
            media: as they were read: what is asked may depend on the frames taken.
        """

    @abstractmethod
    def about(self) -> Line:
        """Return what a line says of the question itself, whatever is answered."""


@dataclass(frozen=True)
class Task:
    """Questions about the same media, which are read and encoded once.

    Args:
        media: in the order in which they stand in the prompt; () for a question about nothing seen.
        questions: each with the names of the configs that are still to answer it.
    """

    media: tuple[Media, ...]
    questions: tuple[tuple[Question, tuple[str, ...]], ...]

    @property
    def answers(self) -> int:
        """How many lines the task will give."""
        return sum(len(configs) for _, configs in self.questions)


def without(task: Task, done: Collection[tuple[str, str]]) -> Task | None:
    """Return what is left of a task, or None.

    Args:
        task: as planned.
        done: (config, id) of what is answered.
    """
    left = [
        (question, names)
        for question, wanted in task.questions
        if (names := tuple(name for name in wanted if (name, question.id) not in done))
    ]
    return Task(task.media, tuple(left)) if left else None
