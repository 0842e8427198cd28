"""Measure the bundled model on held-out videos: ``python eval/bundled_accuracy.py --help``.

Writes eval/results/bundled_accuracy.jsonl (a line for each question) and bundled_accuracy.json (the table). A stopped
measurement goes on where it was.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen import PruneVidQwen25VL, get_config
from prunevid_qwen.evaluation.bundled_accuracy import FIRST_SEED, measure, package_answers, read_answers, summarise

ROOT = Path(__file__).resolve().parents[1]


def main(
    videos: Annotated[int, typer.Option(help="Held-out scenes to ask about.")] = 200,
    model: Annotated[str, typer.Option(help="Folder of an exported model, or the bundled one.")] = "bundled",
    preset: Annotated[str, typer.Option(help="What is pruned: baseline prunes nothing.")] = "baseline",
    out: Annotated[Path, typer.Option(help="Path of the results without ending.")] = (
        ROOT / "eval" / "results" / "bundled_accuracy"
    ),
    frames: Annotated[int, typer.Option(help="Frames sampled from each video.")] = 16,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Ask, then print and write the table."""
    torch.set_num_threads(threads)
    raw, began = out.with_suffix(".jsonl"), time.monotonic()
    config = replace(get_config(preset), max_frames=frames)
    ask = package_answers(PruneVidQwen25VL(model, config, device="cpu", dtype="float32"))
    with typer.progressbar(length=videos, label="videos") as bar:
        measure(ask, videos, raw, progress=lambda done: bar.update(done - bar.pos))
    table = summarise(read_answers(raw, videos))
    summary = {
        "what": "bundled model on held-out moving shapes, read from mp4 files; blank: the same length of grey",
        "preset": preset,
        "command": " ".join(["python", "eval/bundled_accuracy.py", *sys.argv[1:]]),
        "seeds": [FIRST_SEED, FIRST_SEED + videos - 1],
        "frames": frames,
        "minutes": round((time.monotonic() - began) / 60, 1),
        **_surroundings(),
        "accuracy": table,
    }
    out.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n")
    for way, rows in table.items():
        for kind, row in rows.items():
            interval = " [{:.1%}, {:.1%}]".format(*row["interval"]) if row["interval"] else ""
            figures = f"{row['accuracy']:6.1%}{interval}  blank {row['blank']:6.1%}  n {row['n']}"
            typer.echo(f"{way:16s} {kind:10s} {figures}")


def _surroundings() -> dict[str, Any]:
    """Versions, commit and machine."""
    import av
    import numpy
    import transformers

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    cpu = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "av": av.__version__,
            "numpy": numpy.__version__,
        },
        "commit": run("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(run("git", "status", "--porcelain", "--untracked-files=no", "prunevid_qwen")),
        "machine": f"{platform.machine()}, {len(cpu)} x {cpu[0] if cpu else platform.processor()}",
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    typer.run(main)
