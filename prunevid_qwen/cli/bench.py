"""``prunevid bench``: accuracy of every method at equal cost, and speed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.options import CONFIGS_HELP, load_plugins
from prunevid_qwen.cli.output import Done, Reporting, can_plot, typed
from prunevid_qwen.config.option_classes import classes_of
from prunevid_qwen.config.typed import names_in_text, read_value
from prunevid_qwen.errors import ConfigError, quoted

OF_ACCURACY = """\
[bold]Examples[/bold]
  prunevid bench accuracy --quick                   a few minutes on two cores
  ... --out runs/mine --methods "prunevid,stage 1 + random,pool"
  ... --out runs/other --first_seed 1003500000      other videos
  ... --against eval/results/moving_shapes          better than that, or noise?
  ... --plots_from runs/moving_shapes               write the report again, asking nothing

A stopped run goes on where it was: give the same command again.
The config that reaches each budget stands in the folder's run.json.
"""
OF_SPEED = """\
[bold]Examples[/bold]
  prunevid bench speed --quick                      a minute, to see what comes out
  prunevid bench speed                              7B-like proportions on a CPU, the 7B itself on a GPU
  ... --shape 3b --frames 16,64,256 --batch 1,4     random weights: nothing is downloaded
  ... -m Qwen/Qwen2.5-VL-7B-Instruct --video clip.mp4
  ... --configs paper,recommended,mine.json         the controls follow the first
  ... --only growth                                 stage 1 against frames, up to an hour
  ... --plots_from runs/efficiency                  write the report again, measuring nothing

A stopped run goes on where it was: give the same command again.
"""
_ASKED, _RUNS = "What is measured", "How it runs"
_ONLY = ("contest", "overhead", "growth")


def accuracy(
    *,
    out: Path = opt(Path("runs/moving_shapes"), "Folder of the results. Default: runs/moving_shapes.", "FOLDER", _RUNS),
    quick: bool = opt(False, "A few minutes: fewer videos and budgets, one random seed.", None, _RUNS),
    methods: str = opt("", "As in the report, or of --plugin, with commas between. Default: all.", "NAMES", _ASKED),
    conditions: str = opt("", "plain, long, clutter, shake. Default: all.", "NAMES", _ASKED),
    budgets: str = opt("", "Shares of the tokens, averaged over the layers, such as 0.16,0.1.", "SHARES", _ASKED),
    videos: int | None = opt(None, "How many. May grow in a later run.", "INT", _ASKED, least=1),
    questions: int | None = opt(None, "About each video, at most. Default: 12.", "INT", _ASKED, least=1),
    random_seeds: int | None = opt(None, "Draws of what is random. Default: 2.", "INT", _ASKED, least=1),
    first_seed: int | None = opt(None, "The first video's; later ones count on from it.", "INT", _ASKED),
    model_path: str = opt(
        "bundled", "bundled, or the folder of another model of moving shapes.", "FOLDER", _ASKED, short="-m"
    ),
    through_files: bool = opt(False, "Write real mp4 files and read them, instead of tensors.", None, _ASKED),
    workers: int | None = opt(None, "Processes. Default: one for each core.", "INT", _RUNS, least=1),
    restart: bool = opt(False, "Throw away what the folder holds.", None, _RUNS),
    dry_run: bool = opt(False, "Say what would be asked, and ask nothing.", None, _RUNS),
    plots_from: Path | None = opt(None, "Only draw and write the report of this folder.", "FOLDER", _RUNS),
    pack: bool = opt(False, "Leave the answers as answers.jsonl.xz, a seventieth of the size.", None, _RUNS),
    plugin: list[str] | None = opt(None, "Python file, or module, that registers methods.", "FILE|MODULE", _RUNS),
    against: Path | None = opt(None, "Say what is better or worse than this run, or noise.", "FOLDER", _RUNS),
    output: Reporting,
) -> Done:
    """Draw accuracy against tokens for every method, on questions about generated videos with known answers."""
    if plots_from is not None:
        return _accuracy_report(plots_from, against, pack, output)
    plugins = load_plugins(plugin)
    from prunevid_qwen.evaluation.shapes.accuracy import QUICK, accuracy_run
    from prunevid_qwen.evaluation.shapes.accuracy_summary import read_answers
    from prunevid_qwen.evaluation.shapes.methods import AccuracyRun

    given = _given(
        plugins=plugins, budgets=_numbers("budgets", budgets, float), conditions=names_in_text(conditions),
        videos=videos, first_seed=first_seed, model=model_path, questions=questions, random_seeds=random_seeds,
        through_files=through_files,
    )  # fmt: skip
    run = AccuracyRun(_compared(names_in_text(methods)), **{**(QUICK if quick else {}), **given})
    if dry_run:
        return _planned(run, out)
    if against is not None:
        read_answers(against)  # complains now, not after an hour of asking
    with output.keeping(out), output.bars() as bars:
        accuracy_run(out, run, workers, restart, bars.tell, typed())
    return _accuracy_report(out, against, pack, output)


def _planned(run: Any, out: Path) -> Done:
    """Say what a run would ask, and where it would be written."""
    names = [each.name for each in run.methods]

    def show() -> None:
        typer.echo(f"methods: {', '.join(names)}")
        typer.echo(
            f"{len(names)} methods x {len(run.budgets)} budgets ({', '.join(map(str, run.budgets))}) x up to "
            f"{run.questions} questions about each of {run.videos} videos ({', '.join(run.conditions)})"
        )
        typer.echo(f"would be written to {out}; leave out --dry_run to ask")

    return Done({"out": str(out), **run.to_dict()}, show)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the others have the run's own default."""
    return {name: value for name, value in options.items() if value not in (None, "", ())}


