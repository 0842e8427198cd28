"""What a ``video_path`` argument means: one video, the frames of one, several, or one entry for each question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.video.data_uris import is_data_uri
from prunevid_qwen.video.frames import IMAGE_SUFFIXES


def is_frame(item: Any) -> bool:
    """Tell whether an entry of a list is a frame (an image) and not a video."""
    if isinstance(item, (str, Path)):
        return is_data_uri(item) or Path(item).suffix.lower() in IMAGE_SUFFIXES
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


def conversations(
    config: PruneVidConfig,
    read_image: Callable[..., Any],
    open_video: Callable[..., Any],
    video_path: Any,
    question: Any,
    images: Any,
    messages: Any,
    start: float | None,
    end: float | None,
) -> tuple[list[list[dict[str, Any]]], bool]:
    """Turn what `PrunedVLM.generate` is asked with into a conversation for each question.

    Args:
        config: how videos and images are read.
        read_image, open_video: called with a source and ``config``; a video that questions share is opened once.
        video_path, question, images, messages, start, end: as in `PrunedVLM.generate`.

    Returns:
        The conversations, and whether one question was asked and not a list.

    Raises:
        ConfigError: no question, or arguments that contradict each other.
    """
    if messages is not None:
        if video_path is not None or question is not None or images is not None:
            raise ConfigError("messages hold their own videos, images and question: pass messages alone, or none")
        if start is not None or end is not None:
            raise ConfigError('put start and end into the video\'s own item: {"type": "video", "start": 1.5, ...}')
        return [list(messages)], True
    single = isinstance(question, str)
    questions = [question] if single else list(question) if isinstance(question, Sequence) else []
    if not questions or not all(isinstance(q, str) and q.strip() for q in questions):
        raise ConfigError('no question: pass question="What happens?" (or a list of them)')
    pictures = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    range_given = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    if range_given and video_path is None:
        raise ConfigError(f"{' and '.join(range_given)} need a video: pass video_path too, or leave them out")
    # a video that several questions share is read once; the source is held so that no other gets its id
    shared: dict[int, tuple[Any, Any]] = {}

    def read(video: Any) -> Any:
        if id(video) not in shared:
            shared[id(video)] = (video, open_video(video, config, **range_given))
        return shared[id(video)][1]

    still = [read_image(picture, config) for picture in pictures]
    out = []
    for asked, entry in zip(questions, each_question(video_path, questions, single), strict=True):
        content: list[dict[str, Any]] = [{"type": "video", "video": read(video)} for video in videos_of(entry)]
        content += [{"type": "image", "image": picture} for picture in still]
        content.append({"type": "text", "text": asked})
        out.append([{"role": "user", "content": content}])
    return out, single
