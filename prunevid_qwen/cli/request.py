"""What ``prunevid ask`` is asked, checked as far as that can be done without loading torch."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from prunevid_qwen.cli.groups import BUNDLED, ModelOptions
from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError


@dataclass(frozen=True)
class Request:
    """One call of ``prunevid ask``.

    Args:
        videos, images: paths, in the order in which they enter the prompt.
        question: what is asked about them.
        config: how to prune and to sample.
        start, end: seconds of the video between which frames are taken.
        max_new_tokens: the longest answer.
        model: which one, and how it is loaded.
        compare: answer without pruning too.
        output: how to report.
        expected: the right answer where it is known (the bundled clip's).
    """

    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    question: str | None = None
    config: PruneVidConfig = field(default_factory=PruneVidConfig)
    start: float | None = None
    end: float | None = None
    max_new_tokens: int = 64
    model: ModelOptions = field(default_factory=ModelOptions)
    compare: bool = False
    output: Reporting = field(default_factory=Reporting)
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
        from prunevid_qwen.video.data_uris import is_data_uri
        from prunevid_qwen.video.paths import local_file, local_path

        if not (self.videos or self.images):
            raise ConfigError(
                'nothing to ask about: prunevid ask video.mp4 "What happens?", or pass --video_path or --image '
                "(`prunevid demo` brings its own clip)"
            )
        if not (self.question or "").strip():
            raise ConfigError('no question: pass it behind the video, or --question "..."')
        for path in self.videos:
            if not os.path.isdir(local_path(path)):  # a folder of frames
                local_file(path, "video")
        for path in self.images:
            if not is_data_uri(path):
                local_file(path, "image")

    def shown(self) -> dict[str, Any]:
        """Return media and question as the arguments of ``PrunedVLM.generate``."""
        videos = self.videos[0] if len(self.videos) == 1 else list(self.videos)
        media = {"video_path": videos or None, "images": list(self.images) or None}
        return {**media, "question": self.question, "start": self.start, "end": self.end}

    def who(self) -> str:
        """Say in a line which model answers, and whether it can know what it is shown."""
        if self.model.model_path != BUNDLED:
            return self.model.model_path
        ours = Path(str(resources.files("prunevid_qwen").joinpath("bundled"))).resolve()
        if not self.images and all(ours in Path(path).resolve().parents for path in self.videos):
            return f"{BUNDLED}, a toy that knows moving coloured shapes and nothing else"
        return (
            f"{BUNDLED}, a toy that has only ever seen moving shapes. For real videos pass -m "
            "Qwen/Qwen2.5-VL-7B-Instruct, or a folder that holds it"
        )


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
