"""``prunevid eval``: benchmarks with and without pruning, and Visual-CoT's questions about images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from prunevid_qwen.cli.groups import JudgeOptions, ModelOptions, ShardedEngineOptions
from prunevid_qwen.cli.option import documented, opt, word
from prunevid_qwen.cli.output import Bars, Done, FileReporting, Reporting, outline, terminal_table, typed
from prunevid_qwen.cli.pruning_options import CONFIGS_HELP, Changes, PruningOptions, pruning_group
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.errors import ConfigError, MediaError, excerpt
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL, KEPT_BY_BASELINE, EvalProtocol

_FILES = Path(__file__).parents[1] / "evaluation" / "datasets"
DATASETS = tuple(sorted(path.stem for path in _FILES.glob("*.yaml")))  # without loading what reads them
PART = (
    "subset (default) or full of egoschema; val (default) or test of longvideobench; test (default) or val of nextqa."
)
_SCORE = "How it is scored"
_PROTOCOL = "Protocol (over --protocol's own choices)"
_WHOSE = (
    "Whose frames, pixels and text: docs/evaluation.md lists them. Default: lmms (mlvu's and letter where lmms-eval's "
    "are not known)."
)
_DECODE = (
    "Read every video to its end and decode its first and last frame: finds what is broken inside, and takes as long "
    "as reading all bytes. Without it, files are opened, and their length compared with what their header promises."
)
_MOST = 200  # lines; --json has all


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
    protocol: str | None = opt(None, _WHOSE, "NAME", _PROTOCOL),
    model: ModelOptions,
    engine: ShardedEngineOptions,
    output: Reporting,
    choices: Annotated[dict[str, Any], documented(EvalProtocol, _PROTOCOL, without=("dataset",), defaults=False)],
    pruning: Annotated[Changes, pruning_group(without=BY_PROTOCOL)],
) -> Done:
    """Run a benchmark with and without pruning: exact protocols, stored answers, tables of what they are worth.

    Examples:
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
    from prunevid_qwen.evaluation.datasets import benchmark
    from prunevid_qwen.evaluation.protocol.protocol import protocol_for
    from prunevid_qwen.evaluation.tasks.runs import BenchmarkRun, answer_benchmark, spread

    known = benchmark(name).name
    own, made = protocol_for(known, protocol, **choices), named_configs(configs, pruning.given, KEPT_BY_BASELINE)
    asked = BenchmarkRun(known, data, own, made, part, limit, model.model_path, model.loading, plugins=pruning.plugins)
    out = out or Path("runs") / known
    read = asked.read()
    wanted = asked.wanted()
    wanted.check_asked(choices)
    wanted.check_shown(media for record in read.records for media in record.media)
    if wanted.note:
        output.note(f"note: {wanted.note}")
    questions = spread(read.records, limit)
    how = f"prunevid eval check {known} --data {data}"
    paths = {media.path for record in questions for media in record.media}
    missing = sorted(path for path in paths if not Path(path).exists())
    if len(missing) == len(paths):
        raise MediaError(f"none of the {len(paths)} media that would be asked about is there; what to do: {how}")
    others = f"; scores will be of the other questions. All of them, and what to do: {how}"
    output.note_missing([excerpt(each) for each in missing], "media are missing", others)
    if dry_run:
        return _planned(asked, read, questions, output)
    with engine.running(output, out, model) as (tell, opened, device):
        answer_benchmark(out, replace(asked, device=device), opened, engine.share, restart, tell, typed(), read)
    number, of = engine.share
    if of > 1:
        output.note(f"share {number} of {of} is answered; when all are: prunevid eval tables {out}")
        return Done({"out": str(out), "shard": [number, of]})
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if record["manifest"] is None:
        names = list(record["configs"])
        whose = f" --config '{names[-1]}'" if len(names) > 1 else ""
        return Done({"out": str(out)}, f"answered; their authors score them: prunevid eval export {out}{whose}")
    return tables(folder=out, output=output)


def _planned(run: Any, data: Any, asked: Sequence[Any], output: Reporting) -> Done:
    """Do everything up to the model: questions, protocol, configs, the model's files, one video and its prompt."""
    from prunevid_qwen.evaluation.engine.task_media import read_media
    from prunevid_qwen.evaluation.tasks.runs import BenchmarkQuestion

    output.calm_libraries()
    reading, options, names = run.reading(), run.options(data), [name for name, _ in run.configs]
    told: dict[str, Any] = {"questions": len(asked), "answers": len(asked) * len(names), "configs": names}
    told |= run.wanted().facts
    told |= {"options": options, "first": {"video": None}, "prompt": None}
    for record in asked:
        read = read_media(reading, record.media)
        if read.error is None:
            shapes = [list(medium.frames.shape[:3]) for medium in read.media]
            told["first"] = {"video": record.media[0].path, "frames, height, width": shapes, "seconds": read.seconds}
            # which subtitles it shows may depend on the frames taken
            messages = BenchmarkQuestion(record, run.protocol).messages([], read.media)
            told["prompt"] = {
                each["role"]: "".join(part.get("text", "") for part in each["content"])
                if isinstance(each["content"], list)
                else each["content"]
                for each in messages
            }
            break
    return Done(told, f"{outline(told)}\nall is there up to the model; leave out --dry_run to run")


