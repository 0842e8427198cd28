"""What a run leaves behind: efficiency.json with every figure, efficiency.csv with one row each, report.md to read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.accuracy_folder import RECORD
from prunevid_qwen.evaluation.efficiency.findings import PARTS, WHOLE, Row, rows_of
from prunevid_qwen.evaluation.efficiency.folder import read_lines
from prunevid_qwen.evaluation.efficiency.growth import GROWTH
from prunevid_qwen.evaluation.efficiency.overhead import OVERHEAD, overhead_of
from prunevid_qwen.evaluation.efficiency.sentences import noise_of, sentence
from prunevid_qwen.evaluation.efficiency.tables import report_text

SUMMARY, TABLE, REPORT = "efficiency.json", "efficiency.csv", "report.md"

DEFINITIONS = {
    "ms.first_token": "tensors on the device to the first token chosen; nothing hooked but by `pruned` itself",
    "ms.decode_per_token": "(last token - first token) / (tokens - 1)",
    "ms.end_to_end": "the whole of generate(), entering and leaving `pruned` included",
    "read_ms": "decoding, resizing and cutting into patches of one video file, on the CPU; None: random pixels",
    "parts_ms": "another run up to the first token, with hooks around the stock modules; the parts add up",
    "prefill_ms": "the decoder's forward of the prompt, stages 2 and 3 included, stage 1 not",
    "speedup": "stock / own of the same round: median and quantiles of these",
    "predicted": "prefill: the decoder's FLOPs, stock / own, attention in full; first_token and end_to_end: if the "
    "decoder took as long as that says, choosing cost nothing and all else stayed",
    "reached": "speedup.prefill / predicted.prefill",
    "difference_ms": "what the decoder takes above the predicted time, part by part; hooks from keep everything",
    "flops": "2 x multiply-adds, all tokens, actual lengths of each layer, grouped-query heads, SwiGLU",
    "macs_fastv, macs_fastvid": "the papers' formulas: multiply-adds of visual tokens alone",
    "R1, R2, R_layer, R_kv": "visual tokens after stage 1, stage 2, averaged over layers; cache entries, text too",
    "memory": "bytes at the peak of one whole answer, and above what was there before it",
    "quantiles": "low and high are the 20 % and 80 % quantiles",
}


def summarise(folder: Path) -> dict[str, Any]:
    """Collect every figure of a run.

    Raises:
        ConfigError: the folder holds no measurements.
    """
    lines = read_lines(folder)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    new_tokens = record["options"]["new_tokens"]
    rows = rows_of(lines, new_tokens)
    for row in rows:
        row["sentence"] = sentence(row, new_tokens)
    configs = {
        f"{line['frames']} frames, batch {line['batch']}: {name}": about["config"]
        for line in lines
        if line["kind"] == "facts"
        for name, about in line["variants"].items()
        if about.get("config")
    }
    return {
        **record,
        "definitions": DEFINITIONS,
        "noise": noise_of(rows),
        "rows": rows,
        "overhead": [overhead_of(line) for line in lines if line["kind"] == OVERHEAD],
        "growth": next((line for line in lines if line["kind"] == GROWTH), None),
        "configs": configs,
    }


def write_report(folder: Path, plots: list[str] | None = None) -> dict[str, Any]:
    """Write the three files and return the summary.

    Args:
        folder: of the run.
        plots: names of those drawn, to be shown in the report.
    """
    summary = summarise(folder)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        flat = [flat_row(row) for row in summary["rows"]]
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat for name in row)), restval="")
        writer.writeheader()
        writer.writerows(flat)
    (folder / REPORT).write_text(report_text(summary, plots or []), encoding="utf-8")
    return summary


def flat_row(row: Row) -> dict[str, Any]:
    """Flatten a row for the table: medians, and the quantiles of what is measured as a whole."""
    flat: dict[str, Any] = {name: row[name] for name in ("frames", "batch", "variant", "rounds")}
    if "error" in row:
        return {**flat, "error": row["error"]}
    for name in WHOLE:
        flat |= {f"{name}_ms": row["ms"][name]["median"]}
        flat |= {f"{name}_ms_{end}": row["ms"][name][end] for end in ("low", "high")}
    flat |= {f"{name}_ms": row["parts_ms"][name]["median"] for name in PARTS}
    flat |= {"prefill_ms": row["prefill_ms"]["median"], "read_ms": (row["read_ms"] or {}).get("median", "")}
    flat |= {f"{name}_speedup": value["median"] for name, value in row.get("speedup", {}).items()}
    flat |= {f"{name}_predicted": value for name, value in row.get("predicted", {}).items()}
    flat |= {"reached": row.get("reached", "")}
    flat |= {f"tokens_{name}": value for name, value in row["tokens"].items()}
    flat |= {name: row[name] for name in ("R1", "R2", "R_layer", "R_kv", "tokens_as_stock")}
    flat |= {"peak_bytes": row["memory"]["peak"], "peak_bytes_above": row["memory"]["above"]}
    flat |= {f"cache_bytes_{name}": value for name, value in row["cache_bytes"].items()}
    flops = row["flops"]
    flat |= {f"flops_{name}": flops[name] for name in ("vision", "stage1", "stage2", "lm_head", "decode_step")}
    flat |= {"flops_decoder": flops["decoder"]["total"], "flops_decoder_causal": flops["decoder"]["total_causal"]}
    flat |= {name: flops[name] for name in ("macs_fastv", "macs_fastvid")}
    return {**flat, "sentence": row["sentence"]}
