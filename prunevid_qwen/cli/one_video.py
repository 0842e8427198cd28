"""A conversation about one video, whose frames are read and encoded once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any


class OneVideo:
    """Holds an encoded video, and the questions and answers about it.

    Args:
        model: a `PrunedVLM`, or one that shares its weights.
        path: of the video.
        start: seconds at which its frames begin, or None.
        end: seconds at which they end, or None.
        progress: called with the numbers of frames encoded so far and in all.

    Raises:
        MediaError: the video cannot be read.
        UnsupportedError: the model accepts no videos.
    """

    def __init__(
        self,
        model: Any,
        path: str,
        start: float | None = None,
        end: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.path = model, path
        self.history: list[str] = []
        # any question: each that is asked takes its place
        self._prepared = model.prepare(path, "?", start=start, end=end, progress=progress)
        self._new = True  # the first answer's receipt has the seconds of reading and of the encoder

    def under(self, model: Any) -> OneVideo:
        """Return the same conversation, to be gone on with under another config of the same weights."""
        other = OneVideo.__new__(OneVideo)
        other.__dict__.update(self.__dict__, model=model, history=list(self.history))
        return other

    def chat(self, question: str, **generate_arguments: Any) -> Any:
        """Answer a question after those before it; the visual tokens are selected anew.

        What fails or is interrupted is no part of the conversation.

        Args:
            question: not empty.
            generate_arguments: as `PrunedVLM.answer` takes them.
        """
        began = time.perf_counter()
        frontend, prepared = self.model.frontend, self._prepared
        said: list[dict[str, Any]] = []
        for number, text in enumerate((*self.history, question)):
            items = [{"type": "video", "video": self.path}] if not number else []
            role = "assistant" if number % 2 else "user"
            said.append({"role": role, "content": [*items, {"type": "text", "text": text}]})
        sample = dataclasses.replace(prepared.samples[0], text=frontend.text(said))
        inputs = frontend.batch([sample])
        made = time.perf_counter() - began
        seconds = {"read": made, "vision": 0.0, "total": made}
        if self._new:
            seconds = {name: each + prepared.seconds[name] for name, each in seconds.items()}
        asked = dataclasses.replace(prepared, samples=(sample,), inputs=inputs, seconds=seconds)
        found = self.model.answer(asked, **generate_arguments)
        self.history += [question, found["answer"]]
        self._new = False
        return found

    def reset(self) -> None:
        """Forget the questions and answers."""
        self.history.clear()