def tables(*, folder: Path = word(..., "FOLDER", "Of a run."), output: Reporting) -> Done:
    """Score the stored answers of a run and write its tables: no model, no videos.

    Examples:
      prunevid eval tables runs/mvbench
      ... --json > figures.json

    Writes report.md, summary.csv and summary.json beside the answers: the same
    bytes for the same answers, however many processes gave them.
    """
    from prunevid_qwen.evaluation.protocol.score_tables import warnings_of
    from prunevid_qwen.evaluation.tasks.benchmark_tables import REPORT, write_tables

    summary = write_tables(folder)
    page = (folder / REPORT).read_text(encoding="utf-8")
    lines = []
    for title, keys, columns in (("## All questions", 2, 5), ("## Tokens", 1, 7)):  # the page has the others
        section = page.partition(title)[2].partition("\n## ")[0]
        lines.append(terminal_table(section, keys, columns) + "\n")
    lines += [f"note: {warning}" for warning in warnings_of(summary)]
    return Done(summary, "\n".join([*lines, f"report: {folder / REPORT}"]))


def export(
    *,
    folder: Path = word(..., "FOLDER", "Of a run."),
    config: str | None = opt(None, "Whose answers. Default: the only one.", "NAME"),
    out: Path | None = opt(None, "Where to. Default: beside the answers.", "FILE"),
    partial: bool = opt(False, "EgoSchema: leave out questions without an answer."),
    output: Reporting,
) -> Done:
    """Write the answers of a run in the format that Video-MME's or EgoSchema's authors score.

    Examples:
      prunevid eval export runs/videomme --config paper       for the authors'
                                                              eval_your_results.py
      prunevid eval export runs/egoschema --out answers.csv   .json for the server,
                                                              .csv for Kaggle
    """
    from prunevid_qwen.evaluation.tasks.benchmark_tables import write_export

    path = str(write_export(folder, config, out, partial))
    return Done({"out": path}, path)


def check(
    *,
    dataset: str = word(..., "NAME", f"{', '.join(DATASETS)}."),
    folder: Path | None = word(None, "DIR", "As --data.", hidden=True),
    data: Path | None = opt(None, "The folder it was downloaded to.", "DIR"),
    part: str | None = opt(None, PART, "NAME"),
    subtitles: bool = opt(False, "Read the subtitles too (videomme, longvideobench)."),
    decode: bool = opt(False, _DECODE),
    output: FileReporting,
) -> Done:
    """Say what a benchmark's folder lacks, and what in it cannot be read, before any model is loaded.

    Examples:
      prunevid eval check mvbench --data ~/data/MVBench
      prunevid eval check videomme --data ~/data/Video-MME --subtitles
      prunevid eval check egoschema --data ~/data/EgoSchema --part full --decode
      ... --out missing.json        every file, with the questions that need it

    Nothing is ever downloaded; questions are also looked for in the cache of `datasets`.
    """
    if folder is not None and data is None:
        output.note("note: `eval check NAME DIR` is now `eval check NAME --data DIR`; the old spelling works until 0.3")
    place = data or folder
    if place is None or (data and folder):
        raise ConfigError(f"name the data set's folder once: prunevid eval check {dataset} --data DIR")
    from prunevid_qwen.evaluation.datasets import check as checked
    from prunevid_qwen.evaluation.datasets import read_dataset
    from prunevid_qwen.evaluation.protocol.harness_scorers import columns_of

    columns_of(dataset)  # a misspelt scorer is refused here as `eval run` refuses it
    with Bars(output.quiet) as bars:
        report = checked(read_dataset(dataset, place, part, subtitles), decode, bars.tell)
    of = report.dataset
    lines = [
        f"{of.title} ({of.part}) in {of.folder}: {len(of.records)} questions, {report.media} media",
        f"questions: {_first_of(of.annotations)}",
    ]
    for problem in report.problems[:_MOST]:
        asked = f" (for {_first_of(problem.records)})" if problem.records else ""
        lines.append(f"{problem.kind}: {problem.path}: {problem.why.removeprefix(problem.path).lstrip(': ')}{asked}")
    if len(report.problems) > _MOST:
        lines.append(f"... {len(report.problems) - _MOST} more; --json lists them all")
    lines += [f"note: {note}" for note in report.notes]
    short = [f"{name} {good} of {all_}" for name, (good, all_) in report.by_group.items() if good < all_]
    few = f" ({', '.join(short)})" if short else ""
    lines.append(f"{report.askable} of {len(of.records)} questions can be asked{few}")
    lines += ["complete: nothing is missing, unreadable or damaged"] if report.complete else []
    lines += [f"next: {step}" for step in report.next_steps]
    return Done(report.to_dict(), "\n".join(lines), 0 if report.complete else MediaError.exit_code)


