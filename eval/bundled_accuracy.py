"""Measure the bundled model on held-out videos: ``python eval/bundled_accuracy.py --help``.

Writes eval/results/bundled_accuracy_CONDITION.jsonl (a line for each question) and .json (the table). A stopped
measurement goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen import PruneVidQwen25VL, get_config
from prunevid_qwen.cli import run_script
from prunevid_qwen.evaluation.bundled_accuracy import FIRST_SEED, measure, package_answers, read_answers, summarise
from prunevid_qwen.evaluation.shapes.videos import CONDITIONS
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.receipt import versions

ROOT = Path(__file__).resolve().parents[1]


def main(
    videos: Annotated[int, typer.Option(help="Held-out scenes to ask about.")] = 200,
    model: Annotated[str, typer.Option(help="Folder of an exported model, or the bundled one.")] = "bundled",
    preset: Annotated[str, typer.Option(help="What is pruned: baseline prunes nothing.")] = "baseline",
    out: Annotated[Path | None, typer.Option(help="Path of the results without ending.")] = None,
    condition: Annotated[str, typer.Option(help=f"Kind of video: {', '.join(CONDITIONS)}.")] = "plain",
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Ask, then print and write the table."""
    torch.set_num_threads(threads)
    out = out or ROOT / "eval" / "results" / f"bundled_accuracy_{condition}"
    raw, began = out.with_suffix(".jsonl"), time.monotonic()
    kind = CONDITIONS[condition]
    config = replace(get_config(preset), max_frames=kind.frames, max_pixels=kind.height * kind.width)
    ask = package_answers(PruneVidQwen25VL(model, config, device="cpu", dtype="float32"))
    with typer.progressbar(length=videos, label="videos") as bar:
        measure(ask, videos, raw, kind, progress=lambda done: bar.update(done - bar.pos))
    table = summarise(read_answers(raw, videos))
    summary = {
        "what": "bundled model on held-out moving shapes, read from mp4 files; blank: the same length of grey",
        "preset": preset,
        "command": " ".join(["python", "eval/bundled_accuracy.py", *sys.argv[1:]]),
        "seeds": [FIRST_SEED, FIRST_SEED + videos - 1],
        "condition": asdict(kind),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": versions(),
        **surroundings(),
        "accuracy": table,
    }
    out.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n")
    for way, rows in table.items():
        for type_, row in rows.items():
            interval = " [{:.1%}, {:.1%}]".format(*row["interval"]) if row["interval"] else ""
            figures = f"{row['accuracy']:6.1%}{interval}  blank {row['blank']:6.1%}  n {row['n']}"
            typer.echo(f"{way:16s} {type_:10s} {figures}")


if __name__ == "__main__":
    run_script(main)
