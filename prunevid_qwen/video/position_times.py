"""When a temporal position of a video is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def frames_of_positions(facts: Mapping[str, Any], positions: int) -> list[range]:
    """Return the frames of each temporal position; repetitions that fill the last one are none.

    Args:
        facts: what a receipt says of the video: "timestamps", at least one, and, as far as known, "padded".
        positions: number of temporal positions, at least 1.
    """
    count = len(facts["timestamps"])
    each = math.ceil((count + facts.get("padded", 0)) / positions)
    return [range(at * each, min((at + 1) * each, count)) for at in range(positions)]


def seconds_of_positions(facts: Mapping[str, Any], positions: int) -> list[tuple[float, float]]:
    """Return when each temporal position begins and ends, in seconds: each lasts until the next one begins.

    Args:
        facts: as in `frames_of_positions`; "seconds_per_grid" and "duration", as far as known, bound the last one.
        positions: number of temporal positions, at least 1.
    """
    times = list(facts["timestamps"])
    begins = [times[min(frames.start, len(times) - 1)] for frames in frames_of_positions(facts, positions)]
    end = begins[-1] + facts.get("seconds_per_grid", 0.0)
    if facts.get("duration") is not None:
        end = max(begins[-1], min(end, facts["duration"]))
    return list(zip(begins, [*begins[1:], end], strict=True))
