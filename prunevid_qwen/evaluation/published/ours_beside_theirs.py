"""Published rows beside ours, as data: differences to the unpruned row of the same table or run, and tokens kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.engine.storing import answer_files, run_folder
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL
from prunevid_qwen.evaluation.protocol.score_summary import ALL
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH, budget_of
from prunevid_qwen.evaluation.published.reproduce import depth_of
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, SetOfTable, Setting
from prunevid_qwen.evaluation.report.intervals import Quantiles
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
    asked, deviating, ran = [], dict[str, list[str]](), 0
    for each in setting.sets:
        own, record = folder / each.name, None
        if (own / RECORD).is_file():
            record, ran = run_folder(own).record(table.name), ran + 1
            for said in deviations(table, setting, each, record):
                deviating.setdefault(said, []).append(each.data.title)
        asked.append(_entry(each, setting, own, record))
    told = [what if len(titles) == ran else f"{what} ({', '.join(titles)})" for what, titles in deviating.items()]
    return {"table": table.name, "setting": setting.name, "deviations": told, "asked": asked}


def deviations(table: PublishedTable, setting: Setting, each: SetOfTable, record: Mapping[str, Any]) -> list[str]:
    """Say in what a run differs from the published setting, from its record alone: no option can hide it."""
    said, options, configs = [], record["options"], record["configs"]
    for what, wanted, found in (
        ("model", table.model, {str(options["model_path"])}),
        ("predictor", table.glimpse or "", _predictors(configs)),
    ):
        # a copy in a folder has the name of what it is a copy of
        others = [path for path in sorted(found) if Path(path).name != wanted.rpartition("/")[2]]
        said += [f"{what}: {path}, not {wanted}" for path in others]
    if "loading: revision" in options:
        said.append(f"revision: {options['loading: revision']}")
    if options["device"] != "cuda":
        said.append(f"device: {options['device']}")
    if options.get("loading: dtype") not in (None, "bfloat16", "auto"):
        said.append(f"dtype: {options['loading: dtype']}, not the checkpoint's bfloat16")
    wanted = each.protocol.to_dict()
    said += [f"{name}: not applied to this model" for name in record.get("not_applied", ())]
    given = record["protocol"].items()
    said += [f"{name} {value}, not {wanted[name]}" for name, value in given if value != wanted[name]]
    for name, ours in ((row.name, row.ours) for row in setting.rows if row.ours is not None):
        changed = ["not run"]
        if name in configs:
            changed = [
                f"{option} {configs[name][option]}, not {value}"
                for option, value in ours.config(PUBLISHED_DEPTH).flat().items()
                if option not in (*BY_PROTOCOL, "glimpse_path") and configs[name].get(option) != value
            ]
        said += [f"{name}: {'; '.join(changed)}"] if changed else []
    return said


def _entry(each: SetOfTable, setting: Setting, folder: Path, record: Mapping[str, Any] | None) -> Found:
    """Return a data set's tables, a row for each published score and each config of ours; no record: it did not run."""
    state, budgets, files = NOT_RUN, dict[str, Found | None](), list[Found]()
    summary: Found | None = None
    if record is not None:
        budgets = _budgets(record)
        if record["manifest"] is None:
            state, files = HIDDEN, _exports(folder, record)
        else:
            try:
                summary = write_tables(folder)
                whole = [row for row in summary["rows"] if row["axis"] == ALL]
                state = "partial" if any(row["partial"] for row in whole) else "complete"
            except ConfigError as error:
                state = f"no score: {error}"
    scored = summary["rows"] if summary else []
    spent = {one["config"]: one for one in summary["tokens"]["rows"]} if summary else {}
    tables = []
    for group in (None, *setting.groups(each.name)):
        name = each.name if group is None else f"{each.name}/{group}"
        axis = ALL if group is None else each.data.axis
        own = [one for one in scored if one["axis"] == axis and group in (None, one["group"])]
        scores = {one["config"]: one for one in own}
        rows = []
        for row in setting.rows:
            if name not in row.theirs and (row.ours is None or record is None):
                continue
            published, score, kept = setting.published(row, name), scores.get(row.name), spent.get(row.name)
            rows.append(
                {
                    "row": row.name,
                    "implemented": row.ours is not None,
                    "run": row.name in budgets,
                    "kept_published": row.kept,
                    "published": published,
                    "asked": budgets.get(row.name),
                    "achieved": kept and {of: kept[of] for of in ("kept", "layer_average_kept", "visual", "prompts")},
                    "ours": score,
                    "inside": inside(published, score),
                }
            )
        tables.append({"group": group, "rows": rows})
    about = {"name": each.name, "title": each.data.title, "state": state}
    return {**about, "tables": tables, "summary": summary, "files": files}


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
    budgets = {name: budget_of(config, depth) for name, config in configs.items()}
    return {name: {"layer_average": average, "exact": exact} for name, (average, exact) in budgets.items()}


