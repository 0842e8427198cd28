"""Twenty questions about one video: ``python -m research.twenty_questions`` writes eval/results/twenty_questions.json.

A model with random weights is asked under ``paper``, to one token each: two fresh calls, twenty calls over one encoded
video and one prefix, and one batch of twenty. Each runs in a process of its own, which says how long it took, the
vision encoder included, and how much memory the process had at most.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from prunevid_qwen.cli import run_script
from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.forward.prefix import Prefixes
from prunevid_qwen.receipt import versions
from research.session_speed import Asked
from research.shapes_run import RESULTS, command_of

QUESTIONS = 20
WAYS = ("two fresh calls", "twenty calls of a session", "one batch of twenty")
_KIB = 1024


def ask(way: str, shape: str, frames: int, preset: str) -> dict[str, Any]:
    """Ask in one of `WAYS`, in this process."""
    asked, config = Asked(shape, frames, 0.5), get_config(preset)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB
    if way == WAYS[0]:
        seconds = sum(asked.seconds(asked.question(held=False), config) for _ in range(2))
    elif way == WAYS[1]:
        prefixes = Prefixes()
        seconds = asked.encoding + sum(
            asked.seconds(asked.question(held=True), config, prefixes) for _ in range(QUESTIONS)
        )
    else:
        rows = [asked.question(held=True) for _ in range(QUESTIONS)]
        together = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        seconds = asked.encoding + asked.seconds(together, config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB
    return {"way": way, "seconds": round(seconds, 3), "peak_mib": round(peak, 1), "before_mib": round(before, 1)}


def main(
    way: Annotated[str, typer.Option(help="Ask in one way alone, and print what it took.")] = "",
    shape: Annotated[str, typer.Option(help="Of prunevid bench speed.")] = "7b_small",
    frames: Annotated[int, typer.Option(min=2, help="Frames of 10 x 14 tokens each two.")] = 32,
    preset: Annotated[str, typer.Option(help="A preset.")] = "paper",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 2,
    out: Annotated[Path, typer.Option(help="The record.")] = RESULTS / "twenty_questions.json",
) -> None:
    """Ask in every way, each in a process of its own, and write what they took."""
    torch.set_num_threads(threads)
    if way:
        typer.echo(json.dumps(ask(way, shape, frames, preset)))
        return
    about, found = surroundings(), []
    for each in WAYS:
        words = [
            "--way",
            each,
            "--shape",
            shape,
            "--frames",
            str(frames),
            "--preset",
            preset,
            "--threads",
            str(threads),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "research.twenty_questions", *words], check=True, stdout=subprocess.PIPE, text=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    record = {
        "what": "twenty questions about one video under a preset: seconds to all first tokens, and memory",
        "command": command_of("research.twenty_questions"),
        "shape": shape,
        "frames": frames,
        "preset": preset,
        "ways": found,
        "hardware": hardware("cpu"),
        "versions": versions(),
        **about,
    }
    out.write_text(json_text(record), encoding="utf-8")
    typer.echo(json_text(found))


if __name__ == "__main__":
    run_script(main)
