"""The tables of docs/performance.md, each from the committed raw results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.speed.speed_page import growth_table, overhead_table, table
from research.encoder_speed_page import encoder_tables
from research.ran import named_today, what_ran

SPEED, STAGE1, HOUR = "efficiency_cpu/efficiency.json", "stage1_speed.json", "long_video.json"

FAMILIES = ("efficiency_qwen3vl_cpu", "efficiency_llava_ov_cpu")

Row = dict[str, Any]


def performance_tables(results: Path) -> dict[str, str]:
    """Return every table of the page by name.

    Args:
        results: the folder ``eval/results``.
    """
    speed, stage1, hour = (json.loads((results / name).read_text(encoding="utf-8")) for name in (SPEED, STAGE1, HOUR))
    speed = named_today(speed)
    others = [json.loads((results / name / "efficiency.json").read_text(encoding="utf-8")) for name in FAMILIES]
    found = {
        "families run": [f"- {what_ran(each)} {' '.join(each['noise'])}".rstrip() for each in others],
        "families": _families(others),
        "speed run": [what_ran(speed)],
        "speed": _speed(speed["rows"]),
        "sentences": _sentences(speed["rows"]),
        "parts": _parts(speed["rows"]),
        "eaten": _eaten(speed["rows"]),
        "memory": _memory(speed["rows"]),
        "overhead": overhead_table(speed["overhead"]),
        "growth": growth_table(speed["growth"]),
        "stage 1 run": [what_ran(stage1)],
        "stage 1": _stage1(stage1["rows"]),
        "passes": _passes(stage1["rows"]),
        "hour": _hour(hour),
        **encoder_tables(results),
    }
    return {name: "\n".join(lines) for name, lines in found.items()}


def _compared(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "speedup" in row]


def _speed(rows: list[Row]) -> list[str]:
    head = ["frames", "", "tokens kept", "layer average", "prefill", "predicted", "reached", "first token", "a token",
            "end to end"]  # fmt: skip
    lines = [
        [str(row["frames"]), row["variant"], _percent(row["R2"]), _percent(row["R_layer"]),
         _times(row["speedup"]["prefill"]), f"{row['predicted']['prefill']:.2f}x", f"{row['reached']:.2f}",
         *(_times(row["speedup"][name]) for name in ("first_token", "decode_per_token", "end_to_end"))]
        for row in _compared(rows)
    ]  # fmt: skip
    return table(head, lines)


def _families(runs: list[Row]) -> list[str]:
    """Exact figures alone: these runs shared their cores."""
    head = ["shape", "", "visual tokens", "after stage 1", "after stage 2", "decoder GFLOPs", "vision GFLOPs",
            "prefill, predicted", "first token, predicted"]  # fmt: skip
    lines = [
        [run["options"]["shape"], row["variant"],
         *(f"{row['tokens'][name]:.0f}" for name in ("visual", "after_stage1", "after_stage2")),
         f"{row['flops']['decoder']['total'] / 1e9:.1f}", f"{row['flops']['vision'] / 1e9:.1f}",
         f"{row['predicted']['prefill']:.2f}x", f"{_by_flops(row, run['rows']):.2f}x"]
        for run in runs
        for row in _compared(run["rows"])
    ]  # fmt: skip
    return table(head, lines)


def _by_flops(row: Row, rows: list[Row]) -> float:
    """The stock model's FLOPs up to the first token, over this row's."""
    stock = next(each for each in rows if each["variant"] == "stock")
    whole, own = (
        sum(each["flops"][part] for part in ("vision", "stage1", "stage2", "lm_head"))
        + each["flops"]["decoder"]["total"]
        for each in (stock, row)
    )
    return float(whole / own)


def _sentences(rows: list[Row]) -> list[str]:
    return [f"- {row['frames']} frames, `{row['variant']}`: {row['sentence']}" for row in rows]


def _parts(rows: list[Row]) -> list[str]:
    names = ("vision", "stage1", "layers", "stage2", "stage3", "lm_head", "rest")
    head = ["frames", "", "first token, ms", *(name.replace("stage", "stage ") for name in names)]
    lines = [
        [str(row["frames"]), row["variant"], f"{row['ms']['first_token']['median']:.0f}",
         *(f"{row['parts_ms'][name]['median']:.1f}" for name in names)]
        for row in rows
        if "error" not in row
    ]  # fmt: skip
    return table(head, lines)


def _eaten(rows: list[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in _compared(rows) for name in row["difference_ms"]))
    lines = [
        [str(row["frames"]), row["variant"], *(f"{row['difference_ms'].get(name, 0.0):+.1f}" for name in names)]
        for row in _compared(rows)
    ]
    return table(["frames", "ms", *(name.replace("_", " ") for name in names)], lines)


def _memory(rows: list[Row]) -> list[str]:
    head = ["frames", "", "peak above before, MB", "cache, MB", "of the stock cache", "decoder GFLOPs", "vision GFLOPs",
            "stage 1 GFLOPs", "FastV GMACs"]  # fmt: skip
    lines = [
        [str(row["frames"]), row["variant"], f"{row['memory']['above'] / 1e6:.0f}",
         f"{row['cache_bytes']['measured'] / 1e6:.1f}", _percent(row["R_kv"]),
         *(f"{value / 1e9:.2f}" for value in (row["flops"]["decoder"]["total"], row["flops"]["vision"],
                                              row["flops"]["stage1"], row["flops"]["macs_fastv"]))]
        for row in rows
        if "error" not in row
    ]  # fmt: skip
    return table(head, lines)


def _stage1(rows: list[Row]) -> list[str]:
    head = ["T x H x W x C", "features", "tokens", "ours, ms", "plain loop, ms", "theirs, ms", "theirs / ours", "asked"]
    lines = [
        [_shape(row), row["features"], f"{row['tokens'][0]} to {row['tokens'][1]}", _quantiles(row["merge_video_ms"]),
         f"{row['plain_ms']['median']:.1f}", str(row["authors_ms"]), f"{row['times_faster_than_authors']:.1f}x",
         f"{row['authors_ms'] / row['target_ms']:.0f}x"]
        for row in rows
    ]  # fmt: skip
    return table(head, lines)


def _passes(rows: list[Row]) -> list[str]:
    largest = [row for row in rows if row["shape"] == rows[-1]["shape"]]
    names = list(largest[0]["passes_ms"])
    lines = [
        [row["features"], *(f"{row['passes_ms'][name]:.1f}" for name in names), f"{row['sum_of_passes_ms']:.1f}",
         f"{row['merge_video_ms']['median']:.1f}", f"{row['over_passes']:.2f}"]
        for row in largest
    ]  # fmt: skip
    return table(["ms", *names, "their sum", "stage 1", "ratio"], lines)


def _hour(run: Row) -> list[str]:
    seconds, memory, tokens = run["receipt"]["seconds"], run["memory"], run["receipt"]["tokens"]
    lines = [
        ["visual tokens", f"{tokens['visual']} to {tokens['after_stage1']} to {tokens['after_stage2']}"],
        ["peak above the weights", f"{memory['peak_above_weights_mib']:.0f} MiB"],
        ["stage 1's own peak", f"{memory['stage1_own_peak_mib']:.0f} MiB"],
        ["vision encoder", f"{seconds['vision']:.1f} s"],
        ["reading that the encoder did not hide", f"{seconds['read']:.1f} s"],
        ["reading alone", f"{run['read_alone_seconds']:.1f} s"],
        ["saved by doing both at once", f"{run['overlap_saved_seconds']:.1f} s"],
        ["stage 1", f"{seconds['merge']:.2f} s"],
        ["decoder over the prompt", f"{seconds['prefill']:.2f} s"],
        ["first token", f"{seconds['first_token']:.1f} s"],
    ]
    return [what_ran(run), "", *table(["3,600 frames at one a second", ""], lines)]


def _shape(row: Row) -> str:
    return " x ".join(str(size) for size in row["shape"])


def _percent(share: float) -> str:
    return percent(share, 1)


def _times(value: Row) -> str:
    return f"{value['median']:.2f}x"


def _quantiles(value: Row) -> str:
    return f"{value['median']:.1f} [{value['q20']:.1f}, {value['q80']:.1f}]"
