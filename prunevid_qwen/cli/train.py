"""``prunevid train``: GlimpsePrune's predictor, and GlimpsePrune+."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.groups import TrainingOptions
from prunevid_qwen.cli.option import documented, opt
from prunevid_qwen.cli.output import Done, Reporting, typed
from prunevid_qwen.errors import ConfigError, MediaError, quoted
from prunevid_qwen.training.glimpse.recipe import CHOICES, GlimpseRecipe
from prunevid_qwen.training.glimpse.recipe_values import read_yaml

EXAMPLES = """\
[bold]Examples[/bold]
  prunevid train glimpse --dry_run                      is the published recipe's data complete?
  prunevid train glimpse --recipe glimpse --out runs/glimpse_7b
  prunevid train glimpse --recipe glimpse_tiny --out runs/glimpse_tiny --threads 1
  accelerate launch --multi_gpu train/glimpse.py --recipe glimpse --out runs/glimpse_7b
  ... --data path=mine.jsonl --data images=pictures --epochs 3      own boxes, the rest as published
  prunevid ask ... --selector glimpse --glimpse_path runs/glimpse_7b/model

A stopped run goes on where it was: give the same command again.
"""
_RECIPE = "Recipe (each overrides what stands in --recipe)"
_PAIRS = ("data", "eval_data")
_FIGURES = ("lm", "dice", "bce", "precision", "recall", "f1", "iou", "kept")


def glimpse(
    *,
    recipe: str = opt("glimpse", "Name of a recipe, or a YAML file. Default: glimpse, the published one.", "NAME|FILE"),
    out: Path = opt(Path("runs/glimpse"), "Folder of checkpoint, curves and model. Default: runs/glimpse.", "FOLDER"),
    options: Annotated[dict[str, Any], documented(GlimpseRecipe, _RECIPE, choices=CHOICES, pairs=_PAIRS)],
    training: TrainingOptions,
    output: Reporting,
) -> Done:
    """Train GlimpsePrune's predictor for a frozen model, on questions with boxes that say where the answer is."""
    made = glimpse_recipe(recipe, options)
    if training.no_check and made.skip_bad:
        raise ConfigError("--no_check cannot say which records skip_bad would leave out: pass one of them")
    if training.dry_run:
        return _checked(made, output)
    from prunevid_qwen.training.glimpse.train import train

    with training_run(training, output, out) as about, output.bars() as bars:
        try:
            record = train(
                made, out, restart=training.restart, check=not training.no_check, device=training.device, about=about,
                tell=bars.tell_figures,
            )  # fmt: skip
        except KeyboardInterrupt:
            if is_main_process():
                _draw(out, output)
            raise
    if not is_main_process():
        return Done()
    _draw(out, output)

    def show() -> None:
        for name, lines in (("training", record["training"]), ("held out", record["evaluation"])):
            for line in lines:
                figures = ", ".join(f"{each} {line[each]:.3f}" for each in _FIGURES)
                typer.echo(f"{name}, step {line['step']}: {figures}")
        typer.echo(
            f"predictor: {out / 'model'}\ntry it: prunevid ask ... --selector glimpse --glimpse_path {out / 'model'}"
        )

    return Done(record, show)


def glimpse_recipe(recipe: str | Path, given: Mapping[str, Any]) -> GlimpseRecipe:
    """Return a recipe with the options that were given on top; pairs are OPTION=VALUE.

    Raises:
        ConfigError: no such recipe, an unknown option, or a bad value.
    """
    base = GlimpseRecipe.from_yaml(recipe)
    changes = dict(given)
    for name in _PAIRS:
        if changes.get(name):
            own = pairs(f"--{name}", "path=mine.jsonl", changes[name])
            changes[name] = own if "kind" in own else {**getattr(base, name), **own}
    return base.replace(**changes)


@contextmanager
def training_run(training: TrainingOptions, output: Reporting, out: Path) -> Iterator[dict[str, Any]]:
    """Ready the libraries, and yield what the run's record says of where it ran."""
    import torch

    from prunevid_qwen.evaluation.store import surroundings

    output.calm_libraries()
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    try:
        yield {"command": typed(), **surroundings()}
    except KeyboardInterrupt:
        if is_main_process():
            output.note(f"stopped; the same command goes on from {out}")
        raise


def is_main_process() -> bool:
    """Tell whether this is the process of a training that reports."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _checked(recipe: GlimpseRecipe, output: Reporting) -> Done:
    from prunevid_qwen.training.glimpse.opened import IGNORED, look_at, open_recipe

    with output.bars() as bars:
        reports = look_at(open_recipe(recipe), lambda what, done, total: bars.tell(what, done, total))
    told = {
        "records": {name: report.total for name, report in reports.items()},
        "flaws": {name: report.counts for name, report in reports.items()},
        "problems": sum(report.total - len(report.skip_bad(IGNORED)) for report in reports.values()),
    }

    def show() -> None:
        for name, report in reports.items():
            for line in report.lines():
                typer.echo(f"{name}: {line}")

    return Done(told, show, MediaError.exit_code if told["problems"] else 0)


def _draw(out: Path, output: Reporting) -> None:
    from prunevid_qwen.training.glimpse.run_folder import CURVE, EVALUATION, RunFolder

    folder = RunFolder(out)
    if not folder.lines(CURVE):
        return
    if importlib.util.find_spec("matplotlib") is None:
        output.note(
            "no curve.svg: matplotlib is not installed (pip install 'prunevid_qwen[bench]'); curve.jsonl has it all"
        )
        return
    from prunevid_qwen.training.glimpse.curve_plot import draw_curve

    draw_curve(folder.lines(CURVE), folder.lines(EVALUATION), out / "curve.svg")


def pairs(option: str, example: str, given: list[str]) -> dict[str, Any]:
    """Read OPTION=VALUE, the value in YAML."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} takes OPTION=VALUE such as {example}, got {quoted(text)}")
        found[name.strip()] = read_yaml(value, f"{option} {text}")
    return found
