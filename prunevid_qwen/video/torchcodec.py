"""Decoding with torchcodec, on the CPU."""

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
        MediaError: torchcodec cannot open the file, or counts other frames than its packets hold.
    """
    from torchcodec.decoders import VideoDecoder

    timeline.require_numbers(path, "torchcodec")
    try:
        # One FFmpeg thread is its default; 0 lets FFmpeg choose. "exact" scans the file, so that numbers are right.
        decoder = VideoDecoder(
            os.path.abspath(path), dimension_order="NHWC", num_ffmpeg_threads=0, device="cpu", seek_mode="exact"
        )
    except Exception as error:  # RuntimeError or ValueError, by version
        raise MediaError(f'torchcodec cannot open {path}: use video_backend="pyav" or convert the video') from error
    count = len(decoder)
    if count != len(timeline.seconds):
        raise MediaError(
            f"torchcodec counts {count} frames in {path}, the container holds {len(timeline.seconds)}, so frames "
            f'cannot be chosen by time: use video_backend="pyav"'
        )
    for i in indices:
        deadline.check()
        try:
            frame = decoder.get_frame_at(i)
        except RuntimeError as error:
            notes.append(f"torchcodec could not decode frame {i} ({str(error).splitlines()[0][:100]})")
            continue
        shown = frame.pts_seconds - (decoder.metadata.begin_stream_seconds or 0.0)
        if abs(shown - timeline.seconds[i]) > timeline.frame_seconds / 2:
            raise MediaError(
                f"torchcodec shows frame {i} of {path} at {shown:.3f} s, its packets say {timeline.seconds[i]:.3f} s: "
                f'use video_backend="pyav"'
            )
        yield i, frame.data.numpy()
