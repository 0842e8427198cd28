"""The data sets of a recipe, opened and checked before any model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunevid_qwen.config.option_checks import check_names
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.training.glimpse.data import DataSpec, open_data
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.records import BoxData, Chosen
from prunevid_qwen.training.glimpse.records_check import CheckReport, check_data

IGNORED = ("duplicate_id",)
"""Flaws that are told and do not keep anybody from training: records are called by number."""

Progress = Callable[[str, int, int], None]
"""Told what is checked, how many records are done, and of how many."""

logger = logging.getLogger(__name__)


def spec_of(name: str, options: Mapping[str, Any]) -> DataSpec:
    """Read the options of a data set, ``data`` or ``eval_data`` of a recipe.

    Raises:
        ConfigError: an option is unknown (the nearest known one is offered), missing or bad.
    """
    check_names(f"{name} has", options, DataSpec)
    if "kind" not in options:
        raise ConfigError(f"{name} says its kind, such as visual_cot; got {dict(options)}")
    try:
        spec = DataSpec(**options)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if name == "eval_data" and spec.kind == "moving_shapes" and not spec.held_out:
        raise ConfigError("eval_data of moving_shapes is drawn like what is trained on: add held_out: true to it")
    return spec


def open_recipe(recipe: GlimpseRecipe) -> dict[str, BoxData]:
    """Open what a recipe trains on and, where there is such, what it evaluates on: "data" and "eval_data".

    Raises:
        ConfigError: as in `spec_of` and `open_data`.
        MediaError: the file of one or both is missing, unreadable, cut off or empty.
    """
    specs = {"data": spec_of("data", recipe.data)}
    if recipe.eval_data:
        specs["eval_data"] = spec_of("eval_data", recipe.eval_data)
        if recipe.eval_data.get("path") and recipe.eval_data["path"] == recipe.data.get("path"):
            logger.warning("data and eval_data are of one file: what is evaluated on may have been trained on")
    opened: dict[str, BoxData] = {}
    missing: list[str] = []
    for name, spec in specs.items():
        try:
            opened[name] = open_data(spec)
        except MediaError as error:
            missing.append(f"{name}: {error}; on the command line --{name} path=FILE.jsonl --{name} images=FOLDER")
    if missing:
        here = f"Relative paths start from the current folder, {Path.cwd()}; docs/glimpse.md: what the files look like"
        raise MediaError("\n".join([*missing, here]))
    return opened


def look_at(opened: Mapping[str, BoxData], tell: Progress | None = None) -> dict[str, CheckReport]:
    """Look at every record and return a report for each data set."""
    reports = {}
    for name, data in opened.items():

        def progress(done: int, total: int, name: str = name) -> None:
            if tell is not None:
                tell(f"checking {name}", done, total)

        reports[name] = check_data(data, progress=progress)
    return reports


def refuse_bad(recipe: GlimpseRecipe, reports: Mapping[str, CheckReport]) -> None:
    """Raise if there are records that cannot be trained on, unless the recipe goes on without them.

    Raises:
        ConfigError, MediaError: as in `CheckReport.raise_for_problems`.
    """
    for name, report in reports.items():
        try:
            if not recipe.skip_bad:
                report.raise_for_problems(IGNORED)
        except (ConfigError, MediaError) as error:
            raise type(error)(f"{name}: {error}") from None


def usable(opened: Mapping[str, BoxData], reports: Mapping[str, CheckReport]) -> dict[str, BoxData]:
    """Return the data sets without the records that their reports find unusable."""
    return {
        name: Chosen(data, reports[name].skip_bad(IGNORED)) if name in reports and reports[name].counts else data
        for name, data in opened.items()
    }