def _compared(methods: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the methods of the report's that were named, all without a name, and those of a plug-in."""
    from prunevid_qwen.evaluation.shapes.methods import Method, methods_called, standard_methods

    standard = {method.name for method in standard_methods()}
    others = ("selector", "enable_stage1"), ("merger", "enable_stage2")  # of a plug-in: alone, the other stage off
    own = [
        Method(name, {part: name, off: False})
        for part, off in others
        for name in methods
        if name not in standard and name in classes_of(part)
    ]
    called = [name for name in methods if name not in {each.name for each in own}]
    return (*(methods_called(called) if called or not own else ()), *own)


def _accuracy_report(out: Path, against: Path | None, pack: bool, output: Reporting) -> Done:
    from prunevid_qwen.evaluation.shapes.accuracy_page import write_report

    plots = _can_plot(output, out)
    told = {"out": str(out), "report": str(write_report(out, plots)), "summary": str(out / "summary.json")}
    comparison = None
    if against is not None:
        from prunevid_qwen.evaluation.shapes.accuracy_page import compare_folders

        comparison = compare_folders(out, against)
        (out / "comparison.md").write_text(comparison, encoding="utf-8")
        told["comparison"] = str(out / "comparison.md")
    if pack:
        from prunevid_qwen.evaluation.shapes.accuracy import pack_answers

        told["answers"] = str(pack_answers(out))

    def show() -> None:
        for name in ("report", "summary", "answers"):
            if name in told:
                typer.echo(f"{name}: {told[name]}")
        if comparison is not None:
            typer.echo(comparison)

    return Done(told, show)


def speed(
    *,
    out: Path = opt(Path("runs/efficiency"), "Folder of the results. Default: runs/efficiency.", "FOLDER", _RUNS),
    shape: str = opt(
        "", "Random weights of this shape. Default: 7b_small on a CPU, 7b on a GPU.", "tiny|0.5b|7b_small|3b|7b", _ASKED
    ),
    model_path: str = opt("", "Real weights instead: bundled, a folder or a hub id.", "PATH", _ASKED, short="-m"),
    configs: str = opt("", f"{CONFIGS_HELP} Default: paper,recommended.", "NAMES", _ASKED),
    frames: str = opt("", "Default: 16,32 on a CPU, 32,128 on a GPU.", "NUMBERS", _ASKED),
    batch: str = opt("", "Rows, each with a video of its own. Default: 1.", "NUMBERS", _ASKED),
    grid: str = opt("", "Tokens of a temporal position. Default: 10x14.", "ROWSxCOLUMNS", _ASKED),
    text_tokens: int | None = opt(None, "Beside the video. Default: 60.", "INT", _ASKED, least=4),
    new_tokens: int | None = opt(None, "Of every answer. Default: 64.", "INT", _ASKED, least=2),
    content: str = opt(
        "", "Of the random pixels: how much of the picture moves. Default: half.", "still|half|moving", _ASKED
    ),
    video: str = opt("", "Real files instead of random pixels: generated, or a path.", "PATH", _ASKED),
    only: str = opt(
        "", "Measure these alone. Default: contest; --overhead and --growth add theirs.", "|".join(_ONLY), _ASKED
    ),
    overhead: bool = opt(False, "Also what the hooks cost when nothing is pruned.", None, _ASKED),
    growth: bool = opt(False, "Also stage 1 against frames, up to 3,600.", None, _ASKED),
    device: str = opt("", "cuda or cpu. Default: the GPU when there is one.", "NAME", _RUNS),
    dtype: str = opt("", "Default: float32 on a CPU, bfloat16 on a GPU.", "float32|bfloat16|float16", _RUNS),
    attn_implementation: str = opt("", "Attention kernel of all competitors. Default: sdpa.", "NAME", _RUNS),
    repeats: int | None = opt(None, "Rounds that count. Default: 5, on a GPU 7.", "INT", _RUNS, least=1),
    warmup: int | None = opt(None, "Rounds before them, beside two runs of each. Default: 1.", "INT", _RUNS, least=0),
    threads: int | None = opt(None, "Of torch on the CPU.", "INT", _RUNS, least=1),
    quick: bool = opt(False, "A tiny model, short videos, few rounds.", None, _RUNS),
    restart: bool = opt(False, "Throw away what the folder holds.", None, _RUNS),
    dry_run: bool = opt(False, "Say what would be measured, and measure nothing.", None, _RUNS),
    plots_from: Path | None = opt(None, "Only draw and write the report of this folder.", "FOLDER", _RUNS),
    plugin: list[str] | None = opt(None, "Python file, or module, that registers methods.", "FILE|MODULE", _RUNS),
    output: Reporting,
) -> Done:
    """Time, memory and FLOPs with and without pruning: the stock model, ours and controls, in turns."""
    parts = names_in_text(only)
    for part in parts:
        if part not in _ONLY:
            raise ConfigError(f"--only takes {', '.join(_ONLY)}; got {quoted(part)}")
    options = _given(
        shape=shape, model_path=model_path, presets=names_in_text(configs), frames=_numbers("frames", frames),
        batches=_numbers("batch", batch), grid=_grid(grid), text_tokens=text_tokens, new_tokens=new_tokens,
        content=content, video=video, dtype=dtype, attention=attn_implementation, repeats=repeats, warmup=warmup,
        threads=threads,
    )  # fmt: skip
    if parts:
        options |= {part: part in parts for part in _ONLY}
    options |= {part: True for part, asked in zip(_ONLY[1:], (overhead, growth), strict=True) if asked}
    folder = plots_from or out
    if plots_from is None:
        load_plugins(plugin)
        run = _speed_run_of(device, quick, options)
        if dry_run:
            return Done(dataclasses.asdict(run))
        from prunevid_qwen.evaluation.speed.speed_run import speed_run

        output.calm_libraries()
        with output.keeping(out), output.bars() as bars:
            speed_run(out, run, restart, bars.tell, typed())
    return _speed_report(folder, output)


def _speed_run_of(device: str, quick: bool, options: dict[str, Any]) -> Any:
    from prunevid_qwen.evaluation.speed.speed_run import SpeedRun
    from prunevid_qwen.loading import choose_device

    start: dict[str, Any] = {"device": choose_device(device or None)}
    if start["device"].startswith("cuda"):
        start |= {"shape": "7b", "dtype": "bfloat16", "frames": (32, 128), "repeats": 7}
    if quick:
        start |= {"shape": "tiny", "dtype": "float32", "frames": (8, 16), "new_tokens": 8, "repeats": 3, "warmup": 1}
    return SpeedRun(**{**start, **options})


def _speed_report(folder: Path, output: Reporting) -> Done:
    from prunevid_qwen.evaluation.speed.speed_page import write_report

    plots = _can_plot(output, folder)
    summary = write_report(folder, plots)

    def show() -> None:
        for row in summary["rows"]:
            typer.echo(f"{row['frames']} frames, batch {row['batch']}, {row['variant']}: {row['sentence']}")
        for said in summary["noise"]:
            typer.echo(f"noisy: {said}")
        typer.echo(f"report: {folder / 'report.md'}\nsummary: {folder / 'efficiency.json'}")

    return Done(summary, show)


def _can_plot(output: Reporting, folder: Path) -> bool:
    if not can_plot():
        output.note(
            "no plots: matplotlib is not installed (pip install 'prunevid_qwen[bench]'). The measurements are kept: "
            f"--plots_from {folder} draws them later, on another machine too"
        )
    return can_plot()


def _numbers(name: str, text: str, kind: type = int) -> tuple[Any, ...]:
    try:
        return tuple(read_value(name, part, kind) for part in names_in_text(text))
    except ConfigError:
        example = "shares such as 0.16,0.1" if kind is float else "whole numbers such as 16,32"
        raise ConfigError(f"--{name} takes {example}, with commas between; got {quoted(text)}") from None


def _grid(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    rows, x, columns = text.lower().partition("x")
    if not x or not rows.isdigit() or not columns.isdigit():
        raise ConfigError(f"--grid is rows x columns of tokens, such as 10x14; got {quoted(text)}")
    return int(rows), int(columns)
