"""Ctrl-C between two steps, never inside one: a step that is half done cannot be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def between_steps() -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM inside the block instead of dying of them; a second one is not waited with.

    Yields: a function that tells whether one has come. In a thread other than the main one, where Python leaves signals
    alone, it never has.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for noted, handler in before.items():
            signal.signal(noted, handler)
