"""The tables of docs/performance.md and README on the vision encoder's part of the time; a missing result says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.speed.encoder_findings import RECOMMENDED
from prunevid_qwen.evaluation.speed.encoder_page import error_lines, gains_table, rho_sentence
from prunevid_qwen.evaluation.speed.speed_page import table
from prunevid_qwen.evaluation.speed.video_contents import content_name
from research.ran import what_ran

CPU = {"7b_small": "encoder_7b_small", "3b_small": "encoder_3b_small"}
GPU = {"7b": "encoder_gpu_7b", "3b": "encoder_gpu_3b"}
"""Shape to folder of ``eval/results``, which holds ``efficiency.json``."""

RECORDING = "long_video_still.json"
SHOWN = ("recommended", "fast", "fewer frames")


def encoder_tables(results: Path) -> dict[str, list[str]]:
    """Return the blocks "encoder", "encoder on a GPU" and "recording" of docs/performance.md.

    Args:
        results: the folder ``eval/results``.
    """
    return {
        "encoder": _runs(results, CPU, "--device cpu --threads 2 --frames 32 --repeats 9"),
        "encoder on a GPU": _runs(results, GPU, ""),
        "recording": _recording(results / RECORDING),
    }


def encoder_speed(results: Path) -> str:
    """Return the block "encoder" of README: the time to the first token, by what stands still.

    Args:
        results: the folder ``eval/results``.
    """
    run = _read(results / CPU["7b_small"] / "efficiency.json")
    if run is None:
        return "Not measured yet on this page: `prunevid bench speed --only encoder` does it."
    cells = _cells(run)
    head = [f"first token, {cells[0]['frames']} frames", *(content_name(cell["content"]) for cell in cells)]
    names = [name for name in SHOWN if all(_of(cell, name) for cell in cells)]
    lines = [
        [f"`{name}`" if name != "fewer frames" else name, *(_gain(cell, name) for cell in cells)] for name in names
    ]
    return "\n".join(table(head, lines))


def _read(path: Path) -> Row | None:
    found: Row | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def _cells(run: Row) -> list[Row]:
    """Return the contents by what stands still, moving cameras last, in whatever order they were run."""
    return sorted(run["encoder"], key=lambda cell: (isinstance(cell["content"], str), cell["content"]))


def _of(cell: Row, name: str) -> Row | None:
    return next((row for row in cell["rows"] if row["variant"] == name and "speedup" in row), None)


def _gain(cell: Row, name: str) -> str:
    row = _of(cell, name)
    assert row is not None
    shown = f" ({row['frames_shown']})" if name == "fewer frames" else ""
    return f"{row['speedup']['first_token']['median']:.2f}x{shown}"


def _runs(results: Path, folders: dict[str, str], options: str) -> list[str]:
    said: list[str] = []
    for shape, folder in folders.items():
        run = _read(results / folder / "efficiency.json")
        if run is None:
            words = ("make gpu-bench",) if not options else (
                "prunevid bench speed --only encoder", f"--shape {shape}", options, f"--out eval/results/{folder}"
            )  # fmt: skip
            said += [f"`{shape}` was not run: `{' '.join(words)}` does it.", ""]
            continue
        cells = _cells(run)
        said += [f"`{shape}`: {what_ran(run)}", *run["noise"], "", *(f"- {rho_sentence(cell)}" for cell in cells), ""]
        said += [*gains_table(cells), "", *_slower(cells), *error_lines(cells), ""]
    return said[:-1]


def _slower(cells: list[Row]) -> list[str]:
    """Say what `fast` costs where nothing stands still."""
    found = [(cell, row) for cell in cells if (row := _of(cell, "fast")) and "over_recommended" in row]
    if not found:
        return []
    parts = [f"{content_name(cell['content'])} {100 * row['over_recommended']['median']:+.1f} %" for cell, row in found]
    return [f"Time to the first token of `fast` against `{RECOMMENDED}`, round by round: {', '.join(parts)}."]


def _recording(path: Path) -> list[str]:
    run = _read(path)
    if run is None:
        return [
            "Not run: `python -m research.long_video --fixed-camera --beside fast --rounds 3 --threads 2 "
            f"--out eval/results/{path.name}` does it."
        ]
    names: list[str] = list(run["encoders"])
    stock = names[0]
    encoders: dict[str, Any] = run["encoders"]
    rows = [
        ["visual tokens encoded", *(percent(encoders[name]["share"], 1) for name in names)],
        ["vision encoder, s", *(f"{encoders[name]['seconds']['median']:.1f}" for name in names)],
        ["of the stock encoder's time", *(percent(encoders[name]["of_stock"]["median"], 0) for name in names)],
        ["first token, s", *(f"{encoders[name]['first_token']['median']:.1f}" for name in names)],
        ["peak above the weights", *(f"{encoders[name]['peak_mib']:.0f} MiB" for name in names)],
        ["peak while reading and encoding", *(f"{encoders[name]['encoding_peak_mib']:.0f} MiB" for name in names)],
    ]
    head = [f"{run['frames']:,} frames of a fixed camera", *(f"{n} encoder" if n == stock else f"`{n}`" for n in names)]
    return [what_ran(run), "", *table(head, rows)]
