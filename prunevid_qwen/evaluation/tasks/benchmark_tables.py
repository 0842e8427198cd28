"""Tables of a run from its stored lines: no model, no video, the same bytes however the run was spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets import read_dataset
from prunevid_qwen.evaluation.engine.storing import answer_files, run_folder
from prunevid_qwen.evaluation.protocol.answer_lines import AnswerLine, join
from prunevid_qwen.evaluation.protocol.exports import official_text, write_submission
from prunevid_qwen.evaluation.protocol.harness_scorers import SCORERS
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.evaluation.protocol.score_summary import Manifest, summarise
from prunevid_qwen.evaluation.protocol.score_tables import csv_text, markdown_text
from prunevid_qwen.evaluation.protocol.scorers import Output
from prunevid_qwen.evaluation.report.page import Table, json_text
from prunevid_qwen.evaluation.store import read_lines, replace
from prunevid_qwen.evaluation.tasks.benchmark import BASELINE

SUMMARY, TABLE, REPORT = "summary.json", "summary.csv", "report.md"

_COMMAND = "prunevid eval run"

_COUNTS = ("visual", "after_stage1", "after_stage2", "layer_average", "prompt", "generated")

DEFINITIONS = {
    "visual": "visual tokens of a prompt, out of the vision encoder",
    "after_stage1": "of these, those that enter the decoder",
    "after_stage2": "those that the layers after layer M see",
    "layer_average": "mean over the decoder's layers",
    "kept": "after_stage2 / visual of each prompt, its mean; papers' retained ratio",
    "layer_average_kept": "layer_average / visual of each prompt, its mean: compares methods that prune at different "
    "depths",
}


def write_tables(folder: Path) -> dict[str, Any]:
    """Score the stored answers of a run and write its tables beside them.

    Returns: the figures, as in ``summary.json``.

    Raises:
        ConfigError: no run, no answers, or answers that the authors score.
    """
    record = _record(folder)
    if record["manifest"] is None:
        raise ConfigError(
            f"the answers to {record['dataset']} ({record['part']}) are not public, so there is no score: write the "
            f"file for its authors with `prunevid eval export {folder}`"
        )
    protocol = EvalProtocol.from_dict(record["protocol"])
    stored = [line for path in answer_files(folder) for line in read_lines(path)]
    configs = [name for name in record["configs"] if any(line["config"] == name for line in stored)]
    configs.sort(key=lambda name: name != BASELINE)
    summary = summarise(
        (AnswerLine.from_dict(line) for line in stored), Manifest(**record["manifest"]), protocol, configs or None
    )
    summary["tokens"] = {"rows": token_rows(stored, configs), "definitions": DEFINITIONS}
    summary["run"] = _identity(record, configs)
    page = [markdown_text(summary), "## Tokens", "", *token_table(summary["tokens"]["rows"]), ""]
    page += [f"- {name}: {text}" for name, text in DEFINITIONS.items()]
    page += ["", "## What answered", "", *_identity_lines(summary["run"])]
    for name, text in ((SUMMARY, json_text(summary)), (TABLE, csv_text(summary)), (REPORT, "\n".join([*page, ""]))):
        replace(folder / name, text.encode())
    return summary


def _identity(record: dict[str, Any], configs: Sequence[str]) -> dict[str, Any]:
    """Return what the figures are of, as far as it is the same for all who repeat the run."""
    plain = PruneVidConfig().flat()
    changed = {
        name: {option: value for option, value in record["configs"][name].items() if value != plain.get(option)}
        for name in configs
    }
    return {**{name: record[name] for name in ("options", "versions", "code_sha256")}, "configs": changed}


def _identity_lines(run: dict[str, Any]) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in (*run["options"].items(), *run["versions"].items())]
    lines.append(f"- code of prunevid_qwen: sha256 {run['code_sha256']}")
    for name, changed in run["configs"].items():
        said = ", ".join(f"{option}={value}" for option, value in changed.items())
        lines.append(f"- config `{name}`: {said or 'the defaults'}")
    return lines


def write_export(folder: Path, config: str | None, path: Path | None, partial: bool = False) -> Path:
    """Write the file that a benchmark's authors score: Video-MME's script, EgoSchema's server.

    Args:
        config: whose answers; None for the only one.
        path: of the file; None for one beside the answers.
        partial: of EgoSchema, leave out what has no answer.

    Raises:
        ConfigError: another benchmark, or no such answers.
    """
    record = _record(folder)
    names = list(record["configs"])
    if config is None and len(names) != 1:
        raise ConfigError(f"the run has the configs {', '.join(names)}: say whose answers with --config")
    name = config or names[0]
    # a config's name may hold a path: "paper glimpse_path=/models/glimpse"
    path = path or folder / f"{record['dataset']} {name.replace('/', '_')}.json"
    data = read_dataset(record["dataset"], Path(record["data"]), record["part"])
    lines = [AnswerLine.from_dict(line) for path in answer_files(folder) for line in read_lines(path)]
    if record["dataset"] == "videomme":
        replace(path, official_text(data.records, lines, name).encode())
        return path
    if record["dataset"] == "egoschema":
        prefill = EvalProtocol.from_dict(record["protocol"]).text.prefill
        own = [line for line in join(lines).lines if line.config == name and line.raw is not None]
        answers = {line.id: SCORERS["ours"](Output(line.raw or "", line.options, prefill)).letter for line in own}
        return write_submission(path, data.records, answers, partial)
    raise ConfigError(
        f"{record['dataset']} has no file for its authors; videomme and egoschema have one. `prunevid eval tables` "
        "scores it"
    )


def _record(folder: Path) -> dict[str, Any]:
    record = run_folder(folder).record(_COMMAND)
    if "manifest" not in record:
        raise ConfigError(
            f"{folder} holds another kind of run ({record.get('what', 'it does not say which')}): give the folder of a "
            f"`{_COMMAND}`"
        )
    return record


def token_rows(lines: Iterable[Mapping[str, Any]], configs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean counts of each config, over its answered questions, each of which counts once."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in configs}
    for line in lines:
        if line["error"] is None and line["config"] in found:
            found[line["config"]].setdefault(line["id"], line["tokens"])
    rows = []
    for name, own in found.items():
        counts = [each for _, each in sorted(own.items())]
        seen = [each for each in counts if each["visual"]]
        if counts:
            row = {"config": name, "prompts": len(counts), **{n: fmean(each[n] for each in counts) for n in _COUNTS}}
            for share, count in (("kept", "after_stage2"), ("layer_average_kept", "layer_average")):
                row[share] = fmean(each[count] / each["visual"] for each in seen) if seen else None
            rows.append(row)
    return rows


def token_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head = ("config", "prompts", "visual", "after stage 1", "after stage 2", "kept", "layer average", "answer")
    table = []
    for row in rows:
        counts = [f"{row[name]:.1f}" for name in ("visual", "after_stage1", "after_stage2", "generated")]
        shares = ["" if row[name] is None else percent(row[name], 1) for name in ("kept", "layer_average_kept")]
        table.append([row["config"], str(row["prompts"]), *counts[:3], *shares, counts[3]])
    return Table(head, table).markdown("---")
