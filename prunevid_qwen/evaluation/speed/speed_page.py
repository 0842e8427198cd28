"""What a run leaves behind: efficiency.json with every figure, efficiency.csv with one row each, report.md to read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import Row, Table, csv_text, json_text
from prunevid_qwen.evaluation.speed.speed_findings import PARTS, WHOLE, eaten, summarise
from prunevid_qwen.evaluation.speed.speed_plots import draw_plots
from prunevid_qwen.evaluation.store import replace

_FLOPS = {  # columns of the report, and of the CSV
    "vision": "flops_vision", "stage 1": "flops_stage1", "decoder": "flops_decoder", "(causal)": "flops_decoder_causal",
    "stage 2": "flops_stage2", "output layer": "flops_lm_head", "a token": "flops_decode_step",
    "FastV GMACs": "macs_fastv", "FastVID GMACs": "macs_fastvid",
}  # fmt: skip


def write_report(folder: Path, plots: bool = False) -> dict[str, Any]:
    """Write the three files and return the summary.

    Args:
        folder: of the run.
        plots: draw them too, and show them in the report.

    Raises:
        ConfigError: the folder holds no measurements.
        SetupError: plots are wanted and matplotlib is not installed.
    """
    summary = summarise(folder)
    names = draw_plots(folder, summary) if plots else []
    replace(folder / "efficiency.json", json_text(summary, ascii_alone=True).encode())
    replace(folder / "efficiency.csv", csv_text(map(flat_row, summary["rows"]), end="\r\n").encode())
    replace(folder / "report.md", report_text(summary, names).encode())
    return summary


def flat_row(row: Row) -> Row:
    """Flatten a row for the table: medians, and the quantiles of what is measured as a whole."""
    about = {name: row[name] for name in ("frames", "batch", "variant", "rounds")}
    if "error" in row:
        return {**about, "error": row["error"]}
    flops, ends = row["flops"], {"": "median", "_low": "low", "_high": "high"}
    return {
        **about,
        **{f"{name}_ms{end}": row["ms"][name][which] for name in WHOLE for end, which in ends.items()},
        **{f"{name}_ms": row["parts_ms"][name]["median"] for name in PARTS},
        "prefill_ms": row["prefill_ms"]["median"],
        "read_ms": (row["read_ms"] or {}).get("median", ""),
        **{f"{name}_speedup": value["median"] for name, value in row.get("speedup", {}).items()},
        **{f"{name}_predicted": value for name, value in row.get("predicted", {}).items()},
        "reached": row.get("reached", ""),
        **{f"tokens_{name}": value for name, value in row["tokens"].items()},
        **{name: row[name] for name in ("R1", "R2", "R_layer", "R_kv", "tokens_as_stock")},
        "peak_bytes": row["memory"]["peak"],
        "peak_bytes_above": row["memory"]["above"],
        **{f"cache_bytes_{name}": value for name, value in row["cache_bytes"].items()},
        **{f"flops_{name}": flops[name] for name in ("vision", "stage1", "stage2", "lm_head", "decode_step")},
        "flops_decoder": flops["decoder"]["total"],
        "flops_decoder_causal": flops["decoder"]["total_causal"],
        **{name: flops[name] for name in ("macs_fastv", "macs_fastvid")},
        "sentence": row["sentence"],
    }


def report_text(summary: dict[str, Any], plots: Sequence[str]) -> str:
    """Write the report of a run from its summary; ``plots`` are names of files that were drawn."""
    out = ["# Speed with and without pruning", "", *_about(summary)]
    out += [f"**Noisy:** {said}.\n" for said in summary["noise"]]
    for (frames, batch), rows in groupby(summary["rows"], key=lambda row: (row["frames"], row["batch"])):
        out += [f"## {frames} frames, batch {batch}", "", *_cell(list(rows)), ""]
    if summary["overhead"]:
        out += ["## What the hooks cost when nothing is pruned", "", *overhead_table(summary["overhead"]), ""]
    if summary["growth"]:
        out += ["## Stage 1 against the length of the video", "", *growth_table(summary["growth"]), ""]
    if plots:
        out += ["## Plots", "", *[f"![{name}]({name})" for name in plots if name.endswith("_light.svg")], ""]
    out += ["## What the figures mean", "", *[f"- `{name}`: {text}." for name, text in summary["definitions"].items()]]
    return "\n".join(out).rstrip() + "\n"


def _about(summary: dict[str, Any]) -> list[str]:
    options, machine = summary["options"], summary["hardware"]
    model = options["model_path"] or f"random weights of shape {options['shape']}"
    where = machine.get("gpu") or f"{summary['machine']}, {machine['threads']} threads"
    changes = ", with uncommitted changes" if summary["uncommitted_changes"] else ""
    said = f"{options['video']} videos" if options["video"] else f"random pixels ({options['content']})"
    return [
        f"{model}, {options['dtype']}, attention `{options['attention']}`, on {where}. {said}, "
        f"{options['grid'][0]}x{options['grid'][1]} tokens a position, {options['text_tokens']} text tokens, "
        f"{options['new_tokens']} new tokens, greedy. All competitors ran in one process on the same inputs, in turns.",
        "",
        f"`{summary['command']}`; commit {summary['commit'] or 'unknown'}{changes}; {summary['versions']}",
        "",
    ]


def _cell(rows: list[Row]) -> list[str]:
    ran = [row for row in rows if "error" not in row]
    compared = [row for row in ran if "speedup" in row]
    read = ran[0]["read_ms"] if ran else None
    reading = "not measured: random pixels" if read is None else f"{_spread(read, 1)} a video, on the CPU"
    times = [
        [row["variant"], *(_spread(row["ms"][name], 1) for name in WHOLE),
         *(f"{row['parts_ms'][part]['median']:.1f}" for part in PARTS)] for row in ran
    ]  # fmt: skip
    speedups = [
        [row["variant"], _spread(row["speedup"]["prefill"]), f"{row['predicted']['prefill']:.2f}",
         f"{row['predicted']['prefill_causal']:.2f}", f"{row['reached']:.2f}",
         _spread(row["speedup"]["prefill_with_stage1"]), _spread(row["speedup"]["layers_alone"]),
         _spread(row["speedup"]["first_token"]), f"{row['predicted']['first_token']:.2f}",
         _spread(row["speedup"]["end_to_end"]), f"{row['predicted']['end_to_end']:.2f}"] for row in compared
    ]  # fmt: skip
    tokens = [
        [row["variant"], f"{row['tokens']['after_stage1']:.0f}", f"{row['tokens']['after_stage2']:.0f}",
         *(f"{row[name]:.3f}" for name in ("R1", "R2", "R_layer", "R_kv")), _mb(row["cache_bytes"]["measured"]),
         _mb(row["cache_bytes"]["computed"]), _mb(row["memory"]["peak"]), _mb(row["memory"]["above"])] for row in ran
    ]  # fmt: skip
    flops = [
        [own["variant"], *(f"{own[name] / 1e9:.2f}" if own[name] else "0" for name in _FLOPS.values())]
        for own in map(flat_row, ran)
    ]
    return [
        *(f"- **{row['variant']}**: {row['sentence']}" for row in rows),
        "", f"Decoding the video and making its pixels: {reading}.",
        "", *table(["ms", "first token", "a token", "end to end", *PARTS], times),
        "", *table(["speed-up", "prefill", "predicted", "(causal)", "reached", "with stage 1", "layers alone",
                    "first token", "predicted", "end to end", "predicted"], speedups),
        "", "What eats the difference in the decoder, in ms:",
        "", *(f"- {row['variant']}: {eaten(row['difference_ms'])}." for row in compared),
        "", *table(["tokens", "stage 1", "stage 2", "R1", "R2", "R_layer", "R_kv", "cache MB", "computed", "peak MB",
                    "above"], tokens),
        "", f"Memory: {ran[0]['memory']['how'] if ran else ''}.",
        "", *table(["GFLOPs", *_FLOPS], flops),
    ]  # fmt: skip


def overhead_table(found: list[dict[str, Any]]) -> list[str]:
    """Return the lines on what the hooks cost, from the summary's ``overhead``."""
    rows = [
        [one["shape"], str(one["prompt_tokens"]), str(one["new_tokens"]), f"{one['stock_ms']['median']:.0f}",
         _signed(one["prefill_ms"]), _signed(one["decode_ms"]), _signed(one["generate_share"], 100)]
        for one in found
    ]  # fmt: skip
    head = ["model", "prompt", "new tokens", "stock ms", "added to the prefill, ms", "to a step, ms", "to generate, %"]
    return ["Median of the paired differences, 20 % and 80 % quantiles.", "", *table(head, rows)]


