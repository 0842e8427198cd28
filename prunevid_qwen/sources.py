"""What a ``video_path`` argument means: one video, the frames of one, several, or one entry for each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def is_frame(item: Any) -> bool:
    """Tell whether an entry of a list is a frame (an image) and not a video."""
    if isinstance(item, (str, Path)):
        return Path(item).suffix.lower() in _IMAGE_SUFFIXES
    shape = getattr(item, "shape", None)
    return len(shape) == 3 if shape is not None else not isinstance(item, (list, tuple))


def videos_of(entry: Any) -> list[Any]:
    """Split one prompt's ``video_path`` into its videos.

    Raises:
        ConfigError: an empty list, or frames and videos mixed in one.
    """
    if entry is None:
        return []
    if not isinstance(entry, (list, tuple)):
        return [entry]
    frames = [is_frame(item) for item in entry]
    if not frames:
        raise ConfigError("video_path is an empty list: pass a path, or leave it out")
    if all(frames):
        return [list(entry)]
    if any(frames):
        raise ConfigError("video_path mixes images (frames of one video) with videos: pass images= for pictures")
    return list(entry)


def each_question(video_path: Any, questions: list[str], single: bool) -> list[Any]:
    """Give every question its ``video_path``: shared, or one entry each.

    Raises:
        ConfigError: a list of videos whose length is not the number of questions.
    """
    if single:
        return [video_path]
    shared = not isinstance(video_path, (list, tuple)) or all(is_frame(item) for item in video_path)
    if shared:
        return [video_path] * len(questions)
    if len(video_path) != len(questions):
        raise ConfigError(
            f"video_path has {len(video_path)} entries for {len(questions)} questions: pass one video for all, or one "
            "entry for each (an entry may itself be a list of videos)"
        )
    return list(video_path)
