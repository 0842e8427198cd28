"""What a command line asks for, checked as far as that can be done without loading torch."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError


@runtime_checkable
class RunsItself(Protocol):
    """What a command returns whose work is more than one answer: all of it in a call, the exit code from it."""

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


@dataclass(frozen=True)
class Request:
    """One call of ``prunevid ask``.

    Args:
        videos, images: paths, in the order in which they enter the prompt.
        question: what is asked about them.
        config: how to prune and to sample.
        start, end: seconds of the video between which frames are taken.
        max_new_tokens: the longest answer.
        model_path: "bundled", a hub id or a folder.
        loading: arguments of ``PrunedVLM.from_pretrained``; None means its default.
        compare: answer without pruning too.
        as_json, verbose: how to report.
        expected: the right answer where it is known (the bundled clip's).
    """

    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    question: str | None = None
    config: PruneVidConfig = field(default_factory=PruneVidConfig)
    start: float | None = None
    end: float | None = None
    max_new_tokens: int = 64
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    compare: bool = False
    as_json: bool = False
    verbose: bool = False
    expected: str | None = None

    def or_bundled_clip(self) -> Request:
        """Return the same request about the bundled clip, unless it brings media of its own."""
        if self.videos or self.images:
            return self
        path, question, answer = bundled_clip()
        if self.question is not None and self.question != question:
            return dataclasses.replace(self, videos=(path,))
        return dataclasses.replace(self, videos=(path,), question=question, expected=answer)

    def check(self) -> None:
        """Refuse what can be seen to be wrong before a model is loaded.

        Raises:
            ConfigError: no question, or nothing to ask about.
            MediaError: a file is missing or empty.
        """
        if not (self.videos or self.images):
            raise ConfigError(
                "nothing to ask about: pass --video_path or --image (`prunevid demo` brings its own clip)"
            )
        if not (self.question or "").strip():
            raise ConfigError('no question: pass --question "..."')
        for kind, paths in (("video", self.videos), ("image", self.images)):
            for path in paths:
                _check_file(kind, path)

    @property
    def model_knows_shapes_only(self) -> bool:
        """Whether the tiny bundled model is asked about media it has never learnt to see."""
        if self.model_path != "bundled":
            return False
        return bool(self.images) or any(not _is_bundled(path) for path in self.videos)


def bundled_clip() -> tuple[str, str, str]:
    """Return path, question and answer of the clip that the demo is about.

    Raises:
        SetupError: the package was installed without its clips.
    """
    clips = resources.files("prunevid_qwen").joinpath("bundled", "clips")
    try:
        entry = json.loads(clips.joinpath("clips.json").read_text(encoding="utf-8"))[0]
    except FileNotFoundError:
        raise SetupError(f"the bundled clips are missing ({clips}): install the package anew") from None
    first = entry["questions"][0]
    return str(clips.joinpath(entry["file"])), first["question"], first["answer"]


def _is_bundled(path: str) -> bool:
    folder = Path(str(resources.files("prunevid_qwen").joinpath("bundled")))
    return folder.resolve() in Path(path).resolve().parents


def _check_file(kind: str, path: str) -> None:
    from prunevid_qwen.video.data_uris import is_data_uri
    from prunevid_qwen.video.paths import local_file, local_path

    if kind == "image" and is_data_uri(path):
        return
    if kind == "image" or not os.path.isdir(local_path(path)):  # a video may be a folder of frames
        local_file(path, kind)
