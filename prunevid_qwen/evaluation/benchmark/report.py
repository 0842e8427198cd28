"""Tables of a run from its stored lines: no model, no video, the same bytes however the run was spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.benchmark.run import BASELINE
from prunevid_qwen.evaluation.benchmark.tokens import DEFINITIONS, token_rows, token_table
from prunevid_qwen.evaluation.datasets import read_dataset
from prunevid_qwen.evaluation.engine.folder import answer_files, recorded, whole_lines
from prunevid_qwen.evaluation.protocol.exports import official_text, write_submission
from prunevid_qwen.evaluation.protocol.lines import Line, join, read_lines
from prunevid_qwen.evaluation.protocol.manifest import Manifest
from prunevid_qwen.evaluation.protocol.outputs import Output
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.protocol.scorers import SCORERS
from prunevid_qwen.evaluation.protocol.summary import summarise
from prunevid_qwen.evaluation.protocol.tables import csv_text, json_text, markdown_text
from prunevid_qwen.evaluation.visual_cot.folder import replace

SUMMARY, TABLE, REPORT = "summary.json", "summary.csv", "report.md"

_COMMAND = "prunevid eval run"


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
    protocol = Protocol.from_dict(record["protocol"])
    stored = [line for path in answer_files(folder) for line in whole_lines(path)]
    configs = [name for name in record["configs"] if any(line["config"] == name for line in stored)]
    configs.sort(key=lambda name: name != BASELINE)
    summary = summarise(
        (Line.from_dict(line) for line in stored), Manifest.from_dict(record["manifest"]), protocol, configs or None
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
        folder: of the run.
        config: whose answers; None for the only one.
        path: of the file; None for one beside the answers.
        partial: of EgoSchema, leave out what has no answer.

    Raises:
        ConfigError: another benchmark, or no such answers.
    """
    record = _record(folder)
    name = config or _only(record)
    data = read_dataset(record["dataset"], Path(record["data"]), record["part"])
    lines = read_lines(answer_files(folder))
    if record["dataset"] == "videomme":
        path = path or folder / f"videomme {_as_file(name)}.json"
        replace(path, official_text(data.records, lines, name).encode())
        return path
    if record["dataset"] == "egoschema":
        prefill = Protocol.from_dict(record["protocol"]).text.prefill
        own = [line for line in join(lines).lines if line.config == name and line.raw is not None]
        answers = {line.id: SCORERS["ours"](Output(line.raw or "", line.options, prefill)).letter for line in own}
        return write_submission(path or folder / f"egoschema {_as_file(name)}.json", data.records, answers, partial)
    raise ConfigError(
        f"{record['dataset']} has no file for its authors; videomme and egoschema have one. `prunevid eval tables` "
        "scores it"
    )


def _record(folder: Path) -> dict[str, Any]:
    record = recorded(folder, _COMMAND)
    if "manifest" not in record:
        raise ConfigError(
            f"{folder} holds another kind of run ({record.get('what', 'it does not say which')}): give the folder of a "
            f"`{_COMMAND}`"
        )
    return record


def _as_file(config: str) -> str:
    return config.replace("/", "_")  # a config's name may hold a path: "paper glimpse_path=/models/glimpse"


def _only(record: dict[str, Any]) -> str:
    names = list(record["configs"])
    if len(names) != 1:
        raise ConfigError(f"the run has the configs {', '.join(names)}: say whose answers with --config")
    return str(names[0])
