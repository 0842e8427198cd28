"""``prunevid eval run``, ``tables`` and ``export``: a benchmark with and without pruning, and what its answers say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.groups import ModelOptions, ShardedEngineOptions
from prunevid_qwen.cli.option import documented, opt, word
from prunevid_qwen.cli.options import CONFIGS_HELP, Changes, pruning_group
from prunevid_qwen.cli.output import Done, Reporting, outline, terminal_table, typed
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.errors import MediaError, excerpt
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL, KEPT_BY_BASELINE, EvalProtocol

OF_RUN = """\
[bold]Examples[/bold]
  prunevid eval check mvbench --data ~/data/MVBench
  prunevid eval run mvbench --data ~/data/MVBench --limit 20 -m Qwen/Qwen2.5-VL-7B-Instruct
  ... --configs baseline,paper,paper+selector=random,paper+keep_ratio=0.2
  ... --protocol mvbench_videochat2    another harness's frames and text
  ... --shard 0/8 --device cuda:0      one of eight processes of one run
  ... --engine ray --ray_address auto  many GPUs, many machines

A stopped run goes on where it was: give the same command again, with any
number of workers. Configs can be added later. A video that is missing or
broken is an error of its questions, asked again next time; the tables say
of how many questions a score is.
"""
OF_TABLES = """\
[bold]Examples[/bold]
  prunevid eval tables runs/mvbench
  ... --json > figures.json

Writes report.md, summary.csv and summary.json beside the answers: the same
bytes for the same answers, however many processes gave them.
"""
OF_EXPORT = """\
[bold]Examples[/bold]
  prunevid eval export runs/videomme --config paper       for the authors'
                                                          eval_your_results.py
  prunevid eval export runs/egoschema --out answers.csv   .json for the server,
                                                          .csv for Kaggle
