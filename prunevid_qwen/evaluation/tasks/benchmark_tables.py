"""Tables of a run from its stored lines, and what its authors score: no model, no video, the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets import Record, read_dataset
from prunevid_qwen.evaluation.engine.storing import TABLES, answer_files, run_folder
from prunevid_qwen.evaluation.engine.task import Line
from prunevid_qwen.evaluation.protocol.protocol import TOKEN_PIXELS, EvalProtocol
from prunevid_qwen.evaluation.protocol.score_summary import BASELINE, Manifest, join, summarise
from prunevid_qwen.evaluation.protocol.score_tables import markdown_text
from prunevid_qwen.evaluation.protocol.scorers import Output, ours
from prunevid_qwen.evaluation.report.page import Row, Table, csv_text, flat, json_text, share
from prunevid_qwen.evaluation.store import read_lines, replace

REPORT = TABLES[-1]

_COMMAND = "prunevid eval run"

_NO_OPTION = -1  # stands for an answer that names no option in EgoSchema's file: it is wrong, and no guess


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
    """Score the stored answers of a run, write its tables beside them, and return what is in ``summary.json``.

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
    if own := record.get("token_pixels"):
        page.append(f"- pixels of a visual token of a frame: {own}, where Qwen2.5-VL has {TOKEN_PIXELS}")
        summary["run"]["token_pixels"] = own
    if idle := record.get("not_applied"):
        page.append(f"- choices of the protocol that were not applied, because the model has none: {', '.join(idle)}")
        summary["run"]["not_applied"] = idle
    page += [f"- {name}: {value}" for name, value in {**record["options"], **record["versions"]}.items()]
    page.append(f"- code of prunevid_qwen: sha256 {record['code_sha256']}")
    for name, options in changed.items():
        said = ", ".join(f"{option}={value}" for option, value in options.items())
        page.append(f"- config `{name}`: {said or 'the defaults'}")
    texts = (json_text(summary), csv_text(map(flat, summary["rows"])), "\n".join([*page, ""]))
    for name, text in zip(TABLES, texts, strict=True):
        replace(folder / name, text.encode())
    return summary


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


# ---- for the authors of a benchmark


def write_export(folder: Path, config: str | None, path: Path | None, partial: bool = False) -> Path:
    """Write the file that a benchmark's authors score, of one config, which may be None where there is but one.

    ``path`` None is beside the answers; ``partial`` leaves out EgoSchema's questions without an answer. A `ConfigError`
    says that a benchmark has no such file, or the run no such answers.
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


def official_text(records: Iterable[Record], lines: Iterable[Line], config: str) -> str:
    """Return one config's raw answers to Video-MME's records in the format of its ``eval_your_results.py``.

    A question without one has the response "", which that script leaves out of its denominator.
    """
    answers = {line["id"]: line["raw"] for line in join(lines)[0] if line["config"] == config}
    if not answers:
        raise ConfigError(f"no answers of {quoted(config)} to export: name a configuration of the run")
    videos: dict[str, dict[str, Any]] = {}
    for record in records:
        video = record.id.rpartition("-")[0]
        about = {name: record.groups[name] for name in ("duration", "domain", "sub_category")}
        entry = videos.setdefault(video, {"video_id": video, **about, "questions": []})
        entry["questions"].append(
            {
                "question_id": record.id,
                "task_type": record.groups["task_type"],
                "question": record.question,
                "options": [f"{letter}. {text}" for letter, text in zip(record.letters, record.options, strict=True)],
                "answer": record.answer,
                "response": answers.get(record.id) or "",
            }
        )
    return json_text(list(videos.values()))


def write_submission(
    path: Path, records: Sequence[Record], lines: Iterable[Line], config: str, prefill: str, partial: bool = False
) -> None:
    """Write one config's answers to EgoSchema's questions, the number of an option for each.

    A ``path`` that ends in .json is for the server (``{q_uid: number}``), .csv for Kaggle (``q_uid,answer``);
    ``prefill`` is how the prompt began the answer. A `ConfigError` says that questions have no answer, unless
    ``partial``.
    """
    own = {line["id"]: line for line in join(lines)[0] if line["config"] == config and line["error"] is None}
    absent = [record.id for record in records if record.id not in own]
    if absent and not partial:
        raise ConfigError(
            f"{len(absent)} of {len(records)} questions have no answer, such as {absent[0]}: the server marks all of "
            "them; go on with the run, or write a part of it on purpose (--partial)"
        )
    numbers = {}
    for record in records:
        if line := own.get(record.id):
            letter = ours(Output(line["raw"], tuple(line["options"]), prefill)).letter
            numbers[record.id] = _NO_OPTION if letter is None else record.letters.index(letter)
    if path.suffix == ".json":
        text = json.dumps(numbers, indent=0) + "\n"
    elif path.suffix == ".csv":
        text = csv_text({"q_uid": name, "answer": number} for name, number in numbers.items())
    else:
        raise ConfigError(f"a submission is a .json (EgoSchema's server) or a .csv (Kaggle), got {quoted(path.name)}")
    replace(path, text.encode())