def _config(stored: Mapping[str, Any]) -> PruneVidConfig:
    return PruneVidConfig.from_record({name: value for name, value in stored.items() if " " not in name})


def _predictors(configs: Mapping[str, Mapping[str, Any]]) -> set[str]:
    stored = [_config(each) for each in configs.values() if each]
    return {config.glimpse_path for config in stored if config.has("glimpse_path")}


def _exports(folder: Path, record: Mapping[str, Any]) -> list[Found]:
    """Write the files that the authors of a data set score, and count what is in them."""
    lines = [line for path in answer_files(folder) for line in read_lines(path) if line["error"] is None]
    of = int(record["options"]["questions"].partition(",")[0])
    made = []
    for name in record["configs"]:
        path, answered = None, len({line["id"] for line in lines if line["config"] == name})
        if answered:
            part = "" if answered == of else f" ({answered} of {of})"
            path = write_export(folder, name, folder / f"{record['dataset']} {name}{part}.json", partial=True)
        made.append({"config": name, "answered": answered, "of": of, "file": path and str(path)})
    return made


# ---- times


def timed_figures(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Summarise what the folder of a timed setting holds, over the images that every row measured.

    Returns: ready for JSON: ``deviations`` as of `compare`, each row's figures, and what went wrong.

    Raises:
        ConfigError: the folder's lines are no measurements.
    """
    own, said, device = folder / setting.sets[0].name, list[str](), None
    if (own / RECORD).is_file():
        record = run_folder(own).record(table.name)
        options, device = record["options"], record["device name"]
        said = deviations(table, setting, setting.sets[0], record)
        if options["device"] != "cuda":
            said.append(f"times of {options['device']} say nothing about a GPU, and memory is the process's")
        if options["new_tokens"] != setting.new_tokens:
            said.append(f"answers of {options['new_tokens']} tokens, not {setting.new_tokens}")
    lines: dict[str, dict[str, Any]] = {row.name: {} for row in setting.rows}
    errors = set()
    for line in (line for path in answer_files(own) for line in read_lines(path)):
        if line["error"] is not None:
            errors.add(f"{line['id']}: {line['error']}")
        elif line["config"] in lines:
            if "seconds" not in line or "flops" not in line:
                raise ConfigError(f"{own} holds answers, not measurements: pass --restart or another folder")
            lines[line["config"]].setdefault(line["id"], line)
    whole = sorted(set.intersection(*(set(each) for each in lines.values())))
    base = [lines[BASELINE_ROW][image] for image in whole]
    rows = [_timed_row(name, [held[image] for image in whole], base) for name, held in lines.items() if whole]
    return {
        "table": table.name,
        "setting": setting.name,
        "deviations": said,
        "rows": rows,
        "errors": sorted(errors),
        "images": len(whole),
        "of": setting.images,
        "device": device,
    }


def _timed_row(name: str, own: list[Found], base: list[Found]) -> Found:
    seconds, ratio = {}, {}
    for part in ("vision", "decoder", "first_token", "decode_per_token", "end_to_end"):
        ours, theirs = ([line["seconds"][part] for line in lines] for lines in (own, base))
        seconds[part] = Quantiles.of(ours).to_dict()
        ratio[part] = Quantiles.of(np.divide(theirs, ours)).to_dict()
    memory = [line["memory"] for line in own if line["memory"]["peak"] is not None]
    return {
        "row": name,
        "seconds": seconds,
        "ratio": ratio,
        "kept": fmean(line["tokens"]["kept"] / line["tokens"]["visual"] for line in own),
        "cache_length": fmean(line["cache_length"] for line in own),
        "flops": {part: fmean(line["flops"][part] for line in own) for part in ("decoder", "vision", "decode_step")},
        "memory": {
            "how": own[0]["memory"]["how"],
            "peak": max((each["peak"] for each in memory), default=None),
            "above": Quantiles.of([each["peak"] - each["before"] for each in memory]).to_dict() if memory else None,
        },
    }
