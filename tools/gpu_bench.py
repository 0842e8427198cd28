"""Measure on a GPU everything that docs/performance.md can show of one: ``make gpu-bench``; raw JSON in eval/results.

Uses the Python that runs it and installs nothing. A part is a run of ``prunevid bench speed`` with a folder of its own;
a part that was stopped goes on where it was. Ends with the exit code of the first part that failed, after all have run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GPU = ("--device", "cuda", "--dtype", "bfloat16", "--frames", "32,128")
ENCODER = ("--only", "encoder", "--repeats", "9", "--new_tokens", "2")
FLASH = "flash_attn"  # of which transformers makes its flash_attention_2


class Part(NamedTuple):
    """A run of the speed benchmark: its folder in the results, its options, a library that it needs."""

    folder: str
    options: tuple[str, ...]
    needs: str = ""


PARTS = (
    Part("efficiency_gpu", ("--shape", "7b")),
    Part("encoder_gpu_7b", ("--shape", "7b", *ENCODER)),
    Part("encoder_gpu_3b", ("--shape", "3b", *ENCODER)),
    # the stock tower with flash-attention, beside the windows in batches of the part before
    Part("encoder_gpu_7b_flash", ("--shape", "7b", *ENCODER, "--attn_implementation", "flash_attention_2"), FLASH),
)


def commands(results: Path, more: list[str]) -> tuple[list[list[str]], list[str]]:
    """Return what is to be run, and why anything is not.

    Args:
        results: folder of the parts' folders.
        more: options of all parts.
    """
    runs, without = [], []
    for part in PARTS:
        if part.needs and importlib.util.find_spec(part.needs) is None:
            without.append(f"{part.folder}: not run, {part.needs} is not installed")
            continue
        words = [sys.executable, str(ROOT / "eval" / "efficiency.py"), *part.options, *GPU]
        runs.append([*words, "--out", str(results / part.folder), *more])
    return runs, without


def main() -> int:
    """Run every part and say what came of it; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "eval" / "results", help="folder of the results")
    given, more = parser.parse_known_args()
    runs, without = commands(given.out, more)
    told, worst = [], 0
    for words in runs:
        print(" ".join(words), flush=True)
        code = subprocess.run(words, cwd=ROOT, check=False).returncode
        told.append({"command": " ".join(words), "exit_code": code})
        worst = worst or code
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu_bench.json").write_text(json.dumps({"ran": told, "not_run": without}, indent=1) + "\n")
    print("\n".join(without))
    return worst


if __name__ == "__main__":
    sys.exit(main())