def _first_of(names: Sequence[Any]) -> str:
    return f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def visual_cot(
    *,
    data: list[Path] | None = opt(None, "A set (.json, .jsonl), or a folder of sets. Repeat it for several.", "PATH"),
    images: Path = opt(Path("."), "Folder from which the records' image paths start. Default: this one.", "FOLDER"),
    limit: int | None = opt(None, "So many samples of each set, equally spaced. Default: all.", "INT", least=1),
    brief: bool = opt(False, "Ask for a single word or phrase, behind every question."),
    max_new_tokens: int | None = opt(None, "Longest answer. Default: 1024.", "INT", least=1),
    configs: str = opt("paper", f"{CONFIGS_HELP} Default: paper, beside the baseline.", "NAMES"),
    no_baseline: bool = opt(False, "Leave out the unpruned model (and so the differences to it)."),
    out: Path = opt(Path("runs/visual_cot"), "Folder of the results. Default: runs/visual_cot.", "FOLDER"),
    dry_run: bool = opt(False, "Only read everything and say what is missing (exit code 4)."),
    restart: bool = opt(False, "Throw away what the folder holds."),
    scorer: str = opt("", "Default: judge with --judge_base_url, else contained.", "judge|exact|contained", _SCORE),
    judge_only: bool = opt(False, "Score the answers that --out holds; no model is loaded.", None, _SCORE),
    judge: JudgeOptions,
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Answer Visual-CoT's questions about images with and without pruning, and score the answers.

    Examples:
      prunevid eval visual-cot --data viscot_benchmark/benchmark --images . --dry_run
      prunevid eval visual-cot --data benchmark/gqa.json --images . --limit 100 \\
          -m Qwen/Qwen2.5-VL-7B-Instruct --configs paper --keep_ratio 0.11
      ... --judge_base_url http://localhost:8000/v1 --judge_model Qwen/Qwen2.5-32B-Instruct
      ... --judge_only                      judge the answers of --out, or try again what failed

    A stopped run goes on where it was: give the same command again. Scores are of the answered samples, and
    the report says of how many. Images that were missing are asked when they are there.
    """
    if restart and judge_only:
        raise ConfigError("--restart throws away the answers that --judge_only would score: pass one of them")
    scorer = scorer or ("judge" if judge.judge_base_url else "contained")
    marking = judge.arguments() if scorer == "judge" else {}
    if scorer == "judge" and not marking:
        raise ConfigError("a judge needs --judge_base_url and --judge_model, see --help; --scorer contained needs none")
    made = named_configs(configs, pruning.given)
    from prunevid_qwen.evaluation.tasks import judge as judging
    from prunevid_qwen.evaluation.tasks import visual_cot as task
    from prunevid_qwen.evaluation.tasks import visual_cot_tables

    asked = task.VisualCotRun(
        tuple(data or ()), images, task.competitors(made, not no_baseline), limit, task.BRIEF if brief else "",
        max_new_tokens or task.MAX_NEW_TOKENS, model.model_path, model.loading, plugins=pruning.plugins,
    )  # fmt: skip
    samples = [] if judge_only and not dry_run else asked.samples()
    with Bars(output.quiet) as bars:
        found = list(task.problems(samples, images, dry_run, bars.tell))
    others = "" if dry_run else "; --dry_run lists them all. The scores will be of the others alone"
    output.note_missing(found, f"of {len(samples)} samples cannot be asked", others, len(found) if dry_run else 5)
    if dry_run:
        said = f"{len(samples) - len(found)} of {len(samples)} samples can be asked"
        return Done({"samples": len(samples), "problems": found}, said, MediaError.exit_code if found else 0)
    marker = judging.Judge(**marking) if marking else None
    with marker.open() if marker else contextlib.nullcontext():
        pass  # a missing client library is said before hours of answering
    with output.running(out, "" if judge_only else model.model_path) as bars:
        if not judge_only:
            task.answer_run(out, asked, samples, restart, bars.tell, typed())
        summary = visual_cot_tables.score_run(out, scorer, marker, judge.judge_workers, bars.tell)
    table = terminal_table(visual_cot_tables.report_text(summary), keys=2, columns=6)
    return Done(summary, "\n".join([*visual_cot_tables.warnings_of(summary), table, f"report: {out / 'report.md'}"]))
