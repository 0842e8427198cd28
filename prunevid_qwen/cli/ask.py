"""``prunevid ask`` and ``demo``: one question, its answer and receipt; ``prunevid batch``: many questions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.cli.groups import EngineOptions, ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import PANEL, Done, FileReporting, Reporting, typed
from prunevid_qwen.cli.pruning_options import CONFIG, CONFIG_KIND, SAMPLING, PruningOptions
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import build_config, named_config
from prunevid_qwen.errors import ConfigError, MediaError, excerpt, quoted

TOY = (
    "{}, a toy that has only ever seen moving shapes. For real videos pass -m Qwen/Qwen2.5-VL-7B-Instruct, or a folder "
    "that holds it"
)
PICTURES = (".html", ".png", ".mp4")
"""Endings of files that `prunevid_qwen.pictures` writes; known here without loading torch."""

OF_DEMO = """\
The same as ask; without a video, about the clip that comes with the package.

Examples:
  prunevid demo
  prunevid demo --compare                   also without pruning, side by side
  prunevid demo --selector fastv            another method
  prunevid demo -m bundled-qwen3vl          another toy, of Qwen3-VL's architecture
  python demo.py --app                      a page for the browser: prunevid app --help
"""


def ask(
    *,
    words: list[str] = word(None, "VIDEO|IMAGE... QUESTION", "Files, and the question in quotes."),
    video_path: list[str] | None = opt(None, "Video, gif or folder of frames. Repeat it for several.", "PATH"),
    image: list[str] | None = opt(None, "Image file. Repeat it for several.", "PATH"),
    question: str | None = opt(None, "What to ask.", "TEXT", short="-q"),
    config: str = CONFIG,
    max_new_tokens: int = opt(64, "Longest answer. Default: 64.", "INT", least=1),
    compare: bool = opt(False, "Also answer without pruning, side by side.", None, PANEL),
    picture: Path | None = opt(None, "Also draw which tokens were kept: .html, .png, .mp4.", "FILE", PANEL),
    start: float | None = opt(None, "From this second of the video.", "SECONDS", SAMPLING, rest=True),
    end: float | None = opt(None, "Up to this second of the video.", "SECONDS", SAMPLING, rest=True),
    model: ModelOptions,
    output: FileReporting,
    pruning: PruningOptions,
    demo: bool,
) -> Done:
    """Answer a question about videos or images with pruned tokens.

    Examples:
      prunevid ask cooking.mp4 "What is added last?" -m Qwen/Qwen2.5-VL-7B-Instruct
      prunevid ask photo.jpg "What is this?" -m llava-hf/llava-1.5-7b-hf
      ... --config aggressive --max_frames 64   more frames, fewer tokens of each
      ... --keep_ratio 0.2 --compare            also without pruning, side by side
      ... --selector fastv --selector.layers 3  an option of one method, in full
      ... --selector fastv --help               the options of that method
      ... --picture kept.html                   which tokens were kept, for a browser
      ... --json > answer.json                  all but the one object goes to stderr
    """
    if picture is not None:
        check_picture(picture)
    built = build_config(config, pruning.given)
    videos, images, question = told_apart(words or [], question)
    videos, images = [*(video_path or ()), *videos], [*(image or ()), *images]
    expected = None
    if demo and not (videos or images):
        clip, its_question, its_answer = bundled_clip()
        videos = [clip]
        if question in (None, its_question):
            question, expected = its_question, its_answer
    check_asked(videos, images, question)  # all that can be checked without loading torch, in tenths of a second
    from prunevid_qwen.cli.comparison import compared
    from prunevid_qwen.cli.report import Report
    from prunevid_qwen.video.data_uris import named

    seen = ", ".join(map(named, (*videos, *images)))
    toy = is_bundled(model.model_path)
    who = TOY.format(model.model_path) if toy else model.model_path
    report = Report(output, {"Model": who, "Seen": seen, "Question": question or ""}, toy)
    shown: dict[str, Any] = {"video_path": videos[0] if len(videos) == 1 else videos or None, "images": images or None}
    shown |= {"question": question, "start": start, "end": end}
    with report.watching():
        report.tell("Loading the model")
        output.calm_libraries()
        loaded = load(model, built.replace(verbose=True) if output.verbose else built, shown)
        if output.as_json:
            output.note(f"Model: {who}")
        if compare:
            held = picture is not None
            found = compared(loaded, built, shown, max_new_tokens, report.tell_encoded, report.tell, keep_map=held)
        else:
            shows = {"streamer": report.streamer(loaded), "progress": report.tell_encoded}
            shows |= {"keep_map": picture is not None}
            found = loaded.generate(**shown, **shows, max_new_tokens=max_new_tokens, return_stats=True)
    told = {"question": question, "answer": found["answer"], "stats": found["stats"]}
    told |= {} if expected is None else {"expected_answer": expected}
    told |= {name: found[name] for name in found if compare}
    if picture is not None:
        told["picture"] = str(draw([found], question or "", picture, [*videos, *images], [config]))
    report.show(told)
    return Done(told, "" if picture is None else f"picture: {picture}")


def check_picture(path: Path) -> None:
    """Refuse a file for a picture before a model is loaded.

    Raises:
        ConfigError: its ending names no form, or its folder does not exist.
    """
    if path.suffix.lower() not in PICTURES or not path.absolute().parent.is_dir():
        forms = " or ".join(PICTURES)
        raise ConfigError(f"a picture is a {forms} file, in a folder that exists; got {quoted(str(path))}")


def draw(answers: Sequence[Any], question: str, path: Path, sources: Sequence[str], titles: Sequence[str]) -> Path:
    """Draw what was kept of answers to one question side by side; sources and errors are those of `picture`."""
    import dataclasses

    from prunevid_qwen.pictures import picture

    kept = [dataclasses.replace(answer.kept, question=question, answer=answer["answer"]) for answer in answers]
    try:
        return picture(kept, path, None if any(len(each.media) != len(sources) for each in kept) else sources, titles)
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): name another file") from error


def load(model: ModelOptions, config: PruneVidConfig, shown: dict[str, Any], **more: Any) -> Any:
    """Load the model, with ``more`` for `PrunedVLM`; that it is not shown videos is said before weights are read."""
    from prunevid_qwen import PrunedVLM
    from prunevid_qwen.inputs.frontends import check_reads
    from prunevid_qwen.loading import HUB_ARGUMENTS

    loading = {name: value for name, value in model.loading.items() if value is not None}
    if shown["video_path"] and not is_bundled(model.model_path):
        check_reads(model.model_path, "video", {name: loading[name] for name in HUB_ARGUMENTS if name in loading})
    return PrunedVLM.from_pretrained(model.model_path, config=config, **loading, **more)


def told_apart(words: list[str], question: str | None) -> tuple[list[str], list[str], str | None]:
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
            both = f"{quoted(each)} is no file here, and the question is {quoted(question)}"
            raise ConfigError(f"{both}: pass the paths of the videos and one question")
    return videos, images, question


def check_asked(videos: Sequence[str], images: Sequence[str], question: str | None) -> None:
    """Refuse what can be seen to be wrong before a model is loaded.

    Raises:
        ConfigError: no question, or nothing to ask about.
        MediaError: a file is missing or empty.
    """
    from prunevid_qwen.video.data_uris import is_data_uri
    from prunevid_qwen.video.paths import local_file, local_path

    if not (videos or images):
        how = 'prunevid ask video.mp4 "What happens?", or pass --video_path or --image'
        raise ConfigError(f"nothing to ask about: {how} (`prunevid demo` brings its own clip)")
    if not (question or "").strip():
        raise ConfigError('no question: pass it behind the video, or --question "..."')
    for path in videos:
        if not os.path.isdir(local_path(path)):  # a folder of frames
            local_file(path, "video")
    for path in images:
        if not is_data_uri(path):
            local_file(path, "image")


def bundled_clip() -> tuple[str, str, str]:
    """Return path, question and answer of the clip that the demo is about."""
    clips = resources.files("prunevid_qwen").joinpath("bundled", "clips")
    entry = json.loads(clips.joinpath("clips.json").read_text(encoding="utf-8"))[0]
    first = entry["questions"][0]
    return str(clips.joinpath(entry["file"])), first["question"], first["answer"]


def batch(
    *,
    questions: Path = word(..., "QUESTIONS.jsonl|FOLDER", "One JSON object a line, see below; or a folder of media."),
    out: Path = opt(..., "File of the answers.", "ANSWERS.jsonl"),
    question: list[str] | None = opt(None, "Of a folder: asked about each file. Repeat it for several.", "TEXT"),
    question_file: Path | None = opt(None, "Of a folder: a file with a question a line.", "FILE"),
    config: str = opt("paper", "Preset or JSON file, see `prunevid config show`. Default: paper.", CONFIG_KIND),
    max_new_tokens: int = opt(512, "Longest answer. Default: 512.", "INT", least=1),
    system: str | None = opt(None, "Message of the system before every question. Default: none.", "TEXT"),
    limit: int | None = opt(None, "So many questions, equally spaced over the file. It may grow.", "INT", least=1),
    restart: bool = opt(False, "Throw away what the file of answers holds."),
    dry_run: bool = opt(False, "Read the questions, say which media are missing, and ask nothing."),
    model: ModelOptions,
    engine: EngineOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Answer a file of questions about videos and images, on one GPU or on many; a stopped run goes on.

    Questions: one JSON object a line; paths start from the file's folder
      {"id": "a1", "video": "a.mp4", "question": "What is added?", "start": 10}
      {"images": ["x.png", "y.png"], "question": "What differs?", "my_key": 7}
      {"messages": [{"role": "user", "content": [
        {"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]}]}
      Lines without an id are called by their number; keys of your own come back
      under "extra". Neighbours about the same media read and encode them once.
      Or a folder: --question is asked about each of its videos and images.

    Answers: one JSON object a line, in the order in which they come; always
      the most probable token (greedy), whatever the model's generation_config
      prefers. A stopped run goes on where it was: give the same command again.
      What failed is asked again, and questions can be added to the file.

    Examples:
      prunevid batch questions.jsonl --out answers.jsonl -m Qwen/Qwen2.5-VL-7B-Instruct
      prunevid batch videos/ --question "What happens?" --out answers.jsonl
      prunevid batch videos/ --question_file questions.txt --out answers.jsonl --dry_run
      ... --limit 20                        a first try; without it, the rest
      ... --engine ray                      every GPU of this machine
      ... --engine ray --ray_address auto   every GPU of this machine's cluster
    """
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: pass a file, such as {out / 'answers.jsonl'}")
    if out.resolve() == questions.resolve():
        raise ConfigError(f"--out {out} is the file of the questions: pass another")
    if not questions.is_dir() and (question or question_file is not None):
        raise ConfigError(f"--question and --question_file are for a folder, and {questions} is none")
    named = named_config(config, pruning.given)
    from prunevid_qwen.evaluation.tasks.batch_questions import missing_media, questions_for_folder, read_questions
    from prunevid_qwen.evaluation.tasks.runs import spread

    try:
        lines = question_file.read_text(encoding="utf-8").splitlines() if question_file else []
    except OSError as error:
        raise ConfigError(f"cannot read --question_file {question_file} ({error.strerror})") from None
    texts = [*(question or ()), *(line for line in lines if line.strip())]
    found = questions_for_folder(questions, texts, system) if questions.is_dir() else read_questions(questions, system)
    asked: Any = spread(list(found), limit)
    missing = missing_media(asked)
    again = ": questions about them get a line that says so, and are asked again by the next run"
    output.note_missing([excerpt(each) for each in missing], "media are missing", again)
    if dry_run:
        told = {"questions": len(asked), "missing": missing, "config": named[0], "out": str(out)}
        return Done(told, f"{len(asked)} questions can be asked; leave out --dry_run to ask them")
    from prunevid_qwen.evaluation.tasks.runs import BatchRun, answer_batch

    run = BatchRun(tuple(asked), named, system, max_new_tokens, model.model_path, model.loading, pruning.plugins)
    with engine.running(output, out, model) as (tell, opened, device):
        told = answer_batch(out, run, opened, device, restart, tell, typed())
    failed = f"; {told['failed']} could not be answered, their lines say why" if told["failed"] else ""
    said = f"{told['answered']} of {told['questions']} questions are answered in {out}{failed}"
    return Done(told, said, MediaError.exit_code if told["failed"] else 0)
