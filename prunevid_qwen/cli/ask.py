"""``prunevid ask`` and ``prunevid demo``: one question, one answer, and its receipt."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from prunevid_qwen.cli.command import command
from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.options import CONFIG_KIND, PRESETS_HELP, SAMPLING, Changes, PruningOptions
from prunevid_qwen.cli.output import PANEL, Done, FileReporting
from prunevid_qwen.cli.request import Request, sorted_words
from prunevid_qwen.config.typed import build_config

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


@dataclass(frozen=True)
class AskOptions:
    """What is asked about which files."""

    words: list[str] = word(None, "VIDEO|IMAGE... QUESTION", "Files, and the question in quotes.")
    video_path: list[str] | None = opt(None, "Video, gif or folder of frames. Repeat it for several.", "PATH")
    image: list[str] | None = opt(None, "Image file. Repeat it for several.", "PATH")
    question: str | None = opt(None, "What to ask.", "TEXT", short="-q")
    config: str = opt("paper", PRESETS_HELP, CONFIG_KIND)
    max_new_tokens: int = opt(64, "Longest answer. Default: 64.", "INT", least=1)
    compare: bool = opt(False, "Also answer without pruning, side by side.", None, PANEL)
    start: float | None = opt(None, "From this second of the video.", "SECONDS", SAMPLING, rest=True)
    end: float | None = opt(None, "Up to this second of the video.", "SECONDS", SAMPLING, rest=True)

    def request(self, model: ModelOptions, output: FileReporting, pruning: Changes) -> Request:
        """Return all of it in one, with the config."""
        built = build_config(self.config, pruning.given)
        videos, images, question = sorted_words(list(self.words or ()), self.question)
        return Request(
            videos=(*(self.video_path or ()), *videos),
            images=(*(self.image or ()), *images),
            question=question,
            config=built.replace(verbose=True) if output.verbose else built,
            start=self.start,
            end=self.end,
            max_new_tokens=self.max_new_tokens,
            model=model,
            compare=self.compare,
            output=output,
        )


def ask(*, asked: AskOptions, model: ModelOptions, output: FileReporting, pruning: PruningOptions) -> Done:
    """Answer a question about videos or images with pruned tokens."""
    return _answered(asked.request(model, output, pruning))


def demo(*, asked: AskOptions, model: ModelOptions, output: FileReporting, pruning: PruningOptions) -> Done:
    """The same as ask; without a video, about the clip that comes with the package."""
    return _answered(asked.request(model, output, pruning).or_bundled_clip())


def register_ask(app: typer.Typer, name: str) -> None:
    """Give a command line ``ask``, or ``demo``."""
    command(app, name, EXAMPLES)(ask if name == "ask" else demo)


def _answered(request: Request) -> Done:
    request.check()
    # Imported only now: everything above answers in tenths of a second, without torch.
    from prunevid_qwen.cli.answer import answer, compare, load
    from prunevid_qwen.cli.report import Report

    output, report = request.output, Report(request)
    with _noting(report.logged) if output.verbose else contextlib.nullcontext():
        with report.telling() as tell:
            tell("Loading the model")
            model = load(request)
        if output.as_json:
            output.note(f"Model: {request.who()}")
        if request.compare:
            with report.encoding() as progress, report.telling() as tell:
                outcome = compare(model, request, progress=progress, tell=tell)
        else:
            with report.encoding() as progress:
                outcome = answer(model, request, stream=report.streamer, progress=progress)
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
