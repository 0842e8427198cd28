"""Answers in the order of their questions, one after the other; whatever goes wrong is the question's own error."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.evaluation.engine.asking import Answerer, Answering
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.reading import Read
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.evaluation.lmms_eval_plugin.arguments import ModelArguments
from prunevid_qwen.evaluation.lmms_eval_plugin.chat import ByRequest, ChatQuestion
from prunevid_qwen.evaluation.lmms_eval_plugin.generation import Generation

TOGETHER = 16
"""Neighbours about the same media that are asked at once: their video is read and encoded once."""

_CONFIG = "lmms_eval"

OnError = Callable[[str, BaseException | None], None]


class Answers:
    """A loaded model that answers chat questions lazily.

    Args:
        arguments: the model, what is pruned, how media are read.
        loading: arguments of ``from_pretrained`` in this process.
        on_error: told of each question without an answer: the sentence, and the exception if there was one here.
    """

    def __init__(self, arguments: ModelArguments, loading: dict[str, Any], on_error: OnError) -> None:
        self._workers, self._on_error = arguments.workers, on_error
        self._configs = ((_CONFIG, arguments.config),)
        self.model = Answering(self._configs, arguments.pretrained, loading).load().model
        media = self.model.preprocessor.media
        config = arguments.config
        self._reading = ByRequest(
            arguments.protocol, media.video, media.image, config.video_backend, config.video_time_limit
        )
        self._answerers: dict[Generation, Answerer] = {}

    def answer(self, questions: Iterable[ChatQuestion]) -> Generator[Line, None, None]:
        """Yield a line for each question, in order; the next ones are taken, and their media read, meanwhile.

        Raises:
            PruningNotApplied: pruning was asked for and did not happen.
        """
        return run_here(tasks_of(questions), self._reading, self._lines, self._workers)

    def _lines(self, task: Task, read: Read) -> Iterator[Line]:
        left: list[ChatQuestion] = [question for question, _ in task.questions]  # type: ignore[misc]
        while left:
            try:
                for line in self._try(task, left, read):
                    asked = left.pop(0)
                    if line["error"] is not None:
                        self._on_error(f"{asked.id}: {line['error']}", None)
                    yield line
            except PruningNotApplied:
                raise
            except Exception as error:
                asked = left.pop(0)
                said = f"{type(error).__name__}: {error}"
                self._on_error(f"{asked.id}: {said}", error)
                yield {**asked.about(), "error": said}

    def _try(self, task: Task, questions: list[ChatQuestion], read: Read) -> Iterator[Line]:
        if questions[0].error is not None:
            return iter([{**question.about(), "error": question.error} for question in questions])
        again = Task(task.media, tuple((question, (_CONFIG,)) for question in questions))
        return self._answerer(questions[0].generation).answer(again, read)

    def _answerer(self, generation: Generation) -> Answerer:
        if generation not in self._answerers:
            self._answerers[generation] = Answerer(self.model, self._configs, dict(generation.arguments))
        return self._answerers[generation]


def tasks_of(questions: Iterable[ChatQuestion]) -> Iterator[Task]:
    """Yield the tasks of questions, in order: neighbours that share media and arguments are one."""
    for (media, _, _), same in groupby(questions, key=lambda each: (each.media, each.generation, each.error is None)):
        while together := tuple(islice(same, TOGETHER)):
            yield Task(media, tuple((question, (_CONFIG,)) for question in together))
