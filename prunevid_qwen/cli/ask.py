"""``prunevid ask`` and ``prunevid demo``: one question, one answer, and its receipt.

All that can be checked without loading torch is checked first, in tenths of a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from prunevid_qwen.cli.groups import BUNDLED, ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.options import CONFIG_KIND, PRESETS_HELP, SAMPLING, PruningOptions
from prunevid_qwen.cli.output import PANEL, Done, FileReporting, Reporting
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError, SetupError, quoted

EXAMPLES = """\
[bold]Examples[/bold]
  prunevid ask cooking.mp4 "What is added last?" -m Qwen/Qwen2.5-VL-7B-Instruct
  prunevid ask photo.jpg "What is this?" -m llava-hf/llava-1.5-7b-hf
  ... --config aggressive --max_frames 64   more frames, fewer tokens of each
  ... --keep_ratio 0.2 --compare            also without pruning, side by side
  ... --selector fastv --selector.layers 3  an option of one method, in full
  ... --selector fastv --help               the options of that method
  ... --json > answer.json                  all but the one object goes to stderr
"""
DEMO = "The same as ask; without a video, about the clip that comes with the package."


def ask(
    *,
    words: list[str] = word(None, "VIDEO|IMAGE... QUESTION", "Files, and the question in quotes."),
    video_path: list[str] | None = opt(None, "Video, gif or folder of frames. Repeat it for several.", "PATH"),
    image: list[str] | None = opt(None, "Image file. Repeat it for several.", "PATH"),
    question: str | None = opt(None, "What to ask.", "TEXT", short="-q"),
    config: str = opt("paper", PRESETS_HELP, CONFIG_KIND),
    max_new_tokens: int = opt(64, "Longest answer. Default: 64.", "INT", least=1),
    compare: bool = opt(False, "Also answer without pruning, side by side.", None, PANEL),
    start: float | None = opt(None, "From this second of the video.", "SECONDS", SAMPLING, rest=True),
    end: float | None = opt(None, "Up to this second of the video.", "SECONDS", SAMPLING, rest=True),
    model: ModelOptions,
    output: FileReporting,
    pruning: PruningOptions,
    demo: bool,
) -> Done:
    """Answer a question about videos or images with pruned tokens."""
    built = build_config(config, pruning.given)
    videos, images, question = _told_apart(words or [], question)
    request = Request(
        videos=(*(video_path or ()), *videos),
        images=(*(image or ()), *images),
        question=question,
        config=built.replace(verbose=True) if output.verbose else built,
        start=start,
        end=end,
        max_new_tokens=max_new_tokens,
        model=model,
        compare=compare,
        output=output,
    )
    return _answered(request.or_bundled_clip() if demo else request)


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


def _told_apart(words: list[str], question: str | None) -> tuple[list[str], list[str], str | None]:
    """Tell videos, images and the question apart among words without ``--``: ``video.mp4 "What happens?"``."""
    from prunevid_qwen.video.data_uris import is_data_uri
    from prunevid_qwen.video.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    videos: list[str] = []
    images: list[str] = []
    for each in words:
        suffix = os.path.splitext(each)[1].lower()
        if is_data_uri(each) or suffix in IMAGE_SUFFIXES:
            images.append(each)
        elif suffix in VIDEO_SUFFIXES or os.path.exists(each):
            videos.append(each)
        elif question is None:
            question = each
        else:
            raise ConfigError(
                f"{quoted(each)} is no file here, and the question is {quoted(question)}: pass the paths of the videos "
                "and one question"
            )
    return videos, images, question


def _answered(request: Request) -> Done:
    request.check()
    from prunevid_qwen.cli.answer import Outcome, compare, load
    from prunevid_qwen.cli.report import Report

    output, report = request.output, Report(request)
    with _noting(report.logged) if output.verbose else contextlib.nullcontext():
        with report.telling() as tell:
            tell("Loading the model")
            model = load(request)
        if output.as_json:
            output.note(f"Model: {request.who()}")
        with report.encoding() as progress:
            if request.compare:
                with report.telling() as tell:
                    outcome = compare(model, request, progress, tell)
            else:
                result = model.generate(
                    **request.shown(),
                    max_new_tokens=request.max_new_tokens,
                    return_stats=True,
                    streamer=report.streamer(model),
                    progress=progress,
                )
                outcome = Outcome(result["answer"], result["stats"])
    if output.as_json:
        for note in report.notes(outcome):
            output.note(note)
    return Done(outcome.told(request), lambda: report.show(outcome))


@contextlib.contextmanager
def _noting(logged: set[str]) -> Iterator[None]:
    """Note the warnings that are logged inside the block, so that the report does not show them a second time."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.add(record.getMessage())  # type: ignore[method-assign]
    logger: Any = logging.getLogger("prunevid_qwen")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
