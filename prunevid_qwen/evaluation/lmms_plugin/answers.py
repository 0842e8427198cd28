"""Answers in the order of their questions, one after the other; whatever goes wrong is the question's own error."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.evaluation.engine.answering import Answering, Encoded
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.reading import Read
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.evaluation.lmms_plugin.arguments import ModelArguments
from prunevid_qwen.evaluation.lmms_plugin.chat import ByRequest, ChatQuestion

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
        config = arguments.config
        self._answerer = Answering(((_CONFIG, config),), arguments.pretrained, loading).load()
        self.model = self._answerer.model
        media = self.model.preprocessor.media
        self._reading = ByRequest(
            arguments.protocol, media.video, media.image, config.video_backend, config.video_time_limit
        )

    def answer(self, questions: Iterable[ChatQuestion]) -> Generator[Line, None, None]:
        """Yield a line for each question, in order; the next ones are taken, and their media read, meanwhile.

        Raises:
            PruningNotApplied: pruning was asked for and did not happen.
        """
        return run_here(tasks_of(questions), self._reading, self._lines, self._workers)

    def _lines(self, task: Task, read: Read) -> Iterator[Line]:
        encoded = Encoded(self._answerer, read.media)
        for question, _ in task.questions:
            fault: Exception | None = None
            try:
                line = self._answerer.line(question, _CONFIG, read, encoded)
            except PruningNotApplied:
                raise
            except Exception as error:
                fault = error
                line = {**question.about(), "error": f"{type(error).__name__}: {error}"}
            if line["error"] is not None:
                self._on_error(f"{question.id}: {line['error']}", fault)
            yield line


def tasks_of(questions: Iterable[ChatQuestion]) -> Iterator[Task]:
    """Yield the tasks of questions, in order: neighbours that share media are one."""
    for media, same in groupby(questions, key=lambda question: question.media):
        while together := tuple(islice(same, TOGETHER)):
            yield Task(media, tuple((question, (_CONFIG,)) for question in together))
