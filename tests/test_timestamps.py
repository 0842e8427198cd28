"""Moments on GPUs, with streams and events of paper: noted without waiting, compared on one GPU alone."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from prunevid_qwen.tokens.timestamps import Stopwatch, Timestamp


class Event:
    """As CUDA's: it takes its stream's device, and only events of one device can be compared."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.device: Any = None
        self.at = 0.0

    def record(self, stream: Any) -> None:
        self.device, self.at = stream.device, stream.time

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: Event) -> float:
        if self.device != later.device:
            raise RuntimeError("CUDA error: invalid resource handle")
        return 1000 * (later.at - self.at)


class Stream:
    def __init__(self, device: torch.device) -> None:
        self.device, self.time = device, 0.0

    def wait_event(self, event: Event) -> None:
        self.time = max(self.time, event.at)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    streams = [Stream(torch.device("cuda", i)) for i in range(2)]
    cuda = types.SimpleNamespace(Event=Event, current_stream=lambda device: streams[device.index])
    monkeypatch.setattr("prunevid_qwen.tokens.timestamps.torch", types.SimpleNamespace(cuda=cuda))
    return streams


def test_a_decoder_that_ends_on_another_gpu_is_timed(gpus: list[Any]) -> None:
    """As under device_map="auto": the second GPU begins when the first is done."""
    first, second = gpus
    start = Timestamp.now(first.device)
    first.time = 2.0
    second.time = 5.0
    seconds = Stopwatch()
    seconds.add("prefill", start, Timestamp.now(second.device, start))
    assert seconds.total("prefill") == 5.0
    assert first.time == 5.0, "the next step begins there, with what the second GPU made"


def test_one_gpu_waits_for_nothing(gpus: list[Any]) -> None:
    first, second = gpus
    start = Timestamp.now(first.device)
    first.time, second.time = 2.0, 9.0
    assert start.seconds_until(Timestamp.now(first.device, start)) == 2.0
    assert start.seconds_until(Timestamp.now(torch.device("cpu"), start)) >= 0, "the host's clock"
