"""Published rows beside ours, as data: differences to the unpruned row of the same table or run, and tokens kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.engine.storing import answer_files, run_folder
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL
from prunevid_qwen.evaluation.protocol.score_summary import ALL
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, budget_of
from prunevid_qwen.evaluation.published.reproduce import depth_of
from prunevid_qwen.evaluation.published.table import PublishedTable, SetOfTable, Setting
from prunevid_qwen.evaluation.store import RECORD, read_lines
from prunevid_qwen.evaluation.tasks.benchmark_tables import write_export, write_tables

Found = dict[str, Any]

NOT_RUN, HIDDEN = "not run", "scored by its authors"
"""States of a data set, beside "complete", "partial" and why there is no score."""


def compare(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Score what the folder of a setting holds and put the published figures beside it.

    Returns:
        Ready for JSON: ``deviations`` of the run from the published setting, and of each data set its ``tables``, its
        ``state`` and its ``summary``. Scores of ours are shares of 1, theirs per cent.
    """
    found: Found = {"table": table.name, "setting": setting.name, "deviations": [], "asked": []}
    deviating: dict[str, list[str]] = {}
    for each in setting.sets:
        own = folder / each.name
        if not (own / RECORD).is_file():
            found["asked"].append(_entry(each, setting, NOT_RUN))
            continue
        record = run_folder(own).record(table.name)
        for said in deviations(table, setting, each, record):
            deviating.setdefault(said, []).append(each.data.title)
        found["asked"].append(_scored(each, setting, own, record))
    ran = sum(each["state"] != NOT_RUN for each in found["asked"])
    for said, titles in deviating.items():
        found["deviations"].append(said if len(titles) == ran else f"{said} ({', '.join(titles)})")
    return found


def deviations(table: PublishedTable, setting: Setting, each: SetOfTable, record: Mapping[str, Any]) -> list[str]:
    """Say in what a run differs from the published setting, from its record alone: no option can hide it."""
    said, options, configs = [], record["options"], record["configs"]
    for what, wanted, found in (
        ("model", table.model, {str(options["model_path"])}), ("predictor", table.glimpse or "", _predictors(configs)),
    ):  # fmt: skip
        # a copy in a folder has the name of what it is a copy of
        said += [f"{what}: {path}, not {wanted}" for path in sorted(found)
                 if Path(path).name != wanted.rpartition("/")[2]]  # fmt: skip
    if "loading: revision" in options:
        said.append(f"revision: {options['loading: revision']}")
    if options["device"] != "cuda":
        said.append(f"device: {options['device']}")
    if options.get("loading: dtype") not in (None, "bfloat16", "auto"):
        said.append(f"dtype: {options['loading: dtype']}, not the checkpoint's bfloat16")
    wanted = each.protocol.to_dict()
    said += [f"{name} {value}, not {wanted[name]}" for name, value in record["protocol"].items()
             if value != wanted[name]]  # fmt: skip
    for name, ours in ((row.name, row.ours) for row in setting.rows if row.ours is not None):
        changed = ["not run"] if name not in configs else [
            f"{option} {configs[name][option]}, not {value}"
            for option, value in ours.config(PUBLISHED_DEPTH).flat().items()
            if option not in (*BY_PROTOCOL, "glimpse_path") and configs[name].get(option) != value
        ]  # fmt: skip
        said += [f"{name}: {'; '.join(changed)}"] if changed else []
    return said


def _scored(each: SetOfTable, setting: Setting, folder: Path, record: Mapping[str, Any]) -> Found:
    if record["manifest"] is None:
        return _entry(each, setting, HIDDEN, record) | {"files": _exports(folder, record)}
    try:
        summary = write_tables(folder)
    except ConfigError as error:
        return _entry(each, setting, f"no score: {error}", record)
    partial = any(row["partial"] for row in summary["rows"] if row["axis"] == ALL)
    return _entry(each, setting, "partial" if partial else "complete", record, summary)


def _entry(
    each: SetOfTable,
    setting: Setting,
    state: str,
    record: Mapping[str, Any] | None = None,
    summary: Found | None = None,
) -> Found:
    budgets = {} if record is None else _budgets(record)
    spent = {one["config"]: one for one in summary["tokens"]["rows"]} if summary else {}
    tables = []
    for group in (None, *setting.groups(each.name)):
        name = each.name if group is None else f"{each.name}/{group}"
        axis = ALL if group is None else each.data.axis
        scores = {one["config"]: one for one in (summary["rows"] if summary else ())
                  if one["axis"] == axis and group in (None, one["group"])}  # fmt: skip
        rows = []
        for row in setting.rows:
            if name not in row.theirs and (row.ours is None or record is None):
                continue
            published, own, kept = setting.published(row, name), scores.get(row.name), spent.get(row.name)
            rows.append(
                {
                    "row": row.name,
                    "implemented": row.ours is not None,
                    "run": row.name in budgets,
                    "kept_published": row.kept,
                    "published": published,
                    "asked": budgets.get(row.name),
                    "achieved": kept and {of: kept[of] for of in ("kept", "layer_average_kept", "visual", "prompts")},
                    "ours": own,
                    "inside": inside(published, own),
                }
            )
        tables.append({"group": group, "rows": rows})
    title = each.data.title
    return {"name": each.name, "title": title, "state": state, "tables": tables, "summary": summary, "files": []}


def inside(published: Mapping[str, float] | None, own: Found | None) -> bool | None:
    """Tell whether the published difference lies in our interval; None where there is no interval or no whole run."""
    difference = own and own["difference"]
    if published is None or own is None or own["partial"] or not difference or not difference["interval"]:
        return None
    low, high = difference["interval"]
    return bool(100 * low <= published["difference"] <= 100 * high)


def _budgets(record: Mapping[str, Any]) -> dict[str, Found | None]:
    """Return the budget of each config of a run; None where the model is no longer there to be asked for its depth."""
    configs = {name: _config(stored) for name, stored in record["configs"].items()}
    try:
        depth = depth_of(record["options"]["model_path"], {}, next(iter(_predictors(record["configs"])), None))
    except (ConfigError, SetupError):  # the model was here when it answered
        return dict.fromkeys(configs)
    return {
        name: dict(zip(("layer_average", "exact"), budget_of(config, depth), strict=True))
        for name, config in configs.items()
    }


def _config(stored: Mapping[str, Any]) -> PruneVidConfig:
    return PruneVidConfig.from_record({name: value for name, value in stored.items() if " " not in name})


def _predictors(configs: Mapping[str, Mapping[str, Any]]) -> set[str]:
    stored = [_config(each) for each in configs.values() if each]
    return {config.glimpse_path for config in stored if config.has("glimpse_path")}


def _exports(folder: Path, record: Mapping[str, Any]) -> list[Found]:
    """Write the files that the authors of a data set score, and count what is in them."""
    lines = [line for path in answer_files(folder) for line in read_lines(path)]
    of = int(record["options"]["questions"].partition(",")[0])
    made = []
    for name in record["configs"]:
        answered = len({line["id"] for line in lines if line["config"] == name and line["error"] is None})
        path = None
        if answered:
            part = "" if answered == of else f" ({answered} of {of})"
            path = write_export(folder, name, folder / f"{record['dataset']} {name}{part}.json", partial=True)
        made.append({"config": name, "answered": answered, "of": of, "file": path and str(path)})
    return made
