"""Accuracy of every method at equal cost, on generated videos: ``python eval/moving_shapes.py --help``.

The same as ``prunevid bench accuracy --pack``, with the results under runs/, which git ignores. What is
committed was written with ``--out eval/results/moving_shapes``; ``--against`` that folder compares with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout without installing

from prunevid_qwen.cli import main

RUNS = Path(__file__).resolve().parents[1] / "runs"

if __name__ == "__main__":  # worker processes import this file too
    folder = RUNS / ("moving_shapes_quick" if "--quick" in sys.argv else "moving_shapes")
    sys.exit(main(["bench", "accuracy", "--out", str(folder), "--pack", *sys.argv[1:]]))
