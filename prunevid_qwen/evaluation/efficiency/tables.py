"""The report in words and tables."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from prunevid_qwen.evaluation.efficiency.findings import PARTS, Row
from prunevid_qwen.evaluation.efficiency.sentences import eaten


def report_text(summary: dict[str, Any], plots: list[str]) -> str:
    """Write the report of a run.

    Args:
        summary: of `report.summarise`.
        plots: names of files that were drawn.
    """
    out = ["# Speed with and without pruning", "", *_about(summary)]
    out += [f"**Noisy:** {said}.\n" for said in summary["noise"]]
    for (frames, batch), rows in _cells(summary["rows"]):
        out += [f"## {frames} frames, batch {batch}", "", *_cell(rows), ""]
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


def _cells(rows: list[Row]) -> Iterator[tuple[tuple[int, int], list[Row]]]:
    for cell, own in groupby(rows, key=lambda row: (row["frames"], row["batch"])):
        yield cell, list(own)


def _cell(rows: list[Row]) -> list[str]:
    ran = [row for row in rows if "error" not in row]
    out = [f"- **{row['variant']}**: {row['sentence']}" for row in rows]
    read = ran[0]["read_ms"] if ran else None
    reading = "not measured: random pixels" if read is None else f"{_ms(read)} a video, on the CPU"
    out += ["", f"Decoding the video and making its pixels: {reading}.", ""]
    out += table(
        ["ms", "first token", "a token", "end to end", *PARTS],
        [[row["variant"], *(_ms(row["ms"][name]) for name in ("first_token", "decode_per_token", "end_to_end")),
          *(f"{row['parts_ms'][part]['median']:.1f}" for part in PARTS)] for row in ran],
    )  # fmt: skip
    compared = [row for row in ran if "speedup" in row]
    out += ["", *table(
        ["speed-up", "prefill", "predicted", "(causal)", "reached", "with stage 1", "layers alone", "first token",
         "predicted", "end to end", "predicted"],
        [[row["variant"], _x(row["speedup"]["prefill"]), f"{row['predicted']['prefill']:.2f}",
          f"{row['predicted']['prefill_causal']:.2f}", f"{row['reached']:.2f}",
          _x(row["speedup"]["prefill_with_stage1"]), _x(row["speedup"]["layers_alone"]),
          _x(row["speedup"]["first_token"]), f"{row['predicted']['first_token']:.2f}",
          _x(row["speedup"]["end_to_end"]), f"{row['predicted']['end_to_end']:.2f}"] for row in compared],
    )]  # fmt: skip
    out += ["", "What eats the difference in the decoder, in ms:", ""]
    out += [f"- {row['variant']}: {eaten(row['difference_ms'])}." for row in compared]
    out += ["", *table(
        ["tokens", "stage 1", "stage 2", "R1", "R2", "R_layer", "R_kv", "cache MB", "computed", "peak MB", "above"],
        [[row["variant"], f"{row['tokens']['after_stage1']:.0f}", f"{row['tokens']['after_stage2']:.0f}",
          *(f"{row[name]:.3f}" for name in ("R1", "R2", "R_layer", "R_kv")), _mb(row["cache_bytes"]["measured"]),
          _mb(row["cache_bytes"]["computed"]), _mb(row["memory"]["peak"]), _mb(row["memory"]["above"])] for row in ran],
    ), "", f"Memory: {ran[0]['memory']['how'] if ran else ''}.", ""]  # fmt: skip
    out += table(
        ["GFLOPs", "vision", "stage 1", "decoder", "(causal)", "stage 2", "output layer", "a token", "FastV GMACs",
         "FastVID GMACs"],
        [[row["variant"], *(_giga(value) for value in _flops(row["flops"]))] for row in ran],
    )  # fmt: skip
    return out


def _flops(flops: dict[str, Any]) -> list[int]:
    decoder = flops["decoder"]
    return [
        flops["vision"], flops["stage1"], decoder["total"], decoder["total_causal"], flops["stage2"],
        flops["lm_head"], flops["decode_step"], flops["macs_fastv"], flops["macs_fastvid"],
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
        [str(point["frames"]), str(point["tokens"]), str(point["after_stage1"]), _ms(_times(point["seconds"], 1000)),
         _mb(point["memory"]["above"]), _mb(point["input_bytes"])]
        for point in growth["points"]
    ]  # fmt: skip
    return [
        f"{growth['grid'][0]}x{growth['grid'][1]} tokens a position, C={growth['channels']}, {growth['dtype']}. Time "
        f"grows with the length to the power of {growth['exponent']:.2f} (1 is linear).",
        "",
        *table(["frames", "tokens", "left", "ms", "peak above the features, MB", "features, MB"], rows),
    ]


def _times(value: dict[str, Any], factor: float) -> dict[str, Any]:
    return {name: factor * value[name] for name in ("median", "low", "high")}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table in markdown: the first column to the left, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _ms(value: dict[str, Any]) -> str:
    return f"{value['median']:.1f} [{value['low']:.1f}, {value['high']:.1f}]"


def _x(value: dict[str, Any]) -> str:
    return f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _signed(value: dict[str, Any], factor: float = 1) -> str:
    return f"{factor * value['median']:+.2f} [{factor * value['low']:+.2f}, {factor * value['high']:+.2f}]"


def _mb(value: int | None) -> str:
    return "not measured" if value is None else f"{value / 1e6:.1f}"


def _giga(value: int) -> str:
    return f"{value / 1e9:.2f}" if value else "0"
