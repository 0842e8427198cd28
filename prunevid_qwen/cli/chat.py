"""``prunevid chat``: a conversation about one video, which is read and encoded once."""

from __future__ import annotations

import functools

import typer

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.cli import ask
from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import Done, Reporting
from prunevid_qwen.cli.pruning_options import CONFIG, SAMPLING, PruningOptions
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError


def chat(
    *,
    words: list[str] = word(None, "VIDEO", "The video, gif or folder of frames. Default: the bundled clip."),
    video: str | None = opt(None, "The same.", "PATH"),
    config: str = CONFIG,
    max_new_tokens: int = opt(512, "Longest answer. Default: 512.", "INT", least=1),
    start: float | None = opt(None, "From this second of the video.", "SECONDS", SAMPLING, rest=True),
    end: float | None = opt(None, "Up to this second of the video.", "SECONDS", SAMPLING, rest=True),
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Talk about a video: it is read and encoded once, and tokens are selected anew for each question.

    Lines that begin with / are commands
      /video PATH    go on with another video
      /keep 0.2      keep this share of the tokens from now on
      /stats         the receipt of the last answer
      /show PATH     write a page that shows the tokens that it kept
      /reset         forget the questions and answers, not the video
      /help, /quit
      Ctrl-C stops an answer, Ctrl-D leaves. Where input is no terminal, each
      line is a question; the exit code is that of the first that failed.

    Examples:
      prunevid chat video.mp4 -m Qwen/Qwen2.5-VL-7B-Instruct
      prunevid chat --video video.mp4 --keep_ratio 0.2
      prunevid chat video.mp4 < questions.txt > answers.txt
      prunevid chat video.mp4 --json < questions.txt    one object a line
    """
    from prunevid_qwen.cli.dialogue import Dialogue, Opening, waiting

    named = [*(words or ()), *([video] if video else ())]
    if len(named) > 1:
        raise ConfigError(f"chat is about one video, got {', '.join(named)}: go on with another by /video PATH")
    path = named[0] if named else ask.bundled_clip()[0]
    ask.check_asked([path], (), "any")
    built = build_config(config, pruning.given)
    if is_bundled(model.model_path):
        toy = f"note: {ask.TOY.format(model.model_path)}"
        output.note(typer.style(toy, fg="yellow"))
    output.calm_libraries()
    with waiting(output, "Loading the model"):
        loaded = ask.load(model, built.replace(verbose=True) if output.verbose else built, {"video_path": path})
    opening = Opening(path, start, end, functools.partial(build_config, config), pruning.given)
    return Done(exit_code=Dialogue(loaded, opening, output, max_new_tokens).go_on(), text="")
