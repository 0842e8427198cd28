"""Published rows beside ours, as data: differences to the unpruned row of the same table or run, and what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.accuracy_folder import RECORD
from prunevid_qwen.evaluation.engine.storing import answer_files, run_folder
from prunevid_qwen.evaluation.protocol.configs import BY_PROTOCOL
from prunevid_qwen.evaluation.protocol.summary import ALL
from prunevid_qwen.evaluation.reproduction.budget import PUBLISHED_DEPTH, Depth, budget_asked
from prunevid_qwen.evaluation.reproduction.model_files import depth_of
from prunevid_qwen.evaluation.reproduction.published import Asked, PublishedTable, Row, Setting, Timed
from prunevid_qwen.evaluation.store import read_lines
from prunevid_qwen.evaluation.tasks.benchmark_tables import write_export, write_tables

Found = dict[str, Any]

NOT_RUN, HIDDEN = "not run", "scored by its authors"
"""States of a data set, beside "complete", "partial" and why there is no score."""


def compare(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Score what a folder holds and put the published figures beside it.

    Args:
        table, setting: which.
        folder: of the setting.

    Returns:
        Ready for JSON: ``deviations`` of this run from the published setting, and of each data set its ``rows``, its
        ``state`` and its summary's warnings. Scores and differences are in per cent.
    """
    found: Found = {"table": table.name, "setting": setting.name, "deviations": [], "asked": []}
    deviating: dict[str, list[str]] = {}
    for each in setting.asked:
        own = folder / each.name
        if not (own / RECORD).is_file():
            found["asked"].append(_entry(each, setting, NOT_RUN, {}, None, None))
            continue
        record = run_folder(own).record(table.name)
        for said in deviations(table, setting, each, record):
            deviating.setdefault(said, []).append(each.title)
        found["asked"].append(_scored(each, setting, own, record))
    ran = sum(each["state"] != NOT_RUN for each in found["asked"])
    for said, titles in deviating.items():
        found["deviations"].append(said if len(titles) == ran else f"{said} ({', '.join(titles)})")
    return found


def _scored(asked: Asked, setting: Setting, folder: Path, record: Mapping[str, Any]) -> Found:
    depth, configs = _depth(record), record["configs"]
    if record["manifest"] is None:
        return _entry(asked, setting, HIDDEN, configs, None, depth) | {"files": _exports(folder, record)}
    try:
        summary = write_tables(folder)
    except ConfigError as error:
        return _entry(asked, setting, f"no score: {error}", configs, None, depth)
    rows = [row for row in summary["rows"] if row["axis"] == ALL]
    partial = any(row["partial"] for row in rows)
    return _entry(asked, setting, "partial" if partial else "complete", configs, summary, depth)


def _entry(
    asked: Asked, setting: Setting, state: str, configs: Mapping[str, Any], summary: Found | None, depth: Depth | None
) -> Found:
    prefix = f"{asked.name}/"
    groups = [name.removeprefix(prefix) for name in setting.rows[0].published if name.startswith(prefix)]
    tables = []
    for group in (None, *groups):
        name = asked.name if group is None else f"{prefix}{group}"
        rows = [row for row in setting.rows if name in row.published or (row.config is not None and state != NOT_RUN)]
        tables.append({"group": group, "rows": [_row(asked, row, group, configs, summary, depth) for row in rows]})
    return {"name": asked.name, "title": asked.title, "state": state, "tables": tables, "summary": summary, "files": []}


def _row(
    asked: Asked, row: Row, group: str | None, configs: Mapping[str, Any], summary: Found | None, depth: Depth | None
) -> Found:
    figure = row.published.get(asked.name if group is None else f"{asked.name}/{group}")
    published = None
    if figure is not None:
        published = {"score": figure.score, "baseline": figure.baseline, "difference": figure.difference}
    scores: list[Found] = [] if summary is None else summary["rows"]
    tokens: list[Found] = [] if summary is None else summary["tokens"]["rows"]
    axis = ALL if group is None else asked.axis
    own = next((each for each in scores if each["config"] == row.name and each["axis"] == axis
                and group in (None, each["group"])), None)  # fmt: skip
    kept = next((each for each in tokens if each["config"] == row.name), None)
    stored = configs.get(row.name)
    budget = None
    if stored is not None and depth is not None:
        share, exact = budget_asked(config_stored(stored), depth)
        budget = {"layer_average": share, "exact": exact}
    return {
        "row": row.name,
        "implemented": row.config is not None,
        "run": stored is not None,
        "kept_published": row.kept,
        "published": published,
        "asked": budget,
        "achieved": kept and {name: kept[name] for name in ("kept", "layer_average_kept", "visual", "prompts")},
        "ours": own,
        "inside": _inside(published, own),
    }


