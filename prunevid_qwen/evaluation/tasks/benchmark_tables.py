"""Tables of a run from its stored lines: no model, no video, the same bytes however the run was spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets import read_dataset
from prunevid_qwen.evaluation.engine.storing import TABLES, answer_files, run_folder
from prunevid_qwen.evaluation.engine.task import Line
from prunevid_qwen.evaluation.protocol.exports import official_text, write_submission
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.evaluation.protocol.score_summary import BASELINE, Manifest, summarise
from prunevid_qwen.evaluation.protocol.score_tables import markdown_text
from prunevid_qwen.evaluation.report.page import Row, Table, csv_text, flat, json_text, share
from prunevid_qwen.evaluation.store import read_lines, replace

REPORT = TABLES[-1]

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
    record, stored = _stored(folder)
    if record["manifest"] is None:
        raise ConfigError(
            f"the answers to {record['dataset']} ({record['part']}) are not public, so there is no score: write the "
            f"file for its authors with `prunevid eval export {folder}`"
        )
    there = {line["config"] for line in stored}
    configs = sorted((name for name in record["configs"] if name in there), key=lambda name: name != BASELINE)
    protocol = EvalProtocol.from_dict(record["protocol"])
    summary = summarise(stored, Manifest(**record["manifest"]), protocol, configs or None)
    summary["tokens"] = {"rows": _token_rows(stored, configs), "definitions": DEFINITIONS}
    plain = PruneVidConfig().flat()
    changed = {
        name: {option: value for option, value in record["configs"][name].items() if value != plain.get(option)}
        for name in configs
    }
    # of what the figures are, as far as it is the same for all who repeat the run
    summary["run"] = {**{name: record[name] for name in ("options", "versions", "code_sha256")}, "configs": changed}
    page = [markdown_text(summary), "## Tokens", "", *_token_table(summary["tokens"]["rows"]), ""]
    page += [f"- {name}: {text}" for name, text in DEFINITIONS.items()] + ["", "## What answered", ""]
    page += [f"- {name}: {value}" for name, value in {**record["options"], **record["versions"]}.items()]
    page.append(f"- code of prunevid_qwen: sha256 {record['code_sha256']}")
    for name, options in changed.items():
        said = ", ".join(f"{option}={value}" for option, value in options.items())
        page.append(f"- config `{name}`: {said or 'the defaults'}")
    texts = (json_text(summary), csv_text(map(flat, summary["rows"])), "\n".join([*page, ""]))
    for name, text in zip(TABLES, texts, strict=True):
        replace(folder / name, text.encode())
    return summary


def write_export(folder: Path, config: str | None, path: Path | None, partial: bool = False) -> Path:
    """Write the file that a benchmark's authors score: Video-MME's script, EgoSchema's server.

    Args:
        config: whose answers; None for the only one.
        path: of the file; None for one beside the answers.
        partial: of EgoSchema, leave out what has no answer.

    Raises:
        ConfigError: another benchmark, or no such answers.
    """
    record, stored = _stored(folder)
    names, dataset = list(record["configs"]), record["dataset"]
    if config is None and len(names) != 1:
        raise ConfigError(f"the run has the configs {', '.join(names)}: say whose answers with --config")
    name = config or names[0]
    # a config's name may hold a path: "paper glimpse_path=/models/glimpse"
    path = path or folder / f"{dataset} {name.replace('/', '_')}.json"
    records = read_dataset(dataset, Path(record["data"]), record["part"]).records
    if dataset == "videomme":
        replace(path, official_text(records, stored, name).encode())
    elif dataset == "egoschema":
        prefill = EvalProtocol.from_dict(record["protocol"]).text.prefill
        write_submission(path, records, stored, name, prefill, partial)
    else:
        raise ConfigError(
            f"{dataset} has no file for its authors; videomme and egoschema have one. `prunevid eval tables` scores it"
        )
    return path


def _stored(folder: Path) -> tuple[dict[str, Any], list[Line]]:
    record = run_folder(folder).record(_COMMAND)
    if "manifest" not in record:
        raise ConfigError(
            f"{folder} holds another kind of run ({record.get('what', 'it does not say which')}): give the folder of a "
            f"`{_COMMAND}`"
        )
    return record, [line for path in answer_files(folder) for line in read_lines(path)]


def _token_rows(lines: Iterable[Line], configs: Sequence[str]) -> list[Row]:
    """Return the mean counts of each config, over its answered questions, each of which counts once."""
    found: dict[str, dict[str, Row]] = {name: {} for name in configs}
    for line in lines:
        if line["error"] is None and line["config"] in found:
            found[line["config"]].setdefault(line["id"], line["tokens"])
    rows = []
    for name, own in found.items():
        counts = [each for _, each in sorted(own.items())]
        seen = [each for each in counts if each["visual"]]
        if counts:
            row = {"config": name, "prompts": len(counts), **{n: fmean(each[n] for each in counts) for n in _COUNTS}}
            for kept, count in (("kept", "after_stage2"), ("layer_average_kept", "layer_average")):
                row[kept] = fmean(each[count] / each["visual"] for each in seen) if seen else None
            rows.append(row)
    return rows


def _token_table(rows: Sequence[Row]) -> list[str]:
    head = ("config", "prompts", "visual", "after stage 1", "after stage 2", "kept", "layer average", "answer")
    table = []
    for row in rows:
        counts = [f"{row[name]:.1f}" for name in ("visual", "after_stage1", "after_stage2", "generated")]
        shares = ["" if row[name] is None else share(row[name]) for name in ("kept", "layer_average_kept")]
        table.append([row["config"], str(row["prompts"]), *counts[:3], *shares, counts[3]])
    return Table(head, table).markdown("---")
