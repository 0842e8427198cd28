"""``prunevid ask`` and ``prunevid demo``: one question, one answer, and its receipt."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.options import CONFIG_KIND, PRESETS_HELP, SAMPLING, PruningOptions
from prunevid_qwen.cli.output import PANEL, Done, FileReporting
from prunevid_qwen.cli.request import Request
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError, quoted

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
OF_DEMO = """\
[bold]Examples[/bold]
  prunevid demo
  prunevid demo --compare                   also without pruning, side by side
  prunevid demo --selector fastv            another method
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
    request.check()  # all that can be checked without loading torch, in tenths of a second
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
