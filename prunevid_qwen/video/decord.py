"""Decoding with decord (the maintained fork is decord2; both import as ``decord``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.video_read import Deadline, Timeline


def fetch(
    path: str, indices: list[int], timeline: Timeline, deadline: Deadline
) -> tuple[dict[int, np.ndarray], list[str]]:
    """Decode the frames at ``indices``; see `prunevid_qwen.video.pyav.fetch`."""
    notes: list[str] = []
    return dict(frames(path, indices, timeline, deadline, notes)), notes


def frames(
    path: str, indices: list[int], timeline: Timeline, deadline: Deadline, notes: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames at ``indices`` one after the other; see `prunevid_qwen.video.pyav.frames`.

    Raises:
        MediaError: decord cannot open the file, or counts other frames than its packets hold.
    """
    import decord

    timeline.require_numbers(path, "decord")
    try:
        reader: Any = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except Exception as error:  # DECORDError or RuntimeError, by version
        raise MediaError(f'decord cannot open {path}: use video_backend="pyav" or convert the video') from error
    if len(reader) != len(timeline.seconds):
        raise MediaError(
            f"decord counts {len(reader)} frames in {path}, the container holds {len(timeline.seconds)}, so frames "
            f'cannot be chosen by time: use video_backend="pyav"'
        )
    for i in indices:
        deadline.check()
        try:
            pixels = reader[i].asnumpy()
        except Exception as error:
            notes.append(f"decord could not decode frame {i} ({str(error).splitlines()[0][:100]})")
            continue
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            # decord2 3.4 takes the padding of narrow rows (96 pixels, for one) for more channels.
            raise MediaError(
                f"decord gives frames of shape {list(pixels.shape)} for {path}, expected [H, W, 3]: "
                f'use video_backend="pyav"'
            )
        yield i, pixels