"""
_FILES = Path(__file__).parents[1] / "evaluation" / "datasets"
DATASETS = tuple(sorted(path.stem for path in _FILES.glob("*.yaml")))  # without loading what reads them
PART = (
    "subset (default) or full of egoschema; val (default) or test of longvideobench; test (default) or val of nextqa."
)
_PROTOCOL = "Protocol (over --protocol's own choices)"


def run(
    *,
    name: str = word(..., "NAME", f"{', '.join(DATASETS)}."),
    data: Path = opt(..., "The folder it was downloaded to; nothing is downloaded.", "DIR"),
    part: str | None = opt(None, PART, "NAME"),
    limit: int | None = opt(None, "So many questions, equally spaced over the set. It may grow.", "INT", least=1),
    configs: str = opt("baseline,paper", f"{CONFIGS_HELP} Default: baseline,paper.", "NAMES"),
    out: Path | None = opt(None, "Folder of the results. Default: runs/ and the data set's name.", "FOLDER"),
    restart: bool = opt(False, "Throw away what the folder holds."),
    dry_run: bool = opt(False, "Check everything up to the model, read one video, show its prompt."),
    protocol: str | None = opt(
        None,
        "Whose frames, pixels and text: docs/evaluation.md lists them. Default: lmms (mlvu's and letter where "
        "lmms-eval's are not known).",
        "NAME",
        _PROTOCOL,
    ),
    model: ModelOptions,
    engine: ShardedEngineOptions,
    output: Reporting,
    choices: Annotated[dict[str, Any], documented(EvalProtocol, _PROTOCOL, without=("dataset",), defaults=False)],
    pruning: Annotated[Changes, pruning_group(without=BY_PROTOCOL)],
) -> Done:
    """Run a benchmark with and without pruning: exact protocols, stored answers, tables of what they are worth."""
    from prunevid_qwen.evaluation.datasets import benchmark
    from prunevid_qwen.evaluation.protocol.protocol import protocol_for
    from prunevid_qwen.evaluation.tasks.runs import BenchmarkRun, answer_benchmark

    known = benchmark(name).name
    made = named_configs(configs, pruning.given, KEPT_BY_BASELINE)
    out = out or Path("runs") / known
    asked = BenchmarkRun(
        known,
        data,
        protocol_for(known, protocol, **choices),
        made,
        part,
        limit,
        model.model_path,
        model.loading,
        plugins=pruning.plugins,
    )
    read = asked.read()
    questions = _that_can_be_asked(read, limit, f"prunevid eval check {known} --data {data}", output)
    output.calm_libraries()
    if dry_run:
        return _described(asked, read, questions)
    output.note_toy(model.model_path)
    with (
        output.keeping(out),
        output.bars() as bars,
        engine.opened(model.device, output.verbose, bars.tell) as (opened, device),
    ):
        answer_benchmark(out, replace(asked, device=device), opened, engine.share, restart, bars.tell, typed(), read)
    number, of = engine.share
    if of > 1:
        output.note(f"share {number} of {of} is answered; when all are: prunevid eval tables {out}")
        return Done({"out": str(out), "shard": [number, of]})
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if record["manifest"] is None:
        names = list(record["configs"])
        whose = f" --config '{names[-1]}'" if len(names) > 1 else ""
        said = f"answered; their authors score them: prunevid eval export {out}{whose}"
        return Done({"out": str(out)}, lambda: typer.echo(said))
    return tables(folder=out, output=output)


def tables(*, folder: Path = word(..., "FOLDER", "Of a run."), output: Reporting) -> Done:
    """Score the stored answers of a run and write its tables: no model, no videos."""
    from prunevid_qwen.evaluation.protocol.score_tables import warnings_of
    from prunevid_qwen.evaluation.tasks.benchmark_tables import REPORT, write_tables

    summary = write_tables(folder)

    def show() -> None:
        page = (folder / REPORT).read_text(encoding="utf-8")
        for title, keys, columns in (("## All questions", 2, 5), ("## Tokens", 1, 7)):  # the page has the others
            section = page.partition(title)[2].partition("\n## ")[0]
            typer.echo(terminal_table(section, keys, columns) + "\n")
        for warning in warnings_of(summary):
            typer.echo(f"note: {warning}")
        typer.echo(f"report: {folder / REPORT}")

    return Done(summary, show)


def export(
    *,
    folder: Path = word(..., "FOLDER", "Of a run."),
    config: str | None = opt(None, "Whose answers. Default: the only one.", "NAME"),
    out: Path | None = opt(None, "Where to. Default: beside the answers.", "FILE"),
    partial: bool = opt(False, "EgoSchema: leave out questions without an answer."),
    output: Reporting,
) -> Done:
    """Write the answers of a run in the format that Video-MME's or EgoSchema's authors score."""
    from prunevid_qwen.evaluation.tasks.benchmark_tables import write_export

    path = str(write_export(folder, config, out, partial))
    return Done({"out": path}, lambda: typer.echo(path))


def _that_can_be_asked(data: Any, limit: int | None, how: str, output: Reporting) -> Sequence[Any]:
    """Return the questions, and say which of their media are missing.

    Raises:
        MediaError: all are.
    """
    from prunevid_qwen.evaluation.tasks.runs import spread

    asked = spread(data.records, limit)
    paths = {media.path for record in asked for media in record.media}
    missing = sorted(path for path in paths if not Path(path).exists())
    if len(missing) == len(paths):
        raise MediaError(f"none of the {len(paths)} media that would be asked about is there; what to do: {how}")
    output.note_missing(
        [excerpt(each) for each in missing],
        "media are missing",
        f"; scores will be of the other questions. All of them, and what to do: {how}",
    )
    return asked


def _described(run: Any, data: Any, asked: Sequence[Any]) -> Done:
    """Do everything up to the model: questions, protocol, configs, the model's files, one video and its prompt."""
    from prunevid_qwen.evaluation.engine.task_media import read_media
    from prunevid_qwen.evaluation.tasks.runs import BenchmarkQuestion

    reading, options = run.reading(), run.options(data)
    found: dict[str, Any] = {"video": None}
    prompt: dict[str, str] | None = None  # role -> text; which subtitles it shows may depend on the frames taken
    for record in asked:
        read = read_media(reading, record.media)
        if read.error is None:
            shapes = [list(medium.frames.shape[:3]) for medium in read.media]
            found = {"video": record.media[0].path, "frames, height, width": shapes, "seconds": read.seconds}
            messages = BenchmarkQuestion(record, run.protocol).messages([], read.media)
            prompt = {message["role"]: _text_of(message["content"]) for message in messages}
            break
    names = [name for name, _ in run.configs]
    answers = len(asked) * len(names)
    told = {
        "questions": len(asked),
        "answers": answers,
        "configs": names,
        "options": options,
        "first": found,
        "prompt": prompt,
    }

    def show() -> None:
        typer.echo(f"{data.title} ({data.part}): {len(asked)} questions, {answers} answers by {', '.join(names)}")
        typer.echo(outline({"options": options, "first media read": found}))
        for role, text in (prompt or {}).items():
            typer.echo(f"first question, {role}:\n{text}")
        typer.echo("all is there up to the model; leave out --dry_run to run")

    return Done(told, show)


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(each["text"] for each in content if each["type"] == "text")
