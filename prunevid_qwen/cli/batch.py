"""``prunevid batch``: a file of questions, or one question about each file of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.groups import EngineOptions, ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.options import CONFIG_KIND, PruningOptions
from prunevid_qwen.cli.output import Done, Reporting, typed
from prunevid_qwen.config.typed import named_config
from prunevid_qwen.errors import ConfigError, MediaError, excerpt

EXPLAINED = """\
[bold]Questions[/bold]: one JSON object a line; paths start from the file's folder
  {"id": "a1", "video": "a.mp4", "question": "What is added?", "start": 10}
  {"images": ["x.png", "y.png"], "question": "What differs?", "my_key": 7}
  {"messages": \\[{"role": "user", "content": \\[
    {"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]}]}
  Lines without an id are called by their number; keys of your own come back
  under "extra". Neighbours about the same media read and encode them once.
  Or a folder: --question is asked about each of its videos and images.

[bold]Answers[/bold]: one JSON object a line, in the order in which they come; always
  the most probable token (greedy), whatever the model's generation_config
  prefers. A stopped run goes on where it was: give the same command again.
  What failed is asked again, and questions can be added to the file.

[bold]Examples[/bold]
  prunevid batch questions.jsonl --out answers.jsonl -m Qwen/Qwen2.5-VL-7B-Instruct
  prunevid batch videos/ --question "What happens?" --out answers.jsonl
  prunevid batch videos/ --question_file questions.txt --out answers.jsonl --dry_run
  ... --limit 20                        a first try; without it, the rest
  ... --engine ray                      every GPU of this machine
  ... --engine ray --ray_address auto   every GPU of this machine's cluster
"""


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
    """Answer a file of questions about videos and images, on one GPU or on many; a stopped run goes on."""
    if out.resolve() == questions.resolve():
        raise ConfigError(f"--out {out} is the file of the questions: pass another")
    named = named_config(config, pruning.given)
    from prunevid_qwen.evaluation.tasks.batch_questions import missing_media
    from prunevid_qwen.evaluation.tasks.runs import spread

    asked: Any = spread(_questions(questions, question or [], question_file, system), limit)
    missing = missing_media(asked)
    again = ": questions about them get a line that says so, and are asked again by the next run"
    output.note_missing([excerpt(each) for each in missing], "media are missing", again)
    if dry_run:
        told = {"questions": len(asked), "missing": missing, "config": named[0], "out": str(out)}
        said = f"{len(asked)} questions can be asked; leave out --dry_run to ask them"
        return Done(told, lambda: typer.echo(said))
    from prunevid_qwen.evaluation.tasks.runs import BatchRun, answer_batch

    output.calm_libraries()
    run = BatchRun(tuple(asked), named, system, max_new_tokens, model.model_path, model.loading, pruning.plugins)
    output.note_toy(model.model_path)
    with (
        output.keeping(out),
        output.bars() as bars,
        engine.opened(model.device, output.verbose, bars.tell) as (opened, device),
    ):
        told = answer_batch(out, run, opened, device, restart, bars.tell, typed())
    failed = f"; {told['failed']} could not be answered, their lines say why" if told["failed"] else ""
    said = f"{told['answered']} of {told['questions']} questions are answered in {out}{failed}"
    return Done(told, lambda: typer.echo(said), MediaError.exit_code if told["failed"] else 0)


def _questions(path: Path, texts: Sequence[str], file: Path | None, system: str | None) -> list[Any]:
    from prunevid_qwen.evaluation.tasks.batch_questions import questions_for_folder, read_questions

    if not path.is_dir():
        if texts or file is not None:
            raise ConfigError(f"--question and --question_file are for a folder, and {path} is none")
        return list(read_questions(path, system))
    if file is not None:
        try:
            texts = [*texts, *(line for line in file.read_text(encoding="utf-8").splitlines() if line.strip())]
        except OSError as error:
            raise ConfigError(f"cannot read --question_file {file} ({error.strerror})") from None
    return list(questions_for_folder(path, texts, system))
