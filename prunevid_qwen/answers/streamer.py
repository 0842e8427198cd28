"""Streamers: one that tells words as they come, and all of them are told of the end on every way out of a call.

Who reads a streamer in another thread would wait for ever otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from prunevid_qwen.errors import ConfigError

_Call = TypeVar("_Call", bound=Callable[..., Any])


class Watched:
    """Hands everything to a streamer, and remembers whether it was told of the end.

    Args:
        streamer: of transformers, or anything that has ``put`` and ``end``.
    """

    def __init__(self, streamer: Any) -> None:
        self._streamer, self._ended = streamer, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streamer, name)

    def put(self, value: Any) -> None:
        """Pass token ids on."""
        self._streamer.put(value)

    def end(self) -> None:
        """Tell of the end, once: a second one would end the next call on the same streamer before it begins."""
        if not self._ended:
            self._ended = True
            self._streamer.end()


def ends_streamer(call: _Call) -> _Call:
    """Decorate a method that takes ``streamer``: it has been told of the end when the method returns or raises."""

    @functools.wraps(call)
    def ending(*args: Any, **arguments: Any) -> Any:
        if arguments.get("streamer") is None:
            return call(*args, **arguments)
        watched = Watched(arguments["streamer"])
        try:
            return call(*args, **{**arguments, "streamer": watched})
        finally:
            watched.end()

    return ending  # type: ignore[return-value]


def check_streamed(streamer: Any, single: bool) -> None:
    """Refuse a streamer for several questions.

    Raises:
        ConfigError: there is one, and more than one question.
    """
    if streamer is not None and not single:
        raise ConfigError("a streamer needs a single question, got several: pass one question, or no streamer")


def streamer_to(told: Callable[[str, bool], None], tokenizer: Any) -> Any:
    """Return a transformers streamer that tells an answer's words as they come, and with the last that it has ended."""
    from transformers import TextStreamer

    class AnswerStreamer(TextStreamer):  # type: ignore[misc]
        """Tells words, and prints nothing itself."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            told(text, stream_end)

    return AnswerStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
