"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): one way out for all three. Imports nothing of the package.

What a signal finds ignored stays so: SIGHUP under nohup, SIGINT in a job that a script put in the background.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_ENDING: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. Whatever ends cleanly on Ctrl-C ends in the same way on these.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def interruption(number: int) -> KeyboardInterrupt:
    """Return the exception of a signal; 0 (another process was told) is Ctrl-C's."""
    return KeyboardInterrupt() if number in (0, signal.SIGINT) else Interrupted(number)


def signal_of(error: KeyboardInterrupt) -> int:
    """Return the signal that an exception stands for: a process that it ends has the exit code 128 + this."""
    return error.number if isinstance(error, Interrupted) else int(signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` where SIGTERM or SIGHUP comes inside the block, as Python raises KeyboardInterrupt on Ctrl-C.

    The way out is not interrupted by a second one: ``timeout`` sends SIGTERM twice, a shell passes SIGHUP on. A signal
    that is ignored stays ignored, one that the calling program handles stays its own, and outside the main thread,
    where Python leaves signals alone, nothing changes.
    """
    terminals = _terminals()
    installed: list[int] = []

    def come(number: int, frame: FrameType | None) -> None:
        for each in installed:
            signal.signal(each, signal.SIG_IGN)
        _leave_a_closed_terminal(number, terminals)
        raise Interrupted(number)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    installed.append(number)
                    signal.signal(number, come)
        yield
    finally:
        for number in installed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put back the handlers of the signals that are handled here, if a library inside the block takes them over."""
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler) and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


@contextmanager
def between_steps() -> Iterator[Callable[[], int]]:
    """Note SIGINT, SIGTERM and SIGHUP inside the block: a step that is half done cannot be saved.

    A second Ctrl-C is not waited with. In a thread other than the main one, where Python leaves signals alone, none
    is ever noted; nor is one that is ignored.

    Yields: a function that returns the number of the first signal that came, 0 while none has: see `interruption`.
    """
    terminals = _terminals()
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        _leave_a_closed_terminal(number, terminals)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # None: not Python's, and could not be put back
                    before[number] = handler
                    signal.signal(number, note)
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- processes that work for this one


@contextmanager
def starting_processes() -> Iterator[None]:
    """Hold the signals back while processes start, which inherit that: one that still imports would die of them.

    A pool is made in it too, which may start the tracker of its semaphores. Each process then calls
    `leave_signals_to_parent`.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        # started now, it inherits the mask too and outlives the terminal. Up to Python 3.12 its start lifts the mask
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(_worker: int = 0, terminable: bool = False) -> None:
    """Make this process end when its parent says so or is gone, and on no signal that a terminal sends to all.

    Args:
        _worker: its number, which a DataLoader passes.
        terminable: end on SIGTERM, with which a ``ProcessPoolExecutor`` ends the others where one process has died, and
            then waits for them.
    """
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL if terminable and number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A parent that was killed cannot tell its workers to stop: they would wait for work, and hold memory, for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# ---- a terminal that is gone


def _terminals() -> list[int]:
    """Return which of stdout and stderr show on a terminal; once it is closed, nobody can tell."""
    return [number for number in (1, 2) if os.isatty(number)]


def _leave_a_closed_terminal(number: int, terminals: list[int]) -> None:
    """Let what is still said go nowhere: writing to a closed terminal raises, in the middle of the way out."""
    if not terminals or number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):
        for each in terminals:
            os.dup2(nowhere, each)
    os.close(nowhere)
