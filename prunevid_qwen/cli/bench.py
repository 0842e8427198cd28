"""``prunevid bench``: accuracy of every method at equal cost, and speed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import BUNDLED, TOYS
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, Reporting, typed
from prunevid_qwen.cli.pruning_options import CONFIGS_HELP, PLUGIN, load_plugins
from prunevid_qwen.config.option_classes import classes_of
from prunevid_qwen.errors import ConfigError, quoted

_ASKED, _RUNS = "What is measured", "How it runs"
_NAMES = tuple[str, ...]


def accuracy(
    *,
    out: Path = opt(Path("runs/moving_shapes"), "Folder of the results. Default: runs/moving_shapes.", "FOLDER", _RUNS),
    quick: bool = opt(False, "A few minutes: fewer videos and budgets, one random seed.", None, _RUNS),
    methods: _NAMES = opt((), "As in the report, or of --plugin, with commas between. Default: all.", "NAMES", _ASKED),
    conditions: _NAMES = opt((), "plain, long, clutter, shake, drift. Default: all but drift.", "NAMES", _ASKED),
    budgets: tuple[float, ...] = opt((), "Shares of the tokens, as the layers' mean: 0.16,0.1.", "SHARES", _ASKED),
    videos: int | None = opt(None, "How many. May grow in a later run.", "INT", _ASKED, least=1),
    questions: int | None = opt(None, "About each video, at most. Default: 12.", "INT", _ASKED, least=1),
    random_seeds: int | None = opt(None, "Draws of what is random. Default: 2.", "INT", _ASKED, least=1),
    first_seed: int | None = opt(None, "The first video's; later ones count on from it.", "INT", _ASKED),
    model_path: str = opt(
        BUNDLED, f"{' or '.join(TOYS)}, or a folder: it knows moving shapes.", "FOLDER", _ASKED, short="-m"
    ),
    by: str = opt("tokens", "Equal tokens alone, or equal time to the first token too.", "tokens|time", _ASKED),
    through_files: bool = opt(False, "Write real mp4 files and read them, instead of tensors.", None, _ASKED),
    workers: int | None = opt(None, "Processes. Default: one for each core.", "INT", _RUNS, least=1),
    restart: bool = opt(False, "Throw away what the folder holds.", None, _RUNS),
    dry_run: bool = opt(False, "Say what would be asked, and ask nothing.", None, _RUNS),
    plots_from: Path | None = opt(None, "Only draw and write the report of this folder.", "FOLDER", _RUNS),
    pack: bool = opt(False, "Leave the answers as answers.jsonl.xz, a seventieth of the size.", None, _RUNS),
    plugin: list[str] | None = PLUGIN,
    against: Path | None = opt(None, "Say what is better or worse than this run, or noise.", "FOLDER", _RUNS),
    output: Reporting,
) -> Done:
    """Draw accuracy against tokens for every method, on questions about generated videos with known answers.

    Examples:
      prunevid bench accuracy --quick                   a few minutes on two cores
      ... --out runs/mine --methods "prunevid,stage 1 + random,pool"
      ... --out runs/other --first_seed 1003500000      other videos
      ... --by time                                     also at equal time to the first token
      ... --against eval/results/moving_shapes          better than that, or noise?
      ... --plots_from runs/moving_shapes               write the report again, asking nothing

    A stopped run goes on where it was: give the same command again.
    The config that reaches each budget stands in the folder's run.json.
    """
    from prunevid_qwen.evaluation.shapes.accuracy import QUICK, accuracy_run, pack_answers
    from prunevid_qwen.evaluation.shapes.accuracy_page import write_report
    from prunevid_qwen.evaluation.shapes.accuracy_summary import read_answers
    from prunevid_qwen.evaluation.shapes.comparison_page import compare_folders
    from prunevid_qwen.evaluation.shapes.methods import AccuracyRun

    _check_alone(
        plots_from, quick=quick, methods=methods, conditions=conditions, budgets=budgets, videos=videos,
        questions=questions, random_seeds=random_seeds, first_seed=first_seed, through_files=through_files,
        workers=workers, restart=restart, dry_run=dry_run, plugin=plugin, model_path=model_path != BUNDLED,
        by=by != "tokens",
    )  # fmt: skip
    folder = plots_from or out
    if plots_from is None:
        given = {
            "plugins": load_plugins(plugin), "budgets": budgets, "conditions": conditions, "videos": videos,
            "first_seed": first_seed, "model": model_path, "questions": questions, "random_seeds": random_seeds,
            "by": by, "through_files": through_files,
        }  # fmt: skip
        run = AccuracyRun(_methods_of(methods), **(QUICK if quick else {}) | _typed(given))
        if dry_run:
            names, budgets_said = [each.name for each in run.methods], ", ".join(map(str, run.budgets))
            each_of = (
                f"x up to {run.questions} questions about each of {run.videos} videos ({', '.join(run.conditions)})"
            )
            of = f"{len(names)} methods x {len(run.budgets)} budgets ({budgets_said}) {each_of}"
            said = f"methods: {', '.join(names)}\n{of}\nwould be written to {out}; leave out --dry_run to ask"
            return Done({"out": str(out), **run.to_dict()}, said)
        if against is not None:
            read_answers(against)  # complains now, not after an hour of asking
        with output.running(out) as bars:
            accuracy_run(out, run, workers, restart, bars.tell, typed())
    report = write_report(folder, output.can_plot(f"--plots_from {folder} draws them later"))
    told = {"out": str(folder), "report": str(report), "summary": str(folder / "summary.json")}
    comparison = "" if against is None else compare_folders(folder, against)
    if comparison:
        (folder / "comparison.md").write_text(comparison, encoding="utf-8")
        told["comparison"] = str(folder / "comparison.md")
    if pack:
        told["answers"] = str(pack_answers(folder))
    lines = [f"{name}: {told[name]}" for name in ("report", "summary", "answers") if name in told]
    return Done(told, "\n".join([*lines, *([comparison] if comparison else [])]))


def _check_alone(plots_from: Path | None, **others: Any) -> None:
    """Refuse options of a measurement beside ``--plots_from``, which would not read them."""
    named = [f"--{name}" for name, value in others.items() if value]
    if plots_from is not None and named:
        raise ConfigError(f"--plots_from measures nothing, so it does not read {', '.join(named)}: leave that out")


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were typed; the others have the run's own default."""
    return {name: value for name, value in options.items() if value not in (None, "", ())}


