"""Reading with qwen-vl-utils, for frames exactly as Qwen's own pipeline takes them (before it resizes them)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from prunevid_qwen.errors import MediaError, SetupError
from prunevid_qwen.video.video_read import Deadline, Timeline

# It offers no reading by number: it is told the range and the count, and spaces the frames by number.
CHOOSES_ITSELF = True


def fetch(
    path: str, indices: list[int], timeline: Timeline, deadline: Deadline
) -> tuple[dict[int, np.ndarray], list[str]]:
    """Read as many frames as ``indices`` has (an even number) between its first and its last.

    Raises:
        MediaError: fewer than 2 frames are in the range, or qwen-vl-utils cannot read the file.
        SetupError: neither decord nor torchcodec is there for it to read with.
    """
    from qwen_vl_utils import vision_process

    timeline.require_numbers(path, "qwen-vl-utils")
    reader = vision_process.get_video_reader_backend()
    if reader not in ("decord", "torchcodec"):
        # Its third reader calls torchvision.io.read_video, which torchvision no longer has.
        raise SetupError(
            f'qwen-vl-utils would read with {reader}, which no longer can: run "pip install prunevid-qwen[decord]"'
        )
    count = len(indices) - len(indices) % 2
    if count < 2:
        raise MediaError(f'qwen-vl-utils needs at least 2 frames, {path} has {len(indices)}: use video_backend="pyav"')
    read = vision_process.VIDEO_READER_BACKENDS[reader]
    ask: dict[str, Any] = {"video": os.path.abspath(path), "nframes": count}
    deadline.check()
    try:
        if indices[0] > 0 or indices[-1] < len(timeline.seconds) - 1:
            # A range is given in seconds, which it turns into frame numbers by its own mean rate, the start rounded up
            # and the end down: that rate is asked for first, with the least that it reads.
            rate = float(read({"video": ask["video"], "nframes": 2})[1]["fps"])
            ask["video_start"] = max(0.0, indices[0] - 0.25) / rate
            ask["video_end"] = (indices[-1] + 0.25) / rate
        frames, metadata, _ = read(ask)
    except Exception as error:
        raise MediaError(
            f"qwen-vl-utils ({reader}) cannot read {path} ({str(error).splitlines()[0][:150]}): "
            f'use video_backend="pyav"'
        ) from error
    deadline.check()
    taken = [int(i) for i in metadata["frames_indices"]]
    return {i: frame.permute(1, 2, 0).numpy() for i, frame in zip(taken, frames, strict=True)}, []
