"""Decoding with OpenCV: from the beginning, because its seeks are not exact."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
        MediaError: OpenCV cannot open the file (its own builds have no AV1).
    """
    import cv2

    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    found = False
    wanted = set(indices)
    try:
        if not capture.isOpened():
            raise MediaError(f'OpenCV cannot open {path}: use video_backend="pyav" or convert the video')
        for i in range(indices[-1] + 1):
            deadline.check()
            if not capture.grab():
                break
            if i in wanted:
                read, pixels = capture.retrieve()
                if read:
                    found = True
                    yield i, np.ascontiguousarray(pixels[:, :, ::-1])
    finally:
        capture.release()
    if not found:
        raise MediaError(
            f'OpenCV opens {path} but decodes no frame of it (AV1 is missing from its builds): use video_backend="pyav"'
        )
