"""`prunevid estimate` against measured peaks: ``python -m research.estimate_memory`` writes a record of it.

The record is eval/results/estimate_memory.json. Models of random weights answer a prompt of random pixels in which
nothing stands still, each in a process of its own. There every block of memory of 64 KiB and more is the system's
(``MALLOC_MMAP_THRESHOLD_``), so that what a tensor gave back is not counted: on a GPU the allocator's own count is what
one compares with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from prunevid_qwen.cli import run_script
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.evaluation.estimate import PromptNumbers, estimate
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.speed.timed_run import peak_memory, timed_tokens
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.receipt import versions
from research.shapes_run import RESULTS, command_of

SHAPES = ("7b_small", "qwen3vl-8b_small")
FRAMES = (16, 32)
STOCK = "stock"
CONFIGS = (STOCK, "paper", "recommended+vision_chunk_tokens=280")
GRID = (10, 14)
RUNS = 3  # of each row; the middle one counts
TOLERANCE = 0.15
"""How far an estimate may be from the measured peak."""

_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def config_called(name: str) -> Any:
    """Return a config by its name; None for the stock model."""
    return None if name == STOCK else named_configs(name)[0][1]


def peak(shape: str, frames: int, name: str) -> int:
    """Return the bytes above weights and pixels that a prompt took at most, in this process."""
    torch.set_num_threads(1)
    model = build_model(shape_called(shape), torch.device("cpu"), torch.float32, "sdpa")
    form, config = form_of(model.config), config_called(name)
    for count in (2, frames):  # the first is not measured: what is made once is there
        inputs = make_inputs(PromptSize(count, *GRID, content="moving", form=form), model)
        with peak_memory(torch.device("cpu")) as found:
            timed_tokens(model, inputs, config, 2)
    return int(found["above"])


def measured(shape: str, frames: int, name: str) -> dict[str, Any]:
    """Measure a row in processes of its own, and lay the estimate beside it."""
    command = [sys.executable, "-m", "research.estimate_memory", "--row", f"{shape} {frames} {name}"]
    environment, peaks = {**os.environ, **_GIVEN_BACK}, list[int]()
    for _ in range(RUNS):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(int(done.stdout))
    above, expected = sorted(peaks)[RUNS // 2], estimated(shape, frames, name)
    return {"shape": shape, "frames": frames, "config": name, "measured": above, "runs": peaks, "estimated": expected,
            "off": round(expected / above - 1, 4)}  # fmt: skip


def estimated(shape: str, frames: int, name: str) -> int:
    """Return the estimate of the same bytes."""
    prompt = PromptNumbers(frames, *GRID, new_tokens=2)
    return estimate(shape_called(shape), config_called(name), prompt, bytes_each=4).memory.peak


def main(
    row: Annotated[str, typer.Option(help="Measure this row alone, in this process, and print its bytes.")] = "",
    out: Annotated[Path, typer.Option(help="The record.")] = RESULTS / "estimate_memory.json",
) -> None:
    """Measure every row and lay its estimate beside it."""
    if row:
        own, count, config = row.split(" ")
        typer.echo(peak(own, int(count), config))
        return
    about, rows = surroundings(), []
    for shape in SHAPES:
        for frames in FRAMES:
            for name in CONFIGS:
                rows.append(measured(shape, frames, name))
                typer.echo(json.dumps(rows[-1]), err=True)
    record = {
        "what": "bytes above weights and pixels at the fullest moment of a prompt, estimated and measured",
        "command": command_of("research.estimate_memory"),
        "grid": list(GRID),
        "dtype": "float32",
        "environment": _GIVEN_BACK,
        "how": "peak resident size of the process (VmHWM), reset before the run",
        "rows": rows,
        "hardware": hardware("cpu"),
        "versions": versions(),
        **about,
    }
    out.write_text(json_text(record), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
