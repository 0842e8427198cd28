"""Rows of a published table that lmms-eval asks and scores: one run of it with an entry a row, and what it gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.lmms_plugin.several import LmmsRun, config_of_results, scores_in
from prunevid_qwen.evaluation.published.budget import PUBLISHED_DEPTH
from prunevid_qwen.evaluation.published.reproduce import Reproduction, check_files
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, PublishedTable, SetOfTable, Setting
from prunevid_qwen.evaluation.report.page import Table

Found = dict[str, Any]


def lmms_run(asked: Reproduction) -> LmmsRun:
    """Return the run that answers a setting's data sets with our configs of its rows; `ConfigError` as `LmmsRun`."""
    loading = {name: value or None for name, value in asked.loading.items()}
    tasks = tuple(dict.fromkeys(each.data.task for each in asked.sets))
    configs = asked.configs(PUBLISHED_DEPTH)[0]  # of no depth: a setting through lmms-eval refuses what depends on it
    return LmmsRun(tasks, configs, asked.model_path, {**loading, **asked.changes}, asked.limit)


def check_lmms(asked: Reproduction, folder: Path) -> Found:
    """Do everything up to lmms-eval: files of a local model, arguments, configs; write its file.

    Raises:
        ConfigError, SetupError: what would stop the run.
    """
    files = check_files(asked.model_path)
    path, left = lmms_run(asked).write(folder)
    return {"model": files, "tasks": [each.data.task for each in asked.sets], "configs": left, "file": str(path)}


def compare_lmms(table: PublishedTable, setting: Setting, folder: Path) -> Found:
    """Put the published figures beside what lmms-eval left in the folder of a setting.

    Returns:
        Ready for JSON: ``deviations`` of the runs from the setting, from lmms-eval's own record of them, and ``asked``,
        a data set each, with its rows. Scores are as the table has them.
    """
    scored: dict[str, dict[str, Any]] = {}
    said = dict[str, None]()
    for config, results in config_of_results(folder):
        for row in setting.rows:
            if row.ours is not None and row.ours.config(PUBLISHED_DEPTH) == config:
                counts = results.get("n-samples", {})
                own = {task: (metrics, counts.get(task)) for task, metrics in scores_in(results).items()}
                scored.setdefault(row.name, {}).update(own)
                said |= dict.fromkeys(_deviations(table, results["config"]))
    asked = [_asked(setting, each, scored) for each in setting.sets]
    return {"table": table.name, "setting": setting.name, "deviations": list(said), "asked": asked}


def _deviations(table: PublishedTable, record: Found) -> list[str]:
    given = dict(part.split("=", 1) for part in record["model_args"].split(",") if "=" in part)
    given = {name: value.strip('"') for name, value in given.items()}
    model = given.pop("pretrained", "bundled")
    said = [] if Path(model).name == table.model.rpartition("/")[2] else [f"model: {model}, not {table.model}"]
    if record["limit"] is not None:
        said.append(f"the first {record['limit']:g} documents of each task")
    return said + [f"{name}: {value}" for name, value in given.items() if name != "config"]


def _asked(setting: Setting, each: SetOfTable, scored: dict[str, dict[str, Any]]) -> Found:
    base = _score(each, scored.get(BASELINE_ROW, {}))
    rows = []
    for row in (row for row in setting.rows if row.ours is not None or each.name in row.theirs):
        own = scored.get(row.name, {})
        score, (_, counts) = _score(each, own), own.get(each.data.task, ({}, None))
        rows.append(
            {
                "row": row.name,
                "published": setting.published(row, each.name),
                "implemented": row.ours is not None,
                "ours": score,
                "difference": None if score is None or base is None else round(score - base, 6),
                "answered": counts,
                "kept_published": row.kept,
            }
        )
    state = "scored" if any(row["ours"] is not None for row in rows) else "not run"
    return {"name": each.name, "title": each.data.title, "state": state, "rows": rows}


def _score(each: SetOfTable, own: dict[str, Any]) -> float | None:
    metrics, _ = own.get(each.data.task, ({}, None))
    if not set(each.data.metrics) <= metrics.keys():
        return None
    return float(each.data.scale * sum(metrics[name] for name in each.data.metrics))


def lmms_sections(found: Found) -> list[str | list[str]]:
    """Return the page's tables of `compare_lmms`."""
    parts: list[str | list[str]] = []
    names = ("row", "theirs", "their difference", "ours, lmms-eval's", "our difference", "answered", "kept, published")
    for each in found["asked"]:
        rows = []
        for row in each["rows"]:
            published, paired = row["published"], row["row"] != BASELINE_ROW
            theirs = ["", ""] if published is None else [f"{published['score']:.1f}", f"{published['difference']:+.1f}"]
            ours = ["not run" if row["implemented"] else "not implemented here", "", ""]
            if row["ours"] is not None:
                difference, counts = row["difference"], row["answered"]
                answered = f"{counts['effective']} of {counts['original']}" if counts else ""
                ours = [f"{row['ours']:.1f}", "" if difference is None else f"{difference:+.1f}", answered]
            if not paired:
                theirs[1] = ours[1] = ""
            rows.append([row["row"], *theirs, *ours, row["kept_published"]])
        parts += [f"## {each['title']}", Table(names, rows).markdown("---")]
    return parts