def growth_table(growth: dict[str, Any]) -> list[str]:
    """Return the lines on stage 1 as videos grow, from the summary's ``growth``."""
    rows = [
        [str(point["frames"]), str(point["tokens"]), str(point["after_stage1"]), _spread(point["seconds"], 1, 1000),
         _mb(point["memory"]["above"]), _mb(point["input_bytes"])]
        for point in growth["points"]
    ]  # fmt: skip
    return [
        f"{growth['grid'][0]}x{growth['grid'][1]} tokens a position, C={growth['channels']}, {growth['dtype']}. Time "
        f"grows with the length to the power of {growth['exponent']:.2f} (1 is linear).",
        "",
        *table(["frames", "tokens", "left", "ms", "peak above the features, MB", "features, MB"], rows),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown: the first column to the left, numbers to the right."""
    return Table(head, rows).markdown(others=" ---: ")


def _spread(value: dict[str, Any], digits: int = 2, factor: float = 1) -> str:
    median, low, high = (f"{factor * value[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _signed(value: dict[str, Any], factor: float = 1) -> str:
    return f"{factor * value['median']:+.2f} [{factor * value['low']:+.2f}, {factor * value['high']:+.2f}]"


def _mb(value: int | None) -> str:
    return "not measured" if value is None else f"{value / 1e6:.1f}"