def _methods_of(names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the methods of the report's that were named, all without a name, and those of a plug-in."""
    from prunevid_qwen.evaluation.shapes.methods import Method, methods_called, standard_methods

    standard = {method.name for method in standard_methods()}
    own = [
        Method(name, {part: name, other: False})  # alone, the other stage off
        for part, other in (("selector", "enable_stage1"), ("merger", "enable_stage2"))
        for name in names
        if name not in standard and name in classes_of(part)
    ]
    called = [name for name in names if name not in {each.name for each in own}]
    return (*(methods_called(called) if called or not own else ()), *own)


def speed(
    *,
    out: Path = opt(Path("runs/efficiency"), "Folder of the results. Default: runs/efficiency.", "FOLDER", _RUNS),
    shape: str = opt(
        "", "Of random weights: 7b, qwen3vl-8b, llava-ov-7b, ... Default: 7b_small, on a GPU 7b.", "NAME", _ASKED
    ),
    model_path: str = opt(
        "", f"Real weights instead: a folder, a hub id, {' or '.join(TOYS)}.", "PATH", _ASKED, short="-m"
    ),
    configs: _NAMES = opt((), f"{CONFIGS_HELP} Default: paper,recommended.", "NAMES", _ASKED),
    frames: tuple[int, ...] = opt((), "Default: 16,32 on a CPU, 32,128 on a GPU.", "NUMBERS", _ASKED),
    batch: tuple[int, ...] = opt((), "Rows, each with a video of its own. Default: 1.", "NUMBERS", _ASKED),
    grid: str = opt("", "Tokens of a temporal position. Default: 10x14, or the model's own.", "ROWSxCOLUMNS", _ASKED),
    text_tokens: int | None = opt(None, "Beside the video. Default: 60.", "INT", _ASKED, least=4),
    new_tokens: int | None = opt(None, "Of every answer. Default: 64.", "INT", _ASKED, least=2),
    content: str = opt("", "How much of the random pixels moves. Default: half.", "still|half|moving", _ASKED),
    video: str = opt("", "Real files instead of random pixels: generated, or a path.", "PATH", _ASKED),
    still: tuple[float, ...] = opt(
        (), "Also the vision encoder where these shares stand still: 0,0.5,0.8.", "SHARES", _ASKED
    ),
    pan: bool = opt(False, "The same where the camera pans.", None, _ASKED),
    only: _NAMES = opt((), "Measure these alone. Default: contest.", "contest|encoder|overhead|growth", _ASKED),
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
    plugin: list[str] | None = PLUGIN,
    output: Reporting,
) -> Done:
    """Time, memory and FLOPs with and without pruning: the stock model, ours and controls, in turns.

    Examples:
      prunevid bench speed --quick                      a minute, to see what comes out
      prunevid bench speed                              7B-like proportions on a CPU, the 7B itself on a GPU
      ... --shape 3b --frames 16,64,256 --batch 1,4     random weights: nothing is downloaded
      ... -m Qwen/Qwen2.5-VL-7B-Instruct --video clip.mp4
      ... --configs paper,recommended,mine.json         the controls follow the first
      ... --only encoder                                with fast, where 0, 50, 80 % stand still, and on a pan
      ... --only growth                                 stage 1 against frames, up to an hour
      ... --plots_from runs/efficiency                  write the report again, measuring nothing

    A stopped run goes on where it was: give the same command again.
    """
    height, x, width = grid.lower().partition("x")
    if grid and not (x and height.isdigit() and width.isdigit()):
        raise ConfigError(f"--grid is rows x columns of tokens, such as 10x14; got {quoted(grid)}")
    _check_alone(
        plots_from, shape=shape, model_path=model_path, configs=configs, frames=frames, batch=batch, grid=grid,
        text_tokens=text_tokens, new_tokens=new_tokens, content=content, video=video, still=still, pan=pan, only=only,
        overhead=overhead, growth=growth, device=device, dtype=dtype, attn_implementation=attn_implementation,
        repeats=repeats, warmup=warmup, threads=threads, quick=quick, restart=restart, dry_run=dry_run, plugin=plugin,
    )  # fmt: skip
    folder = plots_from or out
    if plots_from is None:
        from prunevid_qwen.evaluation.speed.speed_run import SpeedRun, speed_run
        from prunevid_qwen.evaluation.speed.video_contents import STILL_SHARES
        from prunevid_qwen.loading import choose_device

        load_plugins(plugin)
        if "encoder" in only and not still and not pan:
            still, pan = STILL_SHARES, True
        options: dict[str, Any] = {"device": choose_device(device or None)}
        if options["device"].startswith("cuda"):
            options |= {"shape": "7b", "dtype": "bfloat16", "frames": (32, 128), "repeats": 7}
        if quick:
            options |= {"shape": "tiny", "dtype": "float32", "frames": (8, 16)}
            options |= {"new_tokens": 8, "repeats": 3, "warmup": 1}
        given = {
            "shape": shape, "model_path": model_path, "presets": configs, "frames": frames, "batches": batch,
            "grid": (int(height), int(width)) if grid else (), "text_tokens": text_tokens, "new_tokens": new_tokens,
            "content": content, "video": video, "dtype": dtype, "attention": attn_implementation, "repeats": repeats,
            "warmup": warmup, "threads": threads, "contest": not only or "contest" in only,
            "overhead": overhead or "overhead" in only, "growth": growth or "growth" in only, "still": still,
            "pan": pan,
        }  # fmt: skip
        run = SpeedRun(**options | _typed(given))
        if dry_run:
            return Done(dataclasses.asdict(run))
        with output.running(out) as bars:
            speed_run(out, run, restart, bars.tell, typed())
    from prunevid_qwen.evaluation.speed.encoder_findings import named_cell
    from prunevid_qwen.evaluation.speed.speed_page import write_report

    summary = write_report(folder, output.can_plot(f"--plots_from {folder} draws them later"))
    rows = [(f"{row['frames']} frames, batch {row['batch']}, {row['variant']}", row) for row in summary["rows"]]
    rows += [
        (f"{named_cell(cell)}, {row['variant']}", row) for cell in summary.get("encoder", ()) for row in cell["rows"]
    ]
    lines = [f"{name}: {row['sentence']}" for name, row in rows] + [f"noisy: {said}" for said in summary["noise"]]
    lines += [f"report: {folder / 'report.md'}", f"summary: {folder / 'efficiency.json'}"]
    return Done(summary, "\n".join(lines))
