"""Threads get a model in the order in which they came, and one that gives up is passed over."""

from __future__ import annotations

import copy
import threading

import pytest

from prunevid_qwen.adapters.attachments import Turns
from tests.patience import PATIENCE


def queued(turns: Turns, count: int) -> None:
    """Wait until so many threads wait for a turn."""
    deadline = threading.Event()
    timer = threading.Timer(PATIENCE, deadline.set)
    timer.start()
    while turns.waiting < count:
        assert not deadline.is_set(), f"{turns.waiting} of {count} threads wait"
    timer.cancel()


def test_turns_come_in_order() -> None:
    turns, order, threads = Turns(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            queued(turns, number + 1)
        assert not order
    for each in threads:
        each.join(PATIENCE)
    assert order == list(range(8)) and turns.waiting == 0
    with turns:  # free again
        pass


def test_one_thread_at_a_time_holds_it() -> None:
    turns, inside, most = Turns(), [0], [0]

    def take() -> None:
        for _ in range(200):
            with turns:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert most == [1] and inside == [0]


@pytest.mark.parametrize("handed", [False, True], ids=["while it waits", "as its turn comes"])
def test_who_is_interrupted_lets_the_next_one_in(handed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, real = Turns(), threading.Lock

    class Interrupted:
        """A lock on which the wait is interrupted, before or after it was let go."""

        def __init__(self) -> None:
            self.lock, self.calls = real(), 0

        def acquire(self) -> None:
            self.calls += 1
            if self.calls == 1:
                self.lock.acquire()
                return
            if handed:
                turns.__exit__()
            raise KeyboardInterrupt

        def release(self) -> None:
            self.lock.release()

    turns.__enter__()
    monkeypatch.setattr("prunevid_qwen.adapters.attachments.threading.Lock", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.__enter__()
    monkeypatch.undo()
    assert turns.waiting == 0
    if not handed:
        turns.__exit__()
    with turns:
        assert turns.waiting == 0


def test_a_copy_is_free() -> None:
    turns = Turns()
    with turns, copy.deepcopy(turns):
        pass
