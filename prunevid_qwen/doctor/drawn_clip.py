"""Reading clips whose frames are known, with one reader: run in a process of its own, since readers may crash it.

Loads no torch by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def drawn_frames() -> np.ndarray:
    """Return the frames of the clips: uint8 [4, 64, 64, 3], a grey that brightens, and one quarter red, one blue."""
    frames = np.empty((4, 64, 64, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[:] = 50 + 50 * number
        frame[:32, :32] = 200, 30, 30
        frame[32:, 32:] = 30, 30, 200
    return frames


def areas(frames: np.ndarray) -> np.ndarray:
    """Average each quarter of each frame: [T, 64, 64, 3] -> [T, 2, 2, 3], in levels of 255."""
    return frames.reshape(len(frames), 2, 32, 2, 32, 3).mean(axis=(2, 4))


def read_clip(backend: str, clip: str) -> dict[str, Any]:
    """Read a clip and compare it with the drawn frames.

    Returns:
        "off": the largest difference of an area's average from the drawn one, in levels of 255, and "areas": the
        averages, in order. Or "error": a sentence.
    """
    from prunevid_qwen.errors import PruneVidError
    from prunevid_qwen.video import read_video

    drawn = drawn_frames()
    try:
        found = read_video(clip, max_frames=len(drawn), backend=backend, time_limit=20.0).frames
    except PruneVidError as error:
        return {"error": str(error)}
    if found.shape != drawn.shape:
        return {"error": f"read {list(found.shape)} where {list(drawn.shape)} was written"}
    means = areas(found)
    return {"off": round(float(np.abs(means - areas(drawn)).max()), 2), "areas": means.round(2).ravel().tolist()}