def _inside(published: Mapping[str, float] | None, own: Found | None) -> bool | None:
    """Tell whether the published difference lies in our interval; None where there is no interval or no whole run."""
    difference = own and own["difference"]
    if published is None or own is None or own["partial"] or not difference or not difference["interval"]:
        return None
    low, high = difference["interval"]
    return bool(100 * low <= published["difference"] <= 100 * high)


def deviations(table: PublishedTable, setting: Setting | Timed, asked: Asked, record: Mapping[str, Any]) -> list[str]:
    """Say in what a run differs from the published setting, from its record alone: no option can hide it."""
    said, options, configs = [], record["options"], record["configs"]
    predictors = _predictors(configs)
    for what, wanted, found in (
        ("model", table.model, {str(options["model_path"])}), ("predictor", table.glimpse or "", predictors),
    ):  # fmt: skip
        # a copy in a folder has the name of what it is a copy of
        said += [f"{what}: {each}, not {wanted}" for each in sorted(found)
                 if Path(each).name != wanted.rpartition("/")[2]]  # fmt: skip
    if "loading: revision" in options:
        said.append(f"revision: {options['loading: revision']}")
    if options["device"] != "cuda":
        said.append(f"device: {options['device']}")
    if options.get("loading: dtype") not in (None, "bfloat16", "auto"):
        said.append(f"dtype: {options['loading: dtype']}, not the checkpoint's bfloat16")
    asked_so = asked.protocol.to_dict()
    for name, value in record["protocol"].items():
        if value != asked_so[name]:
            said.append(f"{name} {value}, not {asked_so[name]}")
    for row in setting.rows:
        if row.config is None:
            continue
        if row.name not in configs:
            said.append(f"{row.name}: not run")
            continue
        plain, stored = row.config(PUBLISHED_DEPTH).flat(), configs[row.name]
        changed = [f"{name} {stored[name]}, not {value}" for name, value in plain.items()
                   if name not in (*BY_PROTOCOL, "glimpse_path") and stored.get(name) != value]  # fmt: skip
        if changed:
            said.append(f"{row.name}: {'; '.join(changed)}")
    return said


def config_stored(stored: Mapping[str, Any]) -> PruneVidConfig:
    """Return the config that a record holds."""
    return PruneVidConfig.from_record({name: value for name, value in stored.items() if " " not in name})


def _predictors(configs: Mapping[str, Mapping[str, Any]]) -> set[str]:
    stored = [config_stored(each) for each in configs.values() if each]
    return {config.glimpse_path for config in stored if config.has("glimpse_path")}


def _depth(record: Mapping[str, Any]) -> Depth | None:
    predictors = _predictors(record["configs"])
    try:
        return depth_of(record["options"]["model_path"], {}, next(iter(predictors), None))
    except (ConfigError, SetupError):  # the model was here when it answered
        return None


def _exports(folder: Path, record: Mapping[str, Any]) -> list[Found]:
    """Write the files that the authors of a data set score, and count what is in them."""
    lines = [line for path in answer_files(folder) for line in read_lines(path)]
    asked = int(record["options"]["questions"].partition(",")[0])
    made = []
    for name in record["configs"]:
        answered = len({line["id"] for line in lines if line["config"] == name and line["error"] is None})
        path = None
        if answered:
            part = "" if answered == asked else f" ({answered} of {asked})"
            path = write_export(folder, name, folder / f"{record['dataset']} {name}{part}.json", partial=True)
        made.append({"config": name, "answered": answered, "of": asked, "file": path and str(path)})
    return made
