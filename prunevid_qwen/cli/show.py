"""``prunevid show``: which tokens were kept for a question, as a page for a browser or a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.cli import ask
from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import Done, Reporting
from prunevid_qwen.cli.pruning_options import CONFIG, SAMPLING, PruningOptions
from prunevid_qwen.config.typed import build_config


def show(
    *,
    words: list[str] = word(None, "VIDEO|IMAGE... QUESTION", "Files, and the question in quotes."),
    question: str | None = opt(None, "What to ask.", "TEXT", short="-q"),
    out: Path = opt(Path("kept.html"), "The file: .html, .png or .mp4. Default: kept.html.", "FILE"),
    config: str = CONFIG,
    beside: list[str] | None = opt(None, "Also this preset, file or method, side by side.", "CONFIG"),
    browse: bool = opt(False, "Open the page in the browser."),
    max_new_tokens: int = opt(64, "Longest answer. Default: 64.", "INT", least=1),
    start: float | None = opt(None, "From this second of the video.", "SECONDS", SAMPLING, rest=True),
    end: float | None = opt(None, "Up to this second of the video.", "SECONDS", SAMPLING, rest=True),
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Draw which visual tokens were kept, merged and dropped for a question; without a video, about the bundled clip.

    Examples:
      prunevid show
      prunevid show video.mp4 "What is added last?" -m Qwen/Qwen2.5-VL-7B-Instruct --browse
      ... --config paper --beside recommended   two methods side by side
      ... --out kept.png                        a contact sheet, for a paper
      ... --out kept.mp4                        drawn on the video
    """
    ask.check_picture(out)
    videos, images, question = ask.told_apart(words or [], question)
    if not (videos or images):
        clip, its_question, _ = ask.bundled_clip()
        videos, question = [clip], question or its_question
    ask.check_asked(videos, images, question)
    named = [config, *(beside or ())]
    built = [build_config(each, pruning.given) for each in named]
    output.calm_libraries()
    shown: dict[str, Any] = {"video_path": videos[0] if len(videos) == 1 else videos or None, "images": images or None}
    shown |= {"question": question, "start": start, "end": end}
    if is_bundled(model.model_path):
        output.note(f"note: {ask.TOY.format(model.model_path)}")
    loaded = ask.load(model, built[0], shown)
    answers = [
        loaded.with_config(each).generate(**shown, max_new_tokens=max_new_tokens, return_stats=True, keep_map=True)
        for each in built
    ]
    path = ask.draw(answers, question or "", out, [*videos, *images], named)
    if browse:
        typer.launch(str(path.absolute()))
    kept = [
        {"config": name, "answer": answer["answer"], "kept": answer.kept.count, "tokens": answer.kept.tokens}
        for name, answer in zip(named, answers, strict=True)
    ]
    said = [f"{each['config']}: {each['answer']} ({each['kept']} of {each['tokens']} tokens)" for each in kept]
    told = {"picture": str(path), "question": question, "answers": kept}
    return Done(told, "\n".join([*said, f"picture: {path}"]))
