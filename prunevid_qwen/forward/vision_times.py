"""When the vision tower ran, for the prompt that will use what it made."""

from __future__ import annotations

from torch import nn

from prunevid_qwen.tokens.trace import Timestamp


class VisionTimes:
    """Start and stop of each call of the tower since the last prompt; since 5.18 `generate` encodes ahead of it."""

    def __init__(self) -> None:
        self._calls: list[tuple[Timestamp, Timestamp]] = []
        self._start: Timestamp | None = None

    def start(self, tower: nn.Module) -> None:
        """Note that the tower starts."""
        self._start = Timestamp.now(next(tower.parameters()).device)

    def stop(self, tower: nn.Module) -> None:
        """Note that it has stopped. It may never: a start without a stop must not be paired with the next prompt's."""
        if self._start is not None:
            self._calls.append((self._start, Timestamp.now(next(tower.parameters()).device)))

    def take(self) -> list[tuple[Timestamp, Timestamp]]:
        """Hand out the calls, and forget them."""
        calls, self._calls = self._calls, []
        return calls
