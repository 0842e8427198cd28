"""A thread that makes the next item while the last one is being used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates ``items`` in a thread of its own, one item ahead of whoever iterates this.

    At any time at most two items exist: the one handed out last, and the one that is ready or being made. What
    ``items`` raises is raised here, in its turn. `close` stops the thread and waits for it; so does the end of the
    iteration, and leaving the ``with`` block.

    Args:
        items: iterated in the thread alone; closed there.
        name: of the thread, for debuggers.
    """

    def __init__(self, items: Iterator[T], name: str = "prunevid-prefetch") -> None:
        self._items = items
        self._made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._wanted = threading.Semaphore(1)
        self._stopped = threading.Event()
        # a daemon: a process that is killed in the middle of a native call does not wait for it
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        kind, value = self._made.get()
        if kind == "item":
            self._wanted.release()
            return value  # type: ignore[no-any-return]
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait until the item that it is making is done; a second call does nothing."""
        self._stopped.set()
        self._wanted.release()
        self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                self._wanted.acquire()
                if self._stopped.is_set():
                    break
                made = next(self._items, self)
                if made is self:
                    self._made.put(("end", None))
                    break
                self._made.put(("item", made))
        except BaseException as error:  # of any kind: it belongs to whoever iterates, who would wait for ever
            self._made.put(("error", error))
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
