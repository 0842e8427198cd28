"""The videos and images of a conversation, told from others without being decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from prunevid_qwen.errors import excerpt
from prunevid_qwen.inputs.messages import read_messages
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.sources import videos_of
from prunevid_qwen.video.data_uris import is_data_uri, named
from prunevid_qwen.video.paths import local_path


@dataclass(frozen=True)
class Shown:
    """One video or image of a conversation, told from others without being decoded.

    Args:
        kind: "video" or "image".
        name: for messages.
        identity: of its source: a path with size and time of change, or a digest of what came in memory.
        options: how it is read.
    """

    kind: str
    name: str = field(compare=False)  # one file has several: relative, behind file://
    identity: tuple[Any, ...]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, source: Any, options: Mapping[str, Any]) -> Shown:
        """Look at a source as `PrunedVLM.generate` takes it."""
        name = named(source) if isinstance(source, (str, Path)) else type(source).__name__
        return cls(kind, name, _identity(source), dict(options))

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return excerpt(f"{self.kind} {self.name}" + (f" ({options})" if options else ""), 90)


def shown_in(
    messages: Sequence[Mapping[str, Any]] | None, video_path: Any, images: Any, start: float | None, end: float | None
) -> tuple[Shown, ...]:
    """Say what a call of one question shows, in the order of its prompt; the arguments are those of ``generate``."""
    if messages is not None:
        return tuple(
            Shown.of(item.kind, item.held, item.options)
            for _, content in read_messages(messages)
            if not isinstance(content, str)
            for item in content
            if item.kind != "text"
        )
    options = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    pictures = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
    videos = [Shown.of("video", video, options) for video in videos_of(video_path)]
    return (*videos, *(Shown.of("image", picture, {}) for picture in pictures))


def _identity(source: Any) -> tuple[Any, ...]:
    if is_data_uri(source):
        return ("data", _digest(source.encode()))
    if isinstance(source, (str, os.PathLike)):
        path = os.path.abspath(local_path(source))
        about = os.stat(path) if os.path.exists(path) else None
        if about is None:
            return "path", path
        return "path", path, about.st_size, about.st_mtime_ns, *(_entries(path) if os.path.isdir(path) else ())
    if isinstance(source, (list, tuple)):
        return tuple(_identity(each) for each in source)
    if isinstance(source, Medium):
        return ("medium", source.grid.tolist(), _digest(source.pixels.float().cpu().numpy().tobytes()))
    if isinstance(source, Tensor):
        source = source.cpu().numpy()
    if hasattr(source, "tobytes") and hasattr(source, "mode"):  # a PIL image
        return ("image", source.mode, source.size, _digest(source.tobytes()))
    if hasattr(source, "__array__"):
        array = np.asarray(source)
        return ("array", array.shape, str(array.dtype), _digest(array.tobytes()))
    return ("object", id(source))


def _entries(folder: str) -> tuple[Any, ...]:
    """A frame that is written anew leaves its folder as it was."""
    with os.scandir(folder) as entries:
        return tuple(sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in entries))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
